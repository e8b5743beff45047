"""Torch optimizer classes of the recipes whose step sizes follow distances, bets or estimates."""

from __future__ import annotations

from typing import Any

from .. import recipes
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer


class ACProp(RecipeOptimizer, recipe=recipes.acprop):
    """The gradient over the variance before it; the chain is ``gx.acprop``."""


class COCOB(RecipeOptimizer, recipe=recipes.cocob):
    """Bets on coordinates, without a learning rate to be found; the chain is ``gx.cocob``."""


class DAdaptAdamW(RecipeOptimizer, recipe=recipes.dadapt_adamw):
    """AdamW that estimates its learning rate; the chain is ``gx.dadapt_adamw``."""


class DoG(RecipeOptimizer, recipe=recipes.dog):
    """Steps of distance over gradients; the chain is ``gx.dog``."""


class DoWG(RecipeOptimizer, recipe=recipes.dowg):
    """Steps of squared distance over weighted gradients; the chain is ``gx.dowg``."""

    @classmethod
    def build(cls, init_distance: float = 1e-4, **arguments: Any) -> GradientTransformation:
        if init_distance is None:  # a state that begins with eps would not follow the group's
            raise TypeError("DoWG: init_distance must be a number > 0, got None")
        return cls.recipe(init_distance=init_distance, **arguments)


class Fromage(RecipeOptimizer, recipe=recipes.fromage):
    """Steps of a share of every leaf's norm, without growth; the chain is ``gx.fromage``."""


class MADGRAD(RecipeOptimizer, recipe=recipes.madgrad):
    """Dual averages over cube roots of squares; the chain is ``gx.madgrad``."""


class MoMo(RecipeOptimizer, recipe=recipes.momo):
    """Momentum whose step size follows from the loss; the chain is ``gx.momo``.

    ``step`` needs the loss: a closure that returns it, or ``step(value=loss)``.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.MoMo([w], lr=0.1)
    >>> loss = w.square().sum()
    >>> loss.backward()
    >>> opt.step(value=loss)
    """


class MoMoAdam(RecipeOptimizer, recipe=recipes.momo_adam):
    """Adam whose step size follows from the loss; the chain is ``gx.momo_adam``.

    ``step`` needs the loss: a closure that returns it, or ``step(value=loss)``.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.MoMoAdam([w], lr=0.1)
    >>> loss = w.square().sum()
    >>> loss.backward()
    >>> opt.step(value=loss)
    """


class OptimisticAdam(RecipeOptimizer, recipe=recipes.optimistic_adam):
    """Adam that looks one step ahead, for games; the chain is ``gx.optimistic_adam``."""


class PolyakSGD(RecipeOptimizer, recipe=recipes.polyak_sgd):
    """Steps of the gap to the least loss over the squared norm; the chain is ``gx.polyak_sgd``.

    ``step`` needs the loss: a closure that returns it, or ``step(value=loss)``.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.PolyakSGD([w], lr=0.1)
    >>> loss = w.square().sum()
    >>> loss.backward()
    >>> opt.step(value=loss)
    """
