"""Inner steps on every worker, outer steps by what all of them have done."""

from __future__ import annotations

from ..core.protocol import GradientTransformation
from ..recipes.sgd import sgd
from .feedback import Feedback
from .local_steps import LocalSteps
from .outer import outer as outer_steps


def diloco(
    inner: GradientTransformation,
    outer: GradientTransformation | None = None,
    every: int = 500,
    feedback: Feedback | None = None,
) -> LocalSteps:
    """DiLoCo: any optimizer on every worker, and any other one for the mean of their drifts.

    After ``every`` steps delta = mean(anchor - p), anchor <- anchor + outer(delta), and all workers
    go on from the anchor with the inner state that they have. ``gx.sgd(1.0)`` as the outer one
    averages parameters.

    Args:
        inner: a worker's optimizer, learning rate included, such as ``gx.adamw(1e-3)``.
        outer: any transform, learning rate included; default ``gx.sgd(0.7, 0.9, nesterov=True)``.
        every: steps between meetings, >= 1.
        feedback: compression of drifts, see ``Feedback``.

    Raises:
        ValueError: a period below 1.
        TypeError: no transform.

    Source: arXiv 2311.08105.

    >>> import torch, gradtx as gx
    >>> method = gx.distributed.diloco(gx.sgd(1.0), gx.sgd(0.5), every=1)
    >>> both = gx.distributed.Simulation(method, {"w": torch.zeros(1)}, workers=2)
    >>> both.step([{"w": torch.ones(1)}, {"w": 3 * torch.ones(1)}])
    >>> both.params[0]
    {'w': tensor([-1.])}
    """
    meet = sgd(0.7, 0.9, nesterov=True) if outer is None else outer
    return LocalSteps(inner, (outer_steps(meet, every, feedback),))
