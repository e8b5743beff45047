"""Kronecker factors that are fitted so that preconditioned updates become white."""

from .kron import PreconditionByKronState, precondition_by_kron

__all__ = ["PreconditionByKronState", "precondition_by_kron"]
