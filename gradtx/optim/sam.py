"""Sharpness-aware minimization as a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.chain import chain
from ..core.protocol import GradientTransformation
from ..transforms import normalize_by_update_norm, sam, scale
from .from_transform import EvaluatingTransformOptimizer
from .options import Option, options_of

_TINY = 1e-12  # of a gradient that is zero
_RHO = Option((("rho",),), ("[0, inf)",), 0.05)
_RENAMED = {
    "sam.adv_optimizer.normalize_by_update_norm.scale_factor": "rho",
    "sam.adv_optimizer.normalize_by_update_norm.eps": None,
    "sam.adv_optimizer.scale.step_size": None,
}


class SAM(EvaluatingTransformOptimizer):
    """Any chain on the gradient at ``p + rho g / ||g||``; ``step`` calls its closure twice.

    ``rho`` is an option of the groups, in which they must agree: the norm is that of all gradients.

    Args:
        params: parameters, named parameters, or groups of either.
        transform: what steps, with or without its learning rate, as in ``from_transform``.
        lr: default learning rate of the groups.
        rho: how far the adversary goes, >= 0; default of the groups.
        **options: defaults of other group options.

    Raises:
        ValueError, TypeError: another ``rho``, or what ``from_transform`` raises.

    Source: arXiv 2010.01412.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> opt = gx.optim.SAM([w], gx.sgd(0.1), rho=0.5)
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = (w**2).sum()
    ...     loss.backward()
    ...     return loss
    >>> _ = opt.step(closure)
    >>> w.data  # 1 - 0.1 * 2 * 1.5
    tensor([0.7000])
    """

    def __init__(
        self,
        params: Any,
        transform: GradientTransformation,
        lr: Any = None,
        rho: float = 0.05,
        **options: Any,
    ) -> None:
        _RHO.check("SAM", "rho", rho)
        adversary = chain(scale(-1.0), normalize_by_update_norm(rho, _TINY))
        super().__init__(params, sam(transform, adversary, opaque_mode=True), lr, **options)

    def _chain_options(self) -> Mapping[str, Option]:
        found = options_of(self.transform, _RENAMED)
        return found | {"rho": replace(found["rho"], within=_RHO.within)}

    def _check_step(self) -> None:
        for group in self.param_groups:  # the chain would take a negative one
            _RHO.check("SAM", "rho", group["rho"])
