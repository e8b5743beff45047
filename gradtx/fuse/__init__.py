"""Chains as a few compiled passes over memory: trace, schedule, emit, launch."""

from .ir import cache
from .ir.errors import CannotFuseError
from .runtime.batch import Rows
from .runtime.executor import Step, fuse
from .runtime.explain import explain
from .runtime.fallback import FALLBACKS, Fallback
from .runtime.nested import NestedEngine
from .runtime.prepared import Prepared, write_all
from .runtime.written import Written

__all__ = [
    "FALLBACKS",
    "CannotFuseError",
    "Fallback",
    "NestedEngine",
    "Prepared",
    "Rows",
    "Step",
    "Written",
    "cache",
    "explain",
    "fuse",
    "write_all",
]
