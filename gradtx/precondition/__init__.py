"""Preconditioners of whole matrices."""

from .orthogonalize import orthogonalize
from .shape import NormalizeNeuronsState, normalize_factor, normalize_neurons, scale_by_shape

__all__ = [
    "NormalizeNeuronsState",
    "normalize_factor",
    "normalize_neurons",
    "orthogonalize",
    "scale_by_shape",
]
