"""Adagrad."""

from __future__ import annotations

from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_inverse_time, scale_by_rss
from ._assemble import assemble


def adagrad(
    lr: Hyper | None = 1e-2,
    initial_accumulator_value: float = 0.1,
    eps: Hyper = 1e-7,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    lr_decay: Hyper = 0.0,
    eps_in_sqrt: bool = True,
) -> Chain:
    """Learning rates that shrink with the sum of squared gradients.

    s <- s + g'^2;  p <- p - lr g' / (sqrt(s + eps) (1 + (t - 1) lr_decay)) with
    g' = g + weight_decay p.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        initial_accumulator_value: first value of s, >= 0.
        eps: added to s.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.
        lr_decay: how fast the learning rate shrinks with time, >= 0.
        eps_in_sqrt: False adds eps to sqrt(s) instead, as torch.optim.

    Raises:
        ValueError: a value outside its interval.

    Source: Duchi, Hazan and Singer, JMLR 12, 2011.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adagrad(0.5, initial_accumulator_value=16.0), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.3000])}
    """
    return assemble(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt),
        scale_by_inverse_time(lr_decay),
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        decoupled=False,
    )
