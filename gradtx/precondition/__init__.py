"""Preconditioners of whole matrices."""

from .inverse_roots import matrix_root
from .kronecker import (
    BlockPlan,
    EigenbasisLeaf,
    InEigenbasisState,
    blocks,
    eigenbasis,
    in_eigenbasis,
    kronecker_factors,
    spectrum,
)
from .orthogonalize import orthogonalize
from .shape import NormalizeNeuronsState, normalize_factor, normalize_neurons, scale_by_shape

__all__ = [
    "BlockPlan",
    "EigenbasisLeaf",
    "InEigenbasisState",
    "NormalizeNeuronsState",
    "blocks",
    "eigenbasis",
    "in_eigenbasis",
    "kronecker_factors",
    "matrix_root",
    "normalize_factor",
    "normalize_neurons",
    "orthogonalize",
    "scale_by_shape",
    "spectrum",
]
