"""Published optimizers as chains, one family a module."""

from .adam import adamw

__all__ = ["adamw"]
