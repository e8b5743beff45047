"""Torch optimizer classes of the recipes that divide by a diagonal of the Hessian."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer


class AdaHessian(RecipeOptimizer, recipe=recipes.adahessian):
    """Adam over a squared diagonal of the Hessian; the chain is ``gx.adahessian``.

    Every step needs it: ``step(hessian=...)`` takes a tensor for every parameter, in their order or
    by parameter, of what is minimized.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.AdaHessian([w], lr=0.1)
    >>> w.square().sum().backward()
    >>> opt.step(hessian=[torch.full((2,), 2.0)])
    """


class Sophia(RecipeOptimizer, recipe=recipes.sophia):
    """Momentum over a mean diagonal of the Hessian, clipped; the chain is ``gx.sophia``.

    Every tenth step or so is to have it: ``step(hessian=...)`` takes a tensor for every parameter,
    in their order or by parameter, of what is minimized.
    """
