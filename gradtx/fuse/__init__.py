"""Chains as a few compiled passes over memory: trace, schedule, emit, launch."""

from .executor import Step, fuse

__all__ = ["Step", "fuse"]
