"""Note torch operations as graph nodes while they run on one leaf."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..ir.errors import CannotFuseError
from ..ir.graph import BLOCKS, MOST, Input, Node, needed
from ..ir.view import Shape
from . import lower
from .rules import Spec
from .specialize import current_member


class Tracer(TorchDispatchMode):
    """The nodes of what runs while the mode is on.

    A leaf of one element is all scalars. Where an operation sees the leaf as a matrix, of which
    something is kept per row or per column, all other operations have to see the same matrix.

    Args:
        shape: of the leaf.

    Attributes:
        nodes: what was noted.
        matrix: rows and columns of that matrix, None as long as there is none.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.numel = self.shape.numel()
        self.nodes: list[Node] = []
        self.matrix: tuple[int, int] | None = None
        self._known: dict[int, tuple[Tensor, int]] = {}
        self._matrix_of: dict[int, tuple[int, int]] = {}
        self._markers: dict[str, int] = {}
        self._blocks = False
        self._steps: dict[int, int] = {}  # of slices, by their length

    def input(
        self, x: Tensor, where: Input, form: str, matrix: tuple[int, int] | None = None
    ) -> Tensor:
        """Declare an input.

        Args:
            x: its value.
            where: what it is.
            form: "leaf", "scalar", "row", "column", "bits" or "array".
            matrix: as what its member sees the leaf; claimed when the input is used.
        """
        if form != "array" and (form == "leaf" or self.numel == 1):
            form = "scalar" if self.numel == 1 else "element"
        at = self._append(Node("input", (), _name(x.dtype), form, where))
        if matrix is not None and form != "scalar":
            self._matrix_of[at] = matrix
        self._remember(x, at)
        return x

    def output(self, x: Tensor, form: str, matrix: tuple[int, int] | None = None) -> int:
        """The node of what replaces a tensor of some form; scalars are spread out."""
        at = self._peek(x)
        if form == "leaf":
            form = "element"
        if self.numel == 1 or self.nodes[at].form == form or self.nodes[at].each is not None:
            return at  # what there is one of for so many elements has the size of what it replaces
        if self.nodes[at].form != "scalar" or form in ("bits", "array"):
            raise CannotFuseError("", f"a {form} changes to a {self.nodes[at].form}")
        if matrix is not None:
            self._claim(matrix)
        return self._append(Node("fill", (at,), self.nodes[at].dtype, form))

    def form(self, x: Tensor) -> str:
        """The form of what was noted."""
        return self.nodes[self._peek(x)].form

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
            raise self.refuse(f"changes a tensor in place ({func})")
        if func is torch.ops.aten._local_scalar_dense.default:
            raise self.refuse("branches on a tensor's value or reads it on the host")
        out = func(*args, **kwargs)
        if func is torch.ops.aten.lift_fresh.default and id(args[0]) not in self._known:
            self._lift(args[0])
        if not isinstance(out, Tensor) and not any(isinstance(a, Tensor) for a in args):
            return out  # a question about dtypes
        rule = lower.find(func)
        results = out if isinstance(out, tuple) else (out,)
        if rule is None or not all(isinstance(x, Tensor) for x in results):
            raise self.refuse(f"{func} has no fused form")
        for x in results:
            self._remember(x, rule(self, x, args, kwargs))
            self._check_shapes(func, args, x)
        return out

    def marker(self, op: str, x: Tensor) -> Tensor:
        """Combine a scalar over all leaves of the tree."""
        member = current_member()
        ordinal = self._markers.get(member, 0)
        self._markers[member] = ordinal + 1
        out = x.detach()
        at = self.node(x)
        if self.nodes[at].many:
            raise self.refuse("reduces something over the tree that is no scalar")
        key = (member, ordinal)
        node = Node(op, (at,), _wide(self.nodes[at].dtype), "scalar", key, member)
        self._remember(out, self.add("cast", (self._append(node),), x.dtype))
        return out

    # -- what rules use (rules.Recorder) -----------------------------------------------------

    def node(self, value: Any) -> int:
        if isinstance(value, Tensor):
            at = self._peek(value)
            if self.nodes[at].form == "array" and value.ndim == 1 and len(value) in self._steps:
                return self._state(value, f"slice {self._steps[len(value)]}")
            if self.nodes[at].form == "array" or self.nodes[at].block is not None:
                raise self.refuse("has a state that is no scalar, leaf, row or column")
            if at in self._matrix_of:
                self._claim(self._matrix_of[at])
            return at
        if not isinstance(value, (bool, int, float)):
            raise self.refuse(f"uses a {type(value).__name__} as a number")
        dtype = {bool: "bool", int: "int64"}.get(type(value), "float64")
        return self._append(Node("const", (), dtype, "scalar", value))

    def add(self, op: str, args: tuple[int, ...], dtype: torch.dtype, value: Any = None) -> int:
        if op == "cast" and self._is_exact(args[0], dtype):
            return args[0]
        forms = {self.nodes[a].form for a in args} - {"scalar"}
        if "bits" in forms:
            raise self.refuse("computes with packed bits")
        if len(forms) > 1 and any(self.nodes[a].step is not None for a in args):
            raise self.refuse("combines part of a tensor with something else")
        form = forms.pop() if len(forms) == 1 else "element" if forms else "scalar"
        return self._append(Node(op, args, _name(dtype), form, value, current_member()))

    def fill(self, number: Any, out: Tensor, like: Tensor | None = None) -> int:
        const = self.node(number)
        if like is not None and like.shape == out.shape:
            form = self.nodes[self.node(like)].form
        else:
            form = self._form_of(out)
        if form == "scalar":
            return self.add("cast", (const,), out.dtype)
        return self._append(Node("fill", (const,), _name(out.dtype), form, None, current_member()))

    def reduction(self, op: str, x: int, source: Tensor, out: Tensor, dims: Any) -> int:
        form = self.nodes[x].form
        if form == "scalar" or (source.ndim and out.numel() == source.numel() and out.ndim):
            return x
        if op != "sum" and "float" not in self.nodes[x].dtype:
            raise self.refuse(f"takes the {op} of integers")
        dtype = self.nodes[x].dtype
        if out.numel() == 1:
            over, form = "leaf", "scalar"
            dtype = _wide(dtype) if op == "sum" else dtype
        elif form == "element":
            over = form = self._reduced(source.shape, {d % source.ndim for d in dims or ()})
            if op == "sum":
                dtype = {"float64": "float64"}.get(
                    dtype, "float32" if "float" in dtype else "int64"
                )
        else:
            raise self.refuse(f"reduces {form}s over some dimensions only")
        return self._append(Node(f"{over}_{op}", (x,), dtype, form, None, current_member()))

    def count(self, source: Tensor, out: Tensor) -> int:
        at = self.node(source)
        form = self.nodes[at].form
        if form == "scalar":
            return self.node(1)
        if self.nodes[at].step is not None:
            raise self.refuse("takes the mean of part of a tensor")
        if out.numel() == 1:
            size = {"row": "rows", "column": "columns"}.get(form, "numel")
        else:
            assert self.matrix is not None
            size = "columns" if out.numel() == self.matrix[0] else "rows"
        return self._append(Node(size, (), "int64", "scalar"))

    def pack(self, x: Tensor) -> int:
        if self.numel == 1:
            positive = self.add("gt", (self.node(x), self.node(0)), torch.bool, _name(x.dtype))
            return self.add("cast", (positive,), torch.uint8)
        at = self.node(x)
        if self.nodes[at].form != "element":
            raise self.refuse("packs signs of something that is no matrix of elements")
        self._claim((x.shape[0], x.shape[1]))
        return self._append(Node("pack_signs", (at,), "uint8", "bits", None, current_member()))

    def unpack(self, bits: Tensor, out: Tensor) -> int:
        at = self.node(bits)
        if self.numel == 1:
            return self.add("cast", (at,), torch.bool)
        if self.nodes[at].form != "bits" or self.nodes[at].op != "input":
            raise self.refuse("unpacks signs that are no state")
        self._claim((out.shape[0], out.shape[1]))
        return self._append(Node("unpack_signs", (at,), "bool", "element", None, current_member()))

    def decode(self, codes: Tensor, scale: Tensor, out: Tensor, spec: Spec) -> int:
        bits, block, _ = spec
        self._cut(out, block)
        args = (self._state(codes, f"every {8 // bits}"), self._state(scale, f"every {block}"))
        node = Node("block_decode", args, "float32", "element", spec, current_member())
        return self._append(node)

    def encode(self, x: Tensor, out: Tensor, spec: Spec) -> int:
        bits, block, _ = spec
        self._cut(x, block)
        source = self.add("cast", (self.node(x),), torch.float32)
        if self.nodes[source].form == "scalar":
            source = self._append(Node("fill", (source,), "float32", "element"))
        if self.nodes[source].form != "element":
            raise self.refuse(f"has codes of {self.nodes[source].form}s")
        op, each = ("scale", block) if out.dtype == torch.float32 else ("codes", 8 // bits)
        form = f"every {each}"
        node = Node(f"block_{op}", (source,), _name(out.dtype), form, spec, current_member())
        return self._append(node)

    def every(self, x: Tensor, step: int, out: Tensor) -> int:
        at = self.node(x)
        if self.nodes[at].form != "element" or self._steps.setdefault(len(out), step) != step:
            raise self.refuse("uses part of a tensor")
        for i in needed(self.nodes, [at]):
            node = self.nodes[i]
            if node.form not in ("element", "scalar") or node.op in BLOCKS:
                raise self.refuse(f"uses part of a tensor that depends on {node.form}s")
        node = Node("slice", (at,), _name(out.dtype), f"slice {step}", None, current_member())
        return self._append(node)

    def draw(self, key: Tensor, out: Tensor, numbers: Sequence[Tensor] = ()) -> int:
        if out.numel() != self.numel:
            raise self.refuse("draws more or fewer random numbers than there are elements")
        form = "scalar" if self.numel == 1 else "element"
        args = (self.pick(key, 0), self.pick(key, 1), *map(self.node, numbers))
        if any(self.nodes[a].many for a in args):
            raise self.refuse("numbers elements by something that is no scalar")
        return self._append(Node("random16", args, "int32", form, None, current_member()))

    def pick(self, pair: Tensor, index: int) -> int:
        node = self.nodes[self._peek(pair)]
        if node.op == "pair":
            return node.args[index]
        if node.op != "input" or node.form != "array" or pair.shape != (2,):
            raise self.refuse("uses part of a tensor")
        if node.dtype != "int64":
            raise self.refuse("has a pair of numbers that are no int64")
        where = replace(node.value, name=str(index))
        return self._append(Node("input", (), node.dtype, "scalar", where))

    def pair(self, first: Tensor, second: Tensor) -> int:
        args = (self.node(first), self.node(second))
        if {(self.nodes[a].form, self.nodes[a].dtype) for a in args} != {("scalar", "int64")}:
            raise self.refuse("makes a pair of what is no int64 scalar")
        return self._append(Node("pair", args, "int64", "array"))

    def refuse(self, reason: str) -> CannotFuseError:
        return CannotFuseError(current_member(), reason)

    # -- forms -------------------------------------------------------------------------------

    def _claim(self, matrix: tuple[int, int]) -> None:
        """Everything must see the same matrix."""
        if self.matrix not in (None, matrix):
            raise self.refuse("sees the leaf as another matrix than something before it")
        if self._blocks:
            raise self.refuse("sees the leaf as a matrix, something before it as blocks")
        self.matrix = matrix

    def _cut(self, x: Tensor, block: int) -> None:
        """The flat leaf is cut into blocks."""
        if self.matrix is not None:
            raise self.refuse("sees the leaf as blocks, something before it as a matrix")
        if self.numel == 1 or x.numel() != self.numel:
            raise self.refuse("has blocks of something that is no leaf of several elements")
        if block > MOST:
            raise self.refuse(f"has blocks of more than {MOST} elements")
        self._blocks = True

    def _state(self, x: Tensor, form: str) -> int:
        """An input once more, as what an operator understands of it."""
        node = self.nodes[self._peek(x)]
        if node.op != "input" or node.value.kind != "state":
            raise self.refuse("decodes what is no state")
        return self._append(Node("input", (), node.dtype, form, node.value))

    def _reduced(self, shape: Shape, dims: Collection[int]) -> str:
        """The form of what is left of elements: "row" or "column"."""
        kept = [d for d, n in enumerate(shape) if d not in dims and n != 1]
        gone = [d for d, n in enumerate(shape) if d in dims and n != 1]
        sizes = [torch.Size([shape[d] for d in where]).numel() for where in (kept, gone)]
        if max(kept) < min(gone):
            self._claim((sizes[0], sizes[1]))
            return "row"
        if min(kept) > max(gone):
            self._claim((sizes[1], sizes[0]))
            return "column"
        raise self.refuse("reduces over some dimensions only, neither the first nor the last ones")

    def _form_of(self, x: Tensor) -> str:
        """The form of a tensor that is filled with one number."""
        if x.ndim == 0 or (self.numel == 1 and x.numel() == 1):
            return "scalar"
        if x.shape == self.shape:
            return "element"
        if self.matrix is not None:
            sizes = dict(zip((*self.matrix, self.numel), ("row", "column", "element"), strict=True))
            if x.numel() in sizes:
                return sizes[x.numel()]
        if x.numel() == self.numel:
            return "element"
        if x.ndim == 1 and len(x) in self._steps:
            return f"slice {self._steps[len(x)]}"
        raise self.refuse(f"makes a tensor of shape {tuple(x.shape)}")

    def _check_shapes(self, func: Any, args: Any, out: Tensor) -> None:
        """Refuse where a form and the shape of the tensor do not go together."""
        node = self.nodes[self._peek(out)]
        form, step = node.form, node.step
        rows, columns = self.matrix or (1, 1)
        want = {"element": self.numel, "row": rows, "column": columns, "scalar": 1}.get(form)
        want = want if step is None else -(-self.numel // step)
        if want is not None and out.numel() != want:
            raise self.refuse(f"{func} gives shape {tuple(out.shape)} from {tuple(self.shape)}")
        if form != "element" or node.op == "block_decode":
            return
        for x in args:
            if isinstance(x, Tensor) and x.numel() not in (1, self.numel):
                kind = self.nodes[self._peek(x)].form
                if kind in ("row", "column") and not _aligned(x.shape, out.shape, kind == "row"):
                    raise self.refuse(f"{func} combines a {kind} with other elements than its own")

    # ----------------------------------------------------------------------------------------

    def _peek(self, x: Tensor) -> int:
        known = self._known.get(id(x))
        if known is None:
            raise self.refuse("reads a tensor that is neither update, parameter nor state")
        return known[1]

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _remember(self, x: Tensor, at: int) -> None:
        self._known[id(x)] = (x, at)  # the reference keeps the id from being reused

    def _lift(self, x: Tensor) -> None:
        if x.numel() != 1:
            raise self.refuse("uses a constant tensor with several values")
        with torch.utils._python_dispatch._disable_current_modes():
            number = x.item()
        at = self._append(Node("const", (), _name(x.dtype), "scalar", number))
        self._remember(x, at)

    def _is_exact(self, at: int, dtype: torch.dtype) -> bool:
        """Casts that do nothing; a hyperparameter keeps the precision that a float would have."""
        node = self.nodes[at]
        is_hyper = node.op == "input" and node.value.kind == "hyper"
        return node.dtype == _name(dtype) or (is_hyper and dtype.is_floating_point)


class TreeReduce:
    """The ``reduce`` object while tracing."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def sum(self, x: Tensor) -> Tensor:
        """Sum over all leaves."""
        return self._tracer.marker("tree_sum", x)

    def max(self, x: Tensor) -> Tensor:
        """Largest over all leaves."""
        return self._tracer.marker("tree_max", x)

    def mean(self, x: Tensor) -> Tensor:
        """Not fused."""
        raise self._tracer.refuse("asks for a mean over leaves")


def _aligned(shape: Shape, out: Shape, first: bool) -> bool:
    """Whether a tensor broadcasts along all dimensions but the first (or last) ones of ``out``."""
    padded = (1,) * (len(out) - len(shape)) + tuple(shape)
    own = [d for d, n in enumerate(padded) if n != 1]
    where = range(max(own) + 1) if first else range(min(own), len(out))
    return all(padded[d] == out[d] for d in where)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _wide(dtype: str) -> str:
    return "float64" if dtype.startswith(("float", "bfloat")) else "int64"
