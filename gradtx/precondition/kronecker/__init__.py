"""Preconditioners made of a factor for every side of a block."""

from .blocks import BlockPlan, blocks
from .eigenbasis import eigenbasis
from .factors import kronecker_factors
from .in_eigenbasis import EigenbasisLeaf, InEigenbasisState, in_eigenbasis
from .spectrum import spectrum

__all__ = [
    "BlockPlan",
    "EigenbasisLeaf",
    "InEigenbasisState",
    "blocks",
    "eigenbasis",
    "in_eigenbasis",
    "kronecker_factors",
    "spectrum",
]
