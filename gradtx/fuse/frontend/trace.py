"""Record what a chain does to one leaf as a graph.

The chain really runs, on a small leaf with made-up numbers, while every torch operation is noted.
It runs twice with different sizes: numbers that differ between both runs are sizes that the chain
read, and only the number of elements, of rows and of columns is understood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core import tree
from ...core.apply import apply_updates
from ...core.hyper import Overrides
from ...core.leaves import STRUCTURED
from ...core.protocol import GradientTransformation
from ..ir.errors import CannotFuseError
from ..ir.graph import Graph, Input, Node, simplify
from ..ir.view import Shape, find, matrix
from .forms import Form, state_shapes
from .layout import Leaves, Structure, join, split
from .specialize import current_member, inside
from .tracer import Tracer, TreeReduce


@dataclass(frozen=True)
class Signature:
    """Everything about a leaf that a trace may depend on.

    Attributes:
        probes: two shapes to trace with.
        checks: two shapes to compare fused and pure results on.
        grad, param: dtypes.
        update: dtype of the incoming update, None where the segment starts with the gradient.
        states: per state tensor its dtype and form.
        structure: how states are arranged.
        shared: the same for the shared tensors.
        hyper, extra: names of hyperparameters and of further arguments.
        maximize: turn the gradient around.
        factor: where the incoming update is the gradient times something, the form of that.
        squares: where squared norms of the gradient come with it, their form.
        blind: the transform is not given the parameters.
    """

    probes: tuple[Shape, Shape]
    checks: tuple[Shape, Shape]
    grad: torch.dtype
    param: torch.dtype
    update: torch.dtype | None
    states: tuple[tuple[torch.dtype, Form], ...]
    structure: Structure
    shared: tuple[tuple[torch.dtype, Form], ...]
    hyper: tuple[str, ...]
    extra: tuple[str, ...]
    maximize: bool
    factor: Form | None = None
    squares: str | None = None
    blind: bool = False


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
    runs = [_run(tx, skeleton, signature, apply, shape) for shape in signature.probes]
    matrices = [m for _, m in runs if m is not None]
    own = [form.rule for _, form in signature.states if callable(form.rule)]
    view = find(signature.probes, matrices, own) if len(matrices) == 2 else None
    if matrices and view is None:
        raise CannotFuseError("", "sees leaves as matrices by an unknown rule")
    sizes = {"numel": [torch.Size(shape).numel() for shape in signature.probes]}
    if matrices:
        sizes |= zip(("rows", "columns"), map(list, zip(*matrices, strict=True)), strict=True)
    graph = _without_sizes(runs[0][0], runs[1][0], sizes)
    return simplify(replace(graph, view=view))


def _run(
    tx: GradientTransformation,
    skeleton: Any,
    signature: Signature,
    apply: bool,
    shape: Shape,
) -> tuple[Graph, tuple[int, int] | None]:
    tracer = Tracer(shape)
    generator = torch.Generator().manual_seed(0)

    def made(shape: Shape, dtype: torch.dtype) -> Tensor:
        x = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        return x.add(0.1).to(dtype)

    def state(kind: str, index: int, size: Shape, dtype: torch.dtype, form: Form) -> Tensor:
        if form.name == "other":
            raise CannotFuseError("", "has a state that is no scalar, leaf, row or column")
        seen = None if form.rule is None else matrix(form.rule, shape)
        return tracer.input(made(size, dtype), Input(kind, index), form.name, seen)

    g = tracer.input(made(shape, signature.grad), Input("grad"), "leaf")
    p = tracer.input(made(shape, signature.param), Input("param"), "leaf")
    u = g
    factor = None
    if signature.factor is not None:
        assert signature.update is not None
        form, size = signature.factor, factor_shape(signature.factor, shape)
        seen = None if form.rule is None else matrix(form.rule, shape)
        factor = tracer.input(made(size, signature.update), Input("factor"), form.name, seen)
    elif signature.update is not None:
        u = tracer.input(made(shape, signature.update), Input("update"), "leaf")
    shapes = state_shapes(tx, shape, signature.param, signature.structure, signature.states)
    states = [state("state", i, shapes[i], *kind) for i, kind in enumerate(signature.states)]
    shared = [state("shared", i, (), *kind) for i, kind in enumerate(signature.shared)]
    scalars = {
        name: tracer.input(
            torch.tensor(0.5, dtype=torch.float64, device="cpu"), Input("hyper", i, name), "scalar"
        )
        for i, name in enumerate((*signature.hyper, *signature.extra))
    }
    sites = [Leaves([s]) for s in signature.structure.subtrees(states)]
    old = join(skeleton, list(sites), list(shared))
    params = Leaves([p])
    with torch.no_grad(), tracer:
        if signature.maximize:
            g, u = -g, (-g if u is g else u)
        if factor is not None:
            u = g.to(factor.dtype) * factor
        extra = {name: scalars[name] for name in signature.extra}
        try:
            new_u, new = tx.update(
                Leaves([u]),
                old,
                None if signature.blind else params,
                grads=Leaves([g]),
                hyper=Overrides({name: scalars[name] for name in signature.hyper}),
                reduce=TreeReduce(tracer),
                **extra,
            )
            update = _only_leaf(new_u)
            with inside("apply_updates"):
                result = _only_leaf(apply_updates(params, new_u)) if apply else update
        except CannotFuseError:
            raise
        except Exception as error:
            raise CannotFuseError(current_member(), f"{type(error).__name__}: {error}") from error
    return _collect(tracer, skeleton, signature, states, result, new, apply), tracer.matrix


def factor_shape(form: Form, leaf: Shape) -> Shape:
    """The shape of what a leaf of two dimensions is multiplied with."""
    return {"row": (leaf[0], 1), "column": (1, leaf[-1])}.get(form.name, ())


def _only_leaf(updates: Any) -> Tensor:
    if not isinstance(updates, Leaves) or len(updates.values) != 1:
        raise CannotFuseError("", "the updates come back in another structure")
    leaf = updates.values[0]
    if isinstance(leaf, STRUCTURED):
        raise CannotFuseError("", f"the update is a {type(leaf).__name__}")
    return leaf


def _collect(
    tracer: Tracer,
    skeleton: Any,
    signature: Signature,
    states: list[Tensor],
    result: Any,
    new: Any,
    apply: bool,
) -> Graph:
    """The outputs, checked to be what they replace in kind."""
    outputs: list[tuple[Input, int]] = []
    sites, shared = split(skeleton, new, tree.flatten(Leaves([0]))[1])
    new_states = signature.structure.flat([site[0] for site in sites])
    if result is not None:
        target = Input("param" if apply else "update")
        own = _form_of_update(tracer, result) if signature.blind else "leaf"
        outputs.append((target, tracer.output(result, own)))
    wanted = [("state", i, x.shape, *signature.states[i]) for i, x in enumerate(states)]
    wanted += [("shared", i, torch.Size(), *kind) for i, kind in enumerate(signature.shared)]
    for (kind, i, shape, dtype, form), x in zip(wanted, new_states + shared, strict=True):
        if not isinstance(x, Tensor) or x.dtype != dtype:
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise CannotFuseError("", f"{kind} {i} changes from {dtype} to {got}")
        if x.shape != shape:
            raise CannotFuseError("", f"{kind} {i} changes its shape to {tuple(x.shape)}")
        seen = None if form.rule is None else matrix(form.rule, tracer.shape)
        at = tracer.output(x, form.name, seen)
        node = tracer.nodes[at]
        if node.op == "pair":
            for half, source in enumerate(node.args):
                target = Input(kind, i, str(half))
                if tracer.nodes[source].value != target:
                    outputs.append((target, source))
        elif node.op != "input" or node.value != Input(kind, i):
            outputs.append((Input(kind, i), at))
    return Graph(tuple(tracer.nodes), tuple(outputs))


def _form_of_update(tracer: Tracer, x: Tensor) -> str:
    """The form of what a transform gives that may give something else than updates."""
    if x.shape == tracer.shape:
        return "leaf"
    form = tracer.form(x)
    if len(tracer.shape) != 2 or x.shape != factor_shape(Form(form), tracer.shape):
        raise CannotFuseError("", f"gives a tensor of shape {tuple(x.shape)} for a leaf")
    return form


def _without_sizes(first: Graph, second: Graph, sizes: dict[str, list[int]]) -> Graph:
    """One graph from two runs: what differs must be a size."""
    if len(first.nodes) != len(second.nodes) or first.outputs != second.outputs:
        raise CannotFuseError("", "does different things for different sizes")
    nodes = []
    for a, b in zip(first.nodes, second.nodes, strict=True):
        if a == b or (a.op == "const" and _nan(a.value) and _nan(b.value)):
            nodes.append(a)
            continue
        size = [k for k, v in sizes.items() if a.op == b.op == "const" and v == [a.value, b.value]]
        if not size:
            member = a.member or b.member
            raise CannotFuseError(member, "depends on the size of the leaf")
        nodes.append(Node(size[0], (), "int64", "scalar"))
    return Graph(tuple(nodes), first.outputs)


def _nan(x: Any) -> bool:
    return isinstance(x, float) and x != x
