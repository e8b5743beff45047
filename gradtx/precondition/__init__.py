"""Preconditioners of whole matrices."""

from .ggt import GGTLeaf, precondition_ggt
from .inverse_roots import matrix_root
from .kronecker import (
    BlockPlan,
    EigenbasisLeaf,
    InEigenbasisState,
    InverseRootsLeaf,
    blocks,
    eigenbasis,
    grafted,
    in_eigenbasis,
    kronecker_factors,
    scale_by_inverse_roots,
    spectrum,
)
from .mfac import precondition_mfac
from .orthogonalize import orthogonalize
from .psgd import PreconditionByKronState, precondition_by_kron
from .shape import NormalizeNeuronsState, normalize_factor, normalize_neurons, scale_by_shape
from .window import GradientWindowState, WindowLeaf, gradient_window
from .window_rows import DenseRows, LowRankRows, SparseRows

__all__ = [
    "BlockPlan",
    "DenseRows",
    "EigenbasisLeaf",
    "GGTLeaf",
    "GradientWindowState",
    "InEigenbasisState",
    "InverseRootsLeaf",
    "LowRankRows",
    "NormalizeNeuronsState",
    "PreconditionByKronState",
    "SparseRows",
    "WindowLeaf",
    "blocks",
    "eigenbasis",
    "gradient_window",
    "grafted",
    "in_eigenbasis",
    "kronecker_factors",
    "matrix_root",
    "normalize_factor",
    "normalize_neurons",
    "orthogonalize",
    "precondition_by_kron",
    "precondition_ggt",
    "precondition_mfac",
    "scale_by_inverse_roots",
    "scale_by_shape",
    "spectrum",
]
