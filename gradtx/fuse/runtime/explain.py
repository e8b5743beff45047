"""What of a chain runs where, and how many bytes it moves."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core import tree
from ...core.chain import Chain
from ...core.protocol import GradientTransformation, require_transform
from ...core.tree import PyTree
from ..ir.errors import CannotFuseError
from ..ir.view import matrix
from .chain_kernel import KernelPlan
from .executor import Step
from .plan import LaunchPlan
from .separate import Separate

_ADAMW = 28  # float32: read gradient, parameter, two moments; write parameter, two moments


def explain(tx: GradientTransformation, params: PyTree) -> str:
    """A table of what runs where when the chain is fused.

    Per member: whether it is part of a compiled pass or runs as torch operations and why, and the
    bytes of its state per parameter; then the bytes that a step moves per parameter. Where nothing
    can be compiled, pointwise members run as multi-tensor operations, and the last line says why.

    Args:
        tx: the transform.
        params: tree of tensors, for shapes and dtypes; not changed.

    Raises:
        TypeError: ``tx`` is no transform.

    >>> import torch, gradtx as gx
    >>> print(gx.explain(gx.chain(gx.trace(0.9), gx.scale(-0.1)), {"w": torch.ones(8)}))
    member                    runs as             state bytes
    trace                     fused, 1 pass              4.00
    scale                     fused, 1 pass              0.00
    moved per parameter: 20.0 bytes, 0.71 times AdamW's 28
    """
    require_transform("explain", tx)
    step = Step(tx)
    state = tx.init(params)
    grads = tree.map(torch.zeros_like, params)
    count = sum(p.numel() for p in tree.leaves(params)) or 1
    names = list(tx.inner) if isinstance(tx, Chain) else [tx.name]
    states = {n: state[n] for n in names} if isinstance(tx, Chain) else {names[0]: state}
    try:
        plan = step.engine.describe(step.engine.gather(params, grads, _own(state)))
    except CannotFuseError as error:
        runs, total = dict.fromkeys(names, "reference"), f"not fused: {error}"
    else:
        runs, total = _runs(plan, names), _moved(plan, count)
    lines = [f"{'member':<26}{'runs as':<20}state bytes"]
    for name in names:
        size = sum(x.nbytes for x in tree.leaves(states[name]) if isinstance(x, Tensor)) / count
        lines.append(f"{name:<26}{runs[name]:<20}{size:>11.2f}")
    reasons = step.engine.refused().items()
    lines += [f"{name}: {why}" for name, why in reasons]
    lines += [f"no {kernel}: {why}" for kernel, why in step.engine.passed_over.items()]
    lines.append(total)
    if step.engine.lacks is not None:
        lines.append(f"not compiled: {step.engine.lacks}")
    return "\n".join(lines)


def _own(state: PyTree) -> PyTree:
    return tree.map(lambda x: x.clone() if isinstance(x, Tensor) else x, state)


def _runs(plan: LaunchPlan | Separate | KernelPlan, names: list[str]) -> dict[str, str]:
    if isinstance(plan, KernelPlan):
        return dict.fromkeys(names, plan.label)
    found: dict[str, set[int]] = {name: set() for name in names}  # passes, 0 for torch operations
    for piece in plan.pieces:
        for segment in piece.cut:
            passes = 0
            if segment.fused:
                variant = "all" if segment is piece.cut[-1] else "emit"
                kernels = piece.kernels[segment, variant].values()
                passes = max(kernel.stage_plan.passes() for kernel in kernels)
            for path in piece.segments.members_of(segment):
                found[path[0] if path and path[0] in found else names[0]].add(passes)
    word = "fused" if plan.pieces[0].back_end.lacks is None else "multi-tensor"
    return {name: _words(passes, word) for name, passes in found.items()}


def _words(passes: set[int], word: str) -> str:
    most = max(passes)
    if not most:
        return "torch operations"
    return f"{'partly' if 0 in passes else word}, {most} {'pass' if most == 1 else 'passes'}"


def _moved(plan: LaunchPlan | Separate | KernelPlan, count: int) -> str:
    if isinstance(plan, KernelPlan):
        return _floor(plan.moved() / count)
    total = sum(_moved_by(piece) for piece in plan.pieces)
    floor = _floor(total / count)
    whole = all(segment.fused for piece in plan.pieces for segment in piece.cut)
    return floor if whole else f"{floor} (fused segments only)"


def _moved_by(plan: LaunchPlan) -> int:
    total = 0
    for kernels in plan.kernels.values():
        for kind, p in zip(plan.kinds, plan.batch.params, strict=True):
            stages = kernels[kind].stage_plan
            a, b = matrix(stages.graph.view or 1, tuple(p.shape))
            sizes = {"element": a * b, "row": a, "column": b, "bits": a * ((b + 7) // 8)}
            for form, dtype in stages.traffic():
                each = None if form in sizes else int(form.split()[1])
                size = -(-a * b // each) if each else sizes[form]
                total += size * _bytes(dtype)
    return total


def _floor(moved: float) -> str:
    return f"moved per parameter: {moved:.1f} bytes, {moved / _ADAMW:.2f} times AdamW's {_ADAMW}"


def _bytes(dtype: str) -> int:
    return getattr(torch, dtype).itemsize
