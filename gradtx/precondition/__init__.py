"""Preconditioners of whole matrices."""

from .inverse_roots import matrix_root
from .orthogonalize import orthogonalize
from .shape import NormalizeNeuronsState, normalize_factor, normalize_neurons, scale_by_shape

__all__ = [
    "NormalizeNeuronsState",
    "matrix_root",
    "normalize_factor",
    "normalize_neurons",
    "orthogonalize",
    "scale_by_shape",
]
