"""Parameters that workers share, moved by what all of them have done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.apply import apply_updates
from ..core.errors import described
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree, accumulator
from ..transforms import scale
from .feedback import Feedback
from .local_steps import Meeting, Sync, check_period
from .rounds import Rounds


class OuterState(NamedTuple):
    """State of ``outer``.

    Attributes:
        anchor: where all workers have last met, the same everywhere.
        residuals: per leaf what compression has dropped of this worker, a ``Residual`` or ().
        outer_state: state of the outer transform.
    """

    anchor: PyTree
    residuals: PyTree
    outer_state: PyTree


@dataclass(frozen=True)
class outer(Sync):
    """Meet at parameters that an outer optimizer moves by the mean of all drifts.

    delta = mean over workers of anchor - p, a gradient for the outer transform: anchor <- anchor +
    transform(delta), and p <- anchor on every worker. The default moves the anchor by the mean
    itself, which averages parameters; Nesterov momentum makes it DiLoCo.

    Args:
        transform: any transform, learning rate included; default ``gx.scale(-1.0)``.
        every: steps between meetings, >= 1.
        feedback: compression of drifts with memory, see ``Feedback``; None sends them whole.
        anchor_dtype: of the anchor, and so of the parameters after a meeting; None keeps at least
            float32.

    Raises:
        ValueError: a period below 1, an anchor that is no floating dtype.
        TypeError: no transform.

    Source: arXiv 2311.08105.

    >>> import torch, gradtx as gx
    >>> meet = gx.distributed.outer(gx.sgd(0.7, 0.9, nesterov=True), every=500)
    >>> meet.due(500), meet.due(501)
    (True, False)
    """

    transform: GradientTransformation = scale(-1.0)
    every: int = 32
    feedback: Feedback | None = None
    anchor_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transform, GradientTransformation):
            raise TypeError(
                "outer: transform must be a GradientTransformation, "
                f"got {described(self.transform)}"
            )
        check_period("outer", "every", self.every)
        if self.anchor_dtype is not None and not self.anchor_dtype.is_floating_point:
            raise ValueError(f"outer: anchor_dtype must be floating, got {self.anchor_dtype}")

    def init(self, params: PyTree) -> OuterState:
        def anchor(p: Tensor) -> Tensor:
            dtype = self.anchor_dtype or tree.accumulator_dtype(p.dtype)
            return p.detach().to(dtype, copy=True)

        anchors = tree.map(anchor, params)
        feedback = self.feedback or Feedback()
        return OuterState(anchors, residuals(feedback, params), self.transform.init(anchors))

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def rounds(self, now: Meeting, own: OuterState, step: int) -> Rounds:
        wide = tree.map(accumulator, own.anchor)
        deltas = tree.map(lambda a, p: a - p.to(a.dtype), wide, now.params)
        mean, kept = yield from averaged(self.feedback or Feedback(), deltas, own.residuals)
        updates, state = self.transform.update(mean, own.outer_state, wide)
        anchor = tree.map(lambda a, old: a.to(old.dtype), apply_updates(wide, updates), own.anchor)
        params = tree.map(lambda p, a: a.to(p.dtype, copy=True), now.params, anchor)
        drift = tree.map(torch.neg, mean)
        return Meeting(params, now.local, drift), OuterState(anchor, kept, state)

    def same(self, now: Meeting, own: OuterState) -> PyTree:
        return own.anchor


def residuals(feedback: Feedback, params: PyTree) -> PyTree:
    """What a worker remembers at first of all leaves."""
    leaves, spec = tree.flatten(params)
    fresh = [
        () if p is None else feedback.init(p, name)
        for p, name in zip(leaves, tree.names(spec), strict=True)
    ]
    return spec.unflatten(fresh)


def averaged(feedback: Feedback, updates: PyTree, kept: PyTree) -> Rounds:
    """A generator whose result is the tree of means and what is remembered of all leaves."""
    leaves, spec = tree.flatten(updates)
    olds, names = tree.flatten_like("outer", spec, kept, "state"), tree.names(spec)
    there = [i for i, u in enumerate(leaves) if u is not None]
    at: Callable[[list[Any]], list[Any]] = lambda column: [column[i] for i in there]  # noqa: E731
    means, news = yield from feedback.means(at(leaves), at(olds), at(names))
    for i, mean, new in zip(there, means, news, strict=True):
        leaves[i], olds[i] = mean, new
    return spec.unflatten(leaves), spec.unflatten(olds)
