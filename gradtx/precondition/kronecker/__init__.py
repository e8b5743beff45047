"""Preconditioners made of a factor for every side of a block."""

from .blocks import BlockPlan, blocks
from .eigenbasis import eigenbasis
from .factors import kronecker_factors
from .grafted import grafted
from .in_eigenbasis import EigenbasisLeaf, InEigenbasisState, in_eigenbasis
from .inverse_roots import InverseRootsLeaf, scale_by_inverse_roots
from .spectrum import spectrum

__all__ = [
    "BlockPlan",
    "EigenbasisLeaf",
    "InEigenbasisState",
    "InverseRootsLeaf",
    "blocks",
    "eigenbasis",
    "grafted",
    "in_eigenbasis",
    "kronecker_factors",
    "scale_by_inverse_roots",
    "spectrum",
]
