"""Record what a chain does to one leaf as a graph.

The chain really runs, on a small leaf with made-up numbers, while every torch operation is noted.
It runs twice with different sizes: numbers that differ between both runs are sizes that the chain
read, and only the number of elements is understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..core import tree
from ..core.apply import apply_updates
from ..core.leaves import STRUCTURED
from ..core.protocol import GradientTransformation
from . import lower
from .errors import CannotFuseError
from .graph import Graph, Input, Node, simplify
from .layout import Leaves, Structure, join, split
from .specialize import current_member, inside

_PROBE_SIZES = ((3, 5, 2, 7, 2, 3), (6, 4, 3, 2, 5, 2))


@dataclass(frozen=True)
class Signature:
    """Everything about a leaf that a trace may depend on.

    Attributes:
        shape: per dimension, 1 for a dimension of length one, else 2.
        grad, param: dtypes.
        update: dtype of the incoming update, None where the segment starts with the gradient.
        states: per state tensor its dtype and form: "leaf", "scalar" or "other".
        structure: how states are arranged.
        shared: the same for the shared tensors.
        hyper, extra: names of hyperparameters and of further arguments.
        maximize: turn the gradient around.
    """

    shape: tuple[int, ...]
    grad: torch.dtype
    param: torch.dtype
    update: torch.dtype | None
    states: tuple[tuple[torch.dtype, str], ...]
    structure: Structure
    shared: tuple[tuple[torch.dtype, str], ...]
    hyper: tuple[str, ...]
    extra: tuple[str, ...]
    maximize: bool

    def probe_shape(self, which: int) -> tuple[int, ...]:
        """A small shape of this kind."""
        sizes = _PROBE_SIZES[which]
        return tuple(1 if kind == 1 else sizes[i % len(sizes)] for i, kind in enumerate(self.shape))


class Tracer(TorchDispatchMode):
    """Notes torch operations as nodes while they run."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.nodes: list[Node] = []
        self._known: dict[int, tuple[Tensor, int]] = {}
        self._markers: dict[str, int] = {}

    def input(self, x: Tensor, where: Input) -> Tensor:
        """Declare an input."""
        element = bool(self.shape) and x.shape == self.shape
        self._remember(x, self._append(Node("input", (), _name(x.dtype), element, where)))
        return x

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
        if rule is None or not isinstance(out, Tensor):
            raise self.refuse(f"{func} has no fused form")
        self._remember(out, rule(self, out, args, kwargs))
        if self.nodes[self.node(out)].element and out.numel() != self.shape.numel():
            raise self.refuse(f"{func} gives shape {tuple(out.shape)} from {tuple(self.shape)}")
        return out

    def marker(self, op: str, x: Tensor) -> Tensor:
        """Combine a scalar over all leaves of the tree."""
        member = current_member()
        ordinal = self._markers.get(member, 0)
        self._markers[member] = ordinal + 1
        out = x.detach()
        at = self.node(x)
        if self.nodes[at].element:
            raise self.refuse("reduces something over the tree that is no scalar")
        key = (member, ordinal)
        node = Node(op, (at,), _wide(self.nodes[at].dtype), False, key, member)
        self._remember(out, self.add("cast", (self._append(node),), x.dtype))
        return out

    # -- what rules use (lower.Recorder) -----------------------------------------------------

    def node(self, value: Any) -> int:
        if isinstance(value, Tensor):
            known = self._known.get(id(value))
            if known is None:
                raise self.refuse("reads a tensor that is neither update, parameter nor state")
            return known[1]
        if not isinstance(value, (bool, int, float)):
            raise self.refuse(f"uses a {type(value).__name__} as a number")
        dtype = {bool: "bool", int: "int64"}.get(type(value), "float64")
        return self._append(Node("const", (), dtype, False, value))

    def add(self, op: str, args: tuple[int, ...], dtype: torch.dtype, value: Any = None) -> int:
        if op == "cast" and self._is_exact(args[0], dtype):
            return args[0]
        element = any(self.nodes[a].element for a in args)
        return self._append(Node(op, args, _name(dtype), element, value, current_member()))

    def fill(self, number: Any, like: Tensor) -> int:
        const = self.node(number)
        if like.ndim == 0:
            return self.add("cast", (const,), like.dtype)
        if like.shape != self.shape:
            raise self.refuse(f"makes a tensor of shape {tuple(like.shape)}")
        return self._append(Node("fill", (const,), _name(like.dtype), True, None, current_member()))

    def reduction(self, op: str, x: int, source: Tensor, out: Tensor) -> int:
        if not self.nodes[x].element or (
            source.ndim and out.numel() == source.numel() and out.ndim
        ):
            return x
        if out.numel() != 1:
            raise self.refuse("reduces over some dimensions only")
        if op != "sum" and "float" not in self.nodes[x].dtype:
            raise self.refuse(f"takes the {op} of integers")
        dtype = _wide(self.nodes[x].dtype) if op == "sum" else self.nodes[x].dtype
        return self._append(Node(f"leaf_{op}", (x,), dtype, False, None, current_member()))

    def numel(self, x: Tensor) -> int:
        if not self.nodes[self.node(x)].element:
            return self.node(x.numel())
        return self._append(Node("numel", (), "int64", False))

    def refuse(self, reason: str) -> CannotFuseError:
        return CannotFuseError(current_member(), reason)

    # ----------------------------------------------------------------------------------------

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
        at = self._append(Node("const", (), _name(x.dtype), False, number))
        self._remember(x, at)

    def _is_exact(self, at: int, dtype: torch.dtype) -> bool:
        """Casts that do nothing; a hyperparameter keeps the precision that a float would have."""
        node = self.nodes[at]
        is_hyper = node.op == "input" and node.value.kind == "hyper"
        return node.dtype == _name(dtype) or (is_hyper and dtype.is_floating_point)


class _TreeReduce:
    """The ``reduce`` object while tracing."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def sum(self, x: Tensor) -> Tensor:
        return self._tracer.marker("tree_sum", x)

    def max(self, x: Tensor) -> Tensor:
        return self._tracer.marker("tree_max", x)

    def mean(self, x: Tensor) -> Tensor:
        raise self._tracer.refuse("asks for a mean over leaves")


def trace(tx: GradientTransformation, skeleton: Any, signature: Signature, apply: bool) -> Graph:
    """The graph of one update.

    Args:
        tx: a specialised chain, or part of one.
        skeleton: a state of it with one leaf.
        signature: the kind of leaf.
        apply: add the update to the parameter; otherwise the update is an output.

    Raises:
        CannotFuseError: names the member and the reason.
    """
    first, second = (
        _run(tx, skeleton, signature, apply, signature.probe_shape(i)) for i in range(2)
    )
    sizes = [torch.Size(signature.probe_shape(i)).numel() for i in range(2)]
    return simplify(_without_sizes(first, second, sizes))


def _run(
    tx: GradientTransformation,
    skeleton: Any,
    signature: Signature,
    apply: bool,
    shape: tuple[int, ...],
) -> Graph:
    tracer = Tracer(shape)
    generator = torch.Generator().manual_seed(0)

    def leaf(dtype: torch.dtype) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).add(0.1).to(dtype)

    def state(kind: str, index: int, dtype: torch.dtype, form: str) -> Tensor:
        if form == "other":
            raise CannotFuseError(
                "", "has a state that is neither shaped like the leaf nor a scalar"
            )
        x = leaf(dtype) if form == "leaf" else torch.ones((), dtype=dtype)
        return tracer.input(x, Input(kind, index))

    g = tracer.input(leaf(signature.grad), Input("grad"))
    p = tracer.input(leaf(signature.param), Input("param"))
    u = g
    if signature.update is not None:
        u = tracer.input(leaf(signature.update), Input("update"))
    states = [state("state", i, *kind) for i, kind in enumerate(signature.states)]
    shared = [state("shared", i, *kind) for i, kind in enumerate(signature.shared)]
    scalars = {
        name: tracer.input(torch.tensor(0.5, dtype=torch.float64), Input("hyper", i, name))
        for i, name in enumerate((*signature.hyper, *signature.extra))
    }
    sites = [Leaves([s]) for s in signature.structure.subtrees(states)]
    old = join(skeleton, list(sites), list(shared))
    params = Leaves([p])
    with torch.no_grad(), tracer:
        if signature.maximize:
            g, u = -g, (-g if u is g else u)
        extra = {name: scalars[name] for name in signature.extra}
        try:
            new_u, new = tx.update(
                Leaves([u]),
                old,
                params,
                grads=Leaves([g]),
                hyper={name: scalars[name] for name in signature.hyper},
                reduce=_TreeReduce(tracer),
                **extra,
            )
            update = _only_leaf(new_u)
            with inside("apply_updates"):
                result = _only_leaf(apply_updates(params, new_u)) if apply else update
        except CannotFuseError:
            raise
        except Exception as error:
            raise CannotFuseError(current_member(), f"{type(error).__name__}: {error}") from error
    return _collect(tracer, skeleton, signature, result, new, apply)


def _only_leaf(updates: Any) -> Tensor:
    if not isinstance(updates, Leaves) or len(updates.values) != 1:
        raise CannotFuseError("", "the updates come back in another structure")
    leaf = updates.values[0]
    if isinstance(leaf, STRUCTURED):
        raise CannotFuseError("", f"the update is a {type(leaf).__name__}")
    return leaf


def _collect(
    tracer: Tracer, skeleton: Any, signature: Signature, result: Any, new: Any, apply: bool
) -> Graph:
    """The outputs, checked to be what they replace in kind."""
    outputs: list[tuple[Input, int]] = []
    sites, shared = split(skeleton, new, tree.flatten(Leaves([0]))[1])
    states = signature.structure.flat([site[0] for site in sites])
    if result is not None:
        target = Input("param" if apply else "update")
        outputs.append((target, tracer.node(result)))
    wanted = [("state", i, *kind) for i, kind in enumerate(signature.states)]
    wanted += [("shared", i, *kind) for i, kind in enumerate(signature.shared)]
    for (kind, i, dtype, form), x in zip(wanted, states + shared, strict=True):
        if not isinstance(x, Tensor) or x.dtype != dtype:
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise CannotFuseError("", f"{kind} {i} changes from {dtype} to {got}")
        at = tracer.node(x)
        if tuple(x.shape) != (tuple(tracer.shape) if form == "leaf" else ()):
            raise CannotFuseError("", f"{kind} {i} changes its shape to {tuple(x.shape)}")
        node = tracer.nodes[at]
        if node.op != "input" or node.value != Input(kind, i):
            outputs.append((Input(kind, i), at))
    return Graph(tuple(tracer.nodes), tuple(outputs))


def _without_sizes(first: Graph, second: Graph, sizes: Sequence[int]) -> Graph:
    """One graph from two runs: what differs must be the number of elements."""
    if len(first.nodes) != len(second.nodes) or first.outputs != second.outputs:
        raise CannotFuseError("", "does different things for different sizes")
    nodes = []
    for a, b in zip(first.nodes, second.nodes, strict=True):
        if a == b or (a.op == "const" and _nan(a.value) and _nan(b.value)):
            nodes.append(a)
        elif a.op == b.op == "const" and [a.value, b.value] == list(sizes):
            nodes.append(Node("numel", (), "int64", False))
        else:
            member = a.member or b.member
            raise CannotFuseError(member, "depends on the size of the leaf")
    return Graph(tuple(nodes), first.outputs)


def _nan(x: Any) -> bool:
    return isinstance(x, float) and x != x


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _wide(dtype: str) -> str:
    return "float64" if dtype.startswith(("float", "bfloat")) else "int64"
