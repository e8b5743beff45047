"""Chains as a few compiled passes over memory: trace, schedule, emit, launch."""

from .errors import CannotFuseError
from .executor import Step, fuse
from .explain import explain
from .fallback import FALLBACKS, Fallback
from .nested import NestedEngine
from .prepared import Prepared, write_all
from .written import Written

__all__ = [
    "FALLBACKS",
    "CannotFuseError",
    "Fallback",
    "NestedEngine",
    "Prepared",
    "Step",
    "Written",
    "explain",
    "fuse",
    "write_all",
]
