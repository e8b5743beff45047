"""Mechanic as a torch optimizer."""

from __future__ import annotations

from typing import Any

from ..core.chain import chain
from ..core.protocol import GradientTransformation, declared_hyper
from ..transforms import mechanize, scale_by_learning_rate
from .from_transform import TransformOptimizer


class Mechanize(TransformOptimizer):
    """Any chain, with the factor of its updates learned while it runs; see ``gx.mechanize``.

    Args:
        params: parameters, named parameters, or groups of either.
        transform: what steps, with or without its learning rate, as in ``from_transform``.
        lr: default learning rate of the groups, about 1 with a schedule's shape; None for the
            chain's own, or 1.
        weight_decay: the share of the gradient's norm, >= 0; default of the groups, in which it is
            ``"mechanize.weight_decay"`` where the chain decays too.
        s_init: the first factor, > 0.
        num_betas: factors that are learned, >= 1.
        **options: defaults of other group options.

    Raises:
        ValueError: a value outside its range, or what ``from_transform`` raises.

    Source: arXiv 2306.00144.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> opt = gx.optim.Mechanize([w], gx.sgd(1.0), s_init=0.5)
    >>> for _ in range(20):
    ...     w.grad = 2 * w.detach()
    ...     opt.step()
    >>> bool(w.abs() < 3)
    True
    """

    def __init__(
        self,
        params: Any,
        transform: GradientTransformation,
        lr: Any = None,
        weight_decay: float = 1e-2,
        s_init: float = 1e-6,
        num_betas: int = 6,
        **options: Any,
    ) -> None:
        if isinstance(transform, GradientTransformation) and not _has_rate(transform):
            transform = chain(transform, scale_by_learning_rate(1.0))
        learned = mechanize(transform, weight_decay, s_init=s_init, num_betas=num_betas)
        super().__init__(params, learned, lr, **options)


def _has_rate(tx: GradientTransformation) -> bool:
    return any(name.rpartition(".")[2] == "lr" for name in declared_hyper(tx))
