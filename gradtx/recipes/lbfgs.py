"""L-BFGS with a line search."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..transforms import scale_by_lbfgs, scale_by_zoom_linesearch
from ._learning_rate import with_learning_rate

_ZOOM = scale_by_zoom_linesearch(initial_guess_strategy="one")


def lbfgs(
    lr: Hyper | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = _ZOOM,
) -> Chain:
    """L-BFGS; by default with a line search for the strong Wolfe conditions.

    p <- p - a lr H g with ``scale_by_lbfgs``'s H and the step a of the line search, which needs
    ``value_fn`` at ``update``.

    Args:
        lr: step size >= 0 before the line search, or a schedule; None for 1.
        memory_size: pairs of differences that are kept, >= 1.
        scale_init_precond: scale the first approximation by the newest pair.
        linesearch: what chooses the step, or None for lr itself.

    Raises:
        ValueError: a value outside its range, or no ``value_fn`` at ``update``.

    Source: Liu and Nocedal, Mathematical Programming 45 (1989).

    >>> import torch, gradtx as gx
    >>> tx, w, f = gx.lbfgs(), torch.tensor([3.0, -1.0]), lambda w: ((w - 1) ** 2).sum()
    >>> state = tx.init(w)
    >>> for _ in range(3):
    ...     updates, state = tx.update(torch.func.grad(f)(w), state, w, value_fn=f)
    ...     w = gx.apply_updates(w, updates)
    >>> w
    tensor([1., 1.])
    """
    tx = with_learning_rate(
        scale_by_lbfgs(memory_size, scale_init_precond), 1.0 if lr is None else lr
    )
    return tx if linesearch is None else chain(tx, linesearch)
