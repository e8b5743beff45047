"""A graph as torch operations on a run of elements, for where nothing can be compiled.

Everything is written into memory that is there already: columns of the run, which are read and
written, and registers, which are used again as soon as nobody reads them. A product with a scalar
that is added to something is one operation with its sum, as is that of two arrays, or a quotient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ir.errors import CannotFuseError
from ..ir.expression import BINARY, UNARY
from ..ir.graph import FLOATS, Graph, Input, Node
from ..ir.places import columns

_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_CALLS: dict[str, Callable[..., Any]] = {
    **{op: getattr(torch, op) for op in (*UNARY, *BINARY) if op not in ("max", "min")},
    **{op: getattr(torch, op) for op in (*_COMPARISONS, "add", "sub", "mul", "div", "neg")},
    **{op: getattr(torch, f"logical_{op}") for op in ("and", "or", "xor", "not")},
    **{"max": torch.maximum, "min": torch.minimum, "where": torch.where},
    **{"cast": Tensor.copy_, "fill": Tensor.copy_},
}
_LOW = ("bfloat16", "float16")


class Place(NamedTuple):
    """Where a value lies: an entry of "column", "register", "scalar" or "const"."""

    space: str
    entry: int


class Operation(NamedTuple):
    """One torch operation.

    Attributes:
        call: takes the arguments, ``out`` and ``factor`` as a keyword.
        out: where the result goes.
        args: where the arguments are.
        factor: name of the keyword for a scalar, "" without one.
        scalar: where that is.
        sign: what it is multiplied with.
    """

    call: Callable[..., Any]
    out: Place
    args: tuple[Place, ...]
    factor: str = ""
    scalar: Place | None = None
    sign: float = 1.0


class Program:
    """The operations of a graph.

    Attributes:
        operations: in order.
        registers: their dtypes.
        columns: of the run: where each comes from or goes to, and its dtype.
        scalars: nodes whose values the operations take, with the dtypes.
        consts: 0-d tensors.
        written: columns that hold results.

    Raises:
        CannotFuseError: the graph is not pointwise.
    """

    def __init__(self, graph: Graph) -> None:
        _refuse_others(graph)
        self.graph = graph
        self.nodes = graph.nodes
        self.operations: list[Operation] = []
        self.registers: list[torch.dtype] = []
        self.scalars: list[tuple[int, torch.dtype]] = []
        self.consts: list[Tensor] = []
        dtypes = {n.value: n.dtype for n in self.nodes if n.op == "input" and n.element}
        outputs = [(t, i) for t, i in graph.outputs if self.nodes[i].element]
        dtypes |= {target: self.nodes[i].dtype for target, i in outputs}
        self.columns = {at: getattr(torch, dtypes[at]) for at in columns(graph) if at in dtypes}
        self._column = {at: Place("column", k) for k, at in enumerate(self.columns)}
        self.written = [self._column[target].entry for target, _ in outputs]
        self._free: dict[torch.dtype, list[int]] = {}
        self._places: dict[int, Place] = {}
        self._uses = self._count()
        self._write(outputs)

    # -- what is one operation -----------------------------------------------------------------

    def _count(self) -> list[int]:
        uses = [0] * len(self.nodes)
        for node in self.nodes:
            for a in node.args:
                uses[a] += 1
        for _, i in self.graph.outputs:
            uses[i] += 1
        return uses

    def _wide(self, i: int, dtype: str) -> bool:
        """Whether a node is an array in this dtype, computed without rounding between."""
        node = self.nodes[i]
        return node.element and node.dtype == dtype and dtype not in _LOW

    def _scaled(self, i: int, dtype: str) -> tuple[int, int] | None:
        """The array and the scalar of a product that nobody else needs."""
        node = self.nodes[i]
        if node.op != "mul" or self._uses[i] > 1 or not self._wide(i, dtype):
            return None
        for array, scalar in (node.args, node.args[::-1]):
            if self._wide(array, dtype) and not self.nodes[scalar].element:
                return array, scalar
        return None

    def _inside(self, i: int) -> tuple[str, tuple[int, ...], int | None, float, list[int]] | None:
        """A sum as one operation: its name, arrays, scalar, sign, and the nodes that are in it."""
        node = self.nodes[i]
        if node.op not in ("add", "sub") or not self._wide(i, node.dtype):
            return None
        orders = [node.args] if node.op == "sub" else [node.args[::-1], node.args]
        sign = -1.0 if node.op == "sub" else 1.0
        # A quotient or product of arrays first: that saves a register, too.
        for op, name in (("div", "addcdiv"), ("mul", "addcmul")):
            for rest, term in orders:
                if not self._wide(rest, node.dtype) or term == rest:
                    continue
                found = self._product(term, op, node.dtype)
                if found is not None:
                    arrays, scalar, gone = found
                    return name, (rest, *arrays), scalar, sign, gone
        for rest, term in orders:
            scaled = self._scaled(term, node.dtype)
            if scaled is not None and term != rest:
                return node.op, (rest, scaled[0]), scaled[1], 1.0, [term]
        return None

    def _product(
        self, term: int, op: str, dtype: str
    ) -> tuple[tuple[int, int], int | None, list[int]] | None:
        """Two arrays under one operation, a scalar they are multiplied with, what is in it."""
        gone, scalar = [term], None
        scaled = self._scaled(term, dtype)
        if scaled is not None:
            term, scalar = scaled
            gone.append(term)
        node = self.nodes[term]
        if node.op != op or self._uses[term] > 1 or not self._wide(term, dtype):
            return None
        a, b = node.args
        if op == "div" and scalar is None:
            scaled = self._scaled(a, dtype)
            if scaled is not None:
                gone.append(a)
                a, scalar = scaled
        if not (self._wide(a, dtype) and self._wide(b, dtype)):
            return None
        return (a, b), scalar, gone

    # -- operations ----------------------------------------------------------------------------

    def _write(self, outputs: Sequence[tuple[Input, int]]) -> None:
        joined: dict[int, Any] = {}
        gone: set[int] = set()
        for i in reversed(range(len(self.nodes))):  # what is in a sum cannot be one of its own
            found = None if i in gone else self._inside(i)
            if found is not None:
                joined[i] = found
                gone.update(found[4])
        order = [i for i, n in enumerate(self.nodes) if n.element and i not in gone]
        reads = {i: joined[i][1] if i in joined else self.nodes[i].args for i in order}
        last = {a: at for at, i in enumerate(order) for a in (i, *reads[i])}
        end = len(order)
        last |= {i: end for _, i in outputs}
        source = {self.nodes[i].value: i for i in order if self.nodes[i].op == "input"}
        direct: dict[int, Place] = {}
        for target, i in outputs:
            node, old = self.nodes[i], source.get(target)
            at = order.index(i)
            done = old is None or max(last[old], at) == at
            if done and node.op != "input" and node.dtype not in _LOW and i not in direct:
                direct[i] = self._column[target]
        kept = {i for _, i in outputs}
        for at, i in enumerate(order):
            read = [a for a in dict.fromkeys(reads[i]) if last[a] == at and self.nodes[a].element]
            if self.nodes[i].op == "input":
                self._load(i, i in kept)
            elif i in joined:
                self._sum(i, joined[i], direct.get(i), read)
            else:
                self._single(i, direct.get(i), read)
        for target, i in outputs:
            if direct.get(i) != self._column[target]:
                self._add(Tensor.copy_, self._column[target], (self._places[i],))

    def _type(self, i: int) -> torch.dtype:
        """The dtype in which an array is computed."""
        return {"float64": torch.float64, "bool": torch.bool}.get(
            self.nodes[i].dtype, torch.float32
        )

    def _add(self, call: Any, out: Place, args: tuple[Place, ...], *factor: Any) -> None:
        self.operations.append(Operation(call, out, args, *factor))

    def _register(self, dtype: torch.dtype) -> Place:
        free = self._free.setdefault(dtype, [])
        if not free:
            free.append(len(self.registers))
            self.registers.append(dtype)
        return Place("register", free.pop())

    def _release(self, nodes: Iterable[int]) -> None:
        """What nobody reads after this operation, which may write over it."""
        for i in nodes:
            self._give_back(self._places[i])

    def _give_back(self, place: Place) -> None:
        if place.space == "register":
            self._free[self.registers[place.entry]].append(place.entry)

    def _load(self, i: int, kept: bool) -> None:
        own, column = self._type(i), self._column[self.nodes[i].value]
        if self.columns[self.nodes[i].value] == own and not kept:
            self._places[i] = column
            return
        self._places[i] = self._register(own)
        self._add(Tensor.copy_, self._places[i], (column,))

    def _operand(self, a: int, dtype: torch.dtype, extra: list[Place]) -> Place:
        """An argument in the dtype of an operation; ``extra`` is for what it takes."""
        node = self.nodes[a]
        if node.op == "const":
            value = torch.tensor(node.value, dtype=torch.float64, device="cpu").to(dtype)
            self.consts.append(value)
            return Place("const", len(self.consts) - 1)
        if not node.element:
            return self._scalar(a, dtype)
        own = self._places[a]
        if self._type(a) == dtype:
            return own
        place = self._register(dtype)
        extra.append(place)
        if dtype == torch.bool:
            self.consts.append(torch.zeros((), dtype=self._type(a), device="cpu"))
            self._add(torch.ne, place, (own, Place("const", len(self.consts) - 1)))
        else:
            self._add(Tensor.copy_, place, (own,))
        return place

    def _scalar(self, a: int, dtype: torch.dtype) -> Place:
        if (a, dtype) not in self.scalars:
            self.scalars.append((a, dtype))
        return Place("scalar", self.scalars.index((a, dtype)))

    def _sum(self, i: int, found: Any, out: Place | None, read: list[int]) -> None:
        name, arrays, scalar, sign, _ = found
        own, extra = self._type(i), list[Place]()
        args = tuple(self._operand(a, own, extra) for a in arrays)
        factor = None if scalar is None else self._operand(scalar, torch.float64, extra)
        self._release(read)
        for place in extra:
            self._give_back(place)
        self._places[i] = out or self._register(own)
        keyword = "alpha" if name in ("add", "sub") else "value"
        self._add(getattr(torch, name), self._places[i], args, keyword, factor, sign)

    def _single(self, i: int, out: Place | None, read: list[int]) -> None:
        node, own, extra = self.nodes[i], self._type(i), list[Place]()
        inner = [own] * len(node.args)
        if node.op in _COMPARISONS:
            inner = [torch.float64 if node.value == "float64" else torch.float32] * 2
        elif node.op == "where":
            inner[0] = torch.bool
        args = tuple(self._operand(a, d, extra) for a, d in zip(node.args, inner, strict=True))
        self._release(read)
        for place in extra:
            self._give_back(place)
        place = self._places[i] = out or self._register(own)
        self._add(_CALLS[node.op], place, args)
        if node.dtype in _LOW:
            low = self._register(getattr(torch, node.dtype))
            self._add(Tensor.copy_, low, (place,))
            self._add(Tensor.copy_, place, (low,))
            self._give_back(low)


def _refuse_others(graph: Graph) -> None:
    for node in graph.nodes:
        known = node.op in _CALLS or node.op in ("input", "const", "numel")
        if graph.view is not None or node.form not in ("element", "scalar") or not known:
            raise CannotFuseError(node.member, f"{node.op} is not pointwise")
        dtype = node.value if node.op in _COMPARISONS else node.dtype
        if node.element and dtype not in (*FLOATS, "bool"):
            raise CannotFuseError(node.member, f"{node.op} of {dtype}")


def evaluate(graph: Graph, given: Callable[[Node], Tensor]) -> dict[int, Tensor]:
    """The scalars of a graph for several leaves at once, as vectors or 0-d tensors.

    Floats are computed in float64 and rounded where they are cast, whole numbers in int64.

    Args:
        graph: the graph.
        given: the values of an input, or of a size.
    """
    values: dict[int, Tensor] = {}
    for i, node in enumerate(graph.nodes):
        if node.element:
            continue
        own = _scalar_type(node.dtype)
        inner = [own] * len(node.args)
        if node.op in _COMPARISONS:
            inner = [_scalar_type(node.value)] * 2
        elif node.op == "where":
            inner[0] = torch.bool
        args = [values[a].to(d) for a, d in zip(node.args, inner, strict=True)]
        if node.op in ("input", "numel"):
            x = given(node)
        elif node.op == "const":
            x = torch.tensor(node.value, dtype=own, device="cpu")
        elif node.op in ("cast", "fill"):
            x = args[0]
            if node.dtype == "float32":
                x = x.float()
        elif node.op == "pow":
            x = torch.pow(*(a.double() for a in args))
        else:
            x = _CALLS[node.op](*args)
        if node.dtype in _LOW:
            x = x.to(getattr(torch, node.dtype))
        values[i] = x.to(own)
    return values


def _scalar_type(dtype: str) -> torch.dtype:
    if dtype == "bool":
        return torch.bool
    return torch.float64 if dtype in FLOATS else torch.int64
