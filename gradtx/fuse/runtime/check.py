"""Compare a fused segment with the pure one on made-up leaves, before it is used.

What tracing cannot see, such as a member that mixes leaves outside ``reduce``, shows here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core import tree
from ...core.apply import apply_updates
from ...core.hyper import Overrides
from ...core.protocol import GradientTransformation
from ...core.tree import accumulator_dtype
from ..frontend.forms import state_shapes
from ..frontend.layout import Leaves, join, split
from ..frontend.trace import Signature, factor_shape
from ..ir.errors import CannotFuseError
from ..ir.graph import Graph
from .backend import BackEnd, make_table, refuse_unsupported

_TOLERANCE = {torch.bfloat16: 0.04, torch.float16: 0.01, torch.float32: 2e-3, torch.float64: 2e-3}

_BORDER = 0.01  # of all codes may differ

# A few units in the last place of a parameter near 1.
_ROUNDING = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 5e-7, torch.float64: 1e-14}


class Probe:
    """Two leaves of one kind with random values, and the declared hyperparameters.

    The learning rate is 0.5, so that changes of the parameters can be seen.
    """

    def __init__(
        self, tx: GradientTransformation, signature: Signature, values: Mapping[str, Any]
    ) -> None:
        self.signature = signature
        generator = torch.Generator().manual_seed(1)

        def make(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            if dtype.is_floating_point:
                x = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
                return (x + 0.1).to(dtype)
            value = True if dtype == torch.bool else 3
            return torch.full(shape, value, dtype=dtype, device="cpu")

        def signed(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            sign = torch.zeros(shape, dtype=torch.int64, device="cpu")
            sign = sign.random_(0, 2, generator=generator) * 2 - 1
            return make(shape, dtype) * sign.to(dtype)

        shapes = signature.checks
        self.factors: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.params = [signed(s, signature.param) for s in shapes]
        self.grads = [signed(s, signature.grad) for s in shapes]
        width = signature.update or signature.grad
        self.updates = [
            signed(s, width) if signature.update else g
            for s, g in zip(shapes, self.grads, strict=True)
        ]
        if signature.factor is not None:
            sizes = [factor_shape(signature.factor, s) for s in shapes]
            self.factors = [signed(size, width) for size in sizes]
            turn = -1 if signature.maximize else 1
            pairs = zip(self.grads, self.factors, strict=True)
            self.updates = [turn * g.to(width) * f for g, f in pairs]
        if signature.squares is not None:
            gone = 1 if signature.squares == "row" else 0
            self.squares = [g.double().square().sum(gone) for g in self.grads]
        self.states = [
            [
                make(size, dtype)
                for size, (dtype, _) in zip(
                    state_shapes(tx, s, signature.param, signature.structure, signature.states),
                    signature.states,
                    strict=True,
                )
            ]
            for s in shapes
        ]
        self.shared = [make((), dtype) for dtype, _ in signature.shared]
        self.hyper = {
            name: 0.5 if name.rpartition(".")[2] == "lr" else float(values.get(name, 0.5))
            for name in signature.hyper
        }
        half = torch.tensor(0.5, dtype=torch.float32, device="cpu")
        self.extra = dict.fromkeys(signature.extra, half)


def check(
    back_end: BackEnd,
    transform: GradientTransformation,
    skeleton: Any,
    signature: Signature,
    values: Mapping[str, Any],
    apply: bool,
    graph: Graph,
) -> None:
    """Run both on a probe.

    Args:
        back_end: where the graph runs.
        transform: what it was traced from, without labels.
        skeleton: a state of the transform with one leaf.
        signature: the kind of leaf.
        values: declared hyperparameters by full name.
        apply: whether the graph adds the update to the parameter.
        graph: the graph.

    Raises:
        CannotFuseError: they differ.
    """
    refuse_unsupported(back_end, graph)
    probe = Probe(transform, signature, values)
    (kernel,) = back_end.compile_together([graph])
    pure = _pure(transform, skeleton, probe, apply)
    fused = _fused(back_end, kernel, probe, apply, pure)
    codes = {target.index for target, i in graph.outputs if graph.nodes[i].op == "block_codes"}
    count = max(len(signature.states), 1)
    for i, (want, got) in enumerate(zip(pure, fused, strict=True)):
        at = i - len(probe.params)
        if 0 <= at < 2 * count and at % count in codes:
            # Where a value lies on the border between two codes, rounding decides.
            if want.ne(got).double().mean() > _BORDER:
                raise CannotFuseError("", "fused and pure give different codes on a test leaf")
            continue
        tolerance = _TOLERANCE.get(want.dtype, 0.0)
        want, got, floor = want.double(), got.double(), tolerance / 100
        if apply and i < len(probe.params):
            # The change must agree: a parameter is large beside a small learning rate.
            before = probe.params[i].double()
            want, got, floor = want - before, got - before, _ROUNDING[signature.param]
        if not bool(torch.isclose(want, got, rtol=tolerance, atol=floor, equal_nan=True).all()):
            raise CannotFuseError("", "fused and pure give different numbers on a test leaf")


def _pure(
    transform: GradientTransformation, skeleton: Any, probe: Probe, apply: bool
) -> list[Tensor]:
    signature = probe.signature
    subtrees = [signature.structure.subtrees(s) for s in probe.states]
    sites = [Leaves(column) for column in zip(*subtrees, strict=True)]
    turn = -1 if signature.maximize else 1
    grads = Leaves([turn * g for g in probe.grads])
    updates = Leaves(probe.updates) if signature.update else grads
    params = Leaves(probe.params)
    try:
        with torch.no_grad():
            new, state = transform.update(
                updates,
                join(skeleton, list(sites), list(probe.shared)),
                None if signature.blind else params,
                grads=grads,
                hyper=Overrides(probe.hyper),
                **probe.extra,
            )
            result = apply_updates(params, new) if apply else new
    except Exception as error:
        raise CannotFuseError("", f"{type(error).__name__} on a test leaf: {error}") from error
    new_sites, shared = split(skeleton, state, tree.flatten(params)[1])
    states = [signature.structure.flat([site[i] for site in new_sites]) for i in range(2)]
    return [*result.values, *states[0], *states[1], *shared]


def _fused(
    back: BackEnd, kernel: Any, probe: Probe, apply: bool, pure: list[Tensor]
) -> list[Tensor]:
    def own(tensors: list[Tensor]) -> list[Tensor]:
        return [x.to(back.device, copy=True) for x in tensors]

    params, grads = own(probe.params), own(probe.grads)
    # Updates are written in the accumulator's dtype, which may be wider than the gradient's.
    width = accumulator_dtype(probe.signature.grad)
    updates = [u.to(back.device, width, copy=True) for u in probe.updates]
    if probe.signature.blind:
        updates = own([x.contiguous() for x in pure[: len(params)]])
    states, shared = [own(leaf) for leaf in probe.states], own(probe.shared)
    row = [back.number(x) for x in (*probe.hyper.values(), *probe.extra.values())]
    hyper = back.numbers(1, len(row) + 1)
    hyper[0, : len(row)] = row
    table = make_table(back, kernel, params, [0, 0], hyper, [s.data_ptr() for s in shared])
    columns = {"param": params, "grad": grads, "update": updates}
    columns |= {"factor": probe.factors, "squares": probe.squares}
    for k, where in enumerate(kernel.columns):
        tensors = columns.get(where.kind) or [leaf[where.index] for leaf in states]
        table.pointers[k] = [x.data_ptr() for x in tensors]
    back.run_tables([table])
    out = [*(params if apply else updates), *states[0], *states[1], *shared]
    return [x.cpu() for x in out]
