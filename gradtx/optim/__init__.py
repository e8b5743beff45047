"""Chains as ``torch.optim.Optimizer``: ``from_transform`` and one class per recipe."""

from .from_transform import TransformOptimizer, from_transform
from .optimizer import Optimizer

__all__ = ["Optimizer", "TransformOptimizer", "from_transform"]
