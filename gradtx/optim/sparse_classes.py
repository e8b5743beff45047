"""Torch optimizer classes that train sparse networks."""

from __future__ import annotations

from .. import recipes
from .recipe_optimizer import RecipeOptimizer


class ACDC(RecipeOptimizer, recipe=recipes.acdc_sgd, defaults={"lr": 0.1}):
    """SGD that alternates between sparse and dense phases; the chain is ``gx.acdc_sgd``.

    ``schedule`` says when masks change, in steps; the default never prunes. Before the forward
    pass of a step that prunes, ``gx.optim.project(optimizer)`` zeroes what is going to be pruned;
    without it that one gradient is taken at the dense weights. Groups with ``sparse=False`` stay
    dense. Other optimizers: ``gx.optim.from_transform(gx.acdc(gx.adamw(1e-3), schedule), params)``.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 1.0, 2.0, 4.0]]))
    >>> phases = gx.sparsity.phases(("dense", 1), ("sparse", 9))
    >>> opt = gx.optim.ACDC([w], lr=0.1, schedule=phases, support=0.25)
    >>> for _ in range(2):
    ...     gx.optim.project(opt)
    ...     w.grad = torch.ones_like(w)
    ...     opt.step()
    >>> w.data
    tensor([[2.7100, 0.0000, 0.0000, 3.7100]])
    """
