"""Every optimizer class that can be made from parameters alone, with options for small leaves."""

from __future__ import annotations

import inspect
from typing import Any

import torch

import gradtx as gx

_SMALL: dict[str, Any] = {"rank": 2, "min_size": 0, "window": 3}


def _classes() -> list[type]:
    found = {getattr(gx.optim, name) for name in gx.optim.__all__}
    classes = [c for c in found if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]
    generic = (
        *(gx.optim.Optimizer, gx.optim.TransformOptimizer, gx.optim.RecipeOptimizer),
        *(gx.optim.ScheduleFreeOptimizer, gx.optim.ProdigyOptimizer),
        *(gx.optim.EvaluatingOptimizer, gx.optim.EvaluatingTransformOptimizer),
    )
    # Their steps need a closure, and their tests are in test_evaluating.py; or they need a chain.
    generic += (gx.optim.LBFGS, gx.optim.SAM, gx.optim.Mechanize)
    return sorted((c for c in classes if c not in generic), key=lambda c: c.__name__)


CLASSES = _classes()


def make(cls: type, params: Any, **options: Any) -> torch.optim.Optimizer:
    """An optimizer of a class, whose subspaces and windows fit small leaves."""
    known = inspect.signature(cls).parameters
    small = {k: v for k, v in _SMALL.items() if k in known and cls is not gx.optim.SNSM}
    return cls(params, **{**small, **options})
