"""Chains as a few compiled passes over memory: trace, schedule, emit, launch."""

from .errors import CannotFuseError
from .executor import Step, fuse
from .explain import explain
from .nested import NestedEngine

__all__ = ["CannotFuseError", "NestedEngine", "Step", "explain", "fuse"]
