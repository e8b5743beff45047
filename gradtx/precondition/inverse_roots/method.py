"""What a method of inverse roots is."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from ...core.plain import Plain
from ...ops.matrix_powers import identity

LOW = (None, torch.float16, torch.bfloat16)
WIDE = (None, torch.float64)
DENOMINATOR = 10  # the largest of rational roots


class RootMethod(Plain):
    """Base class of methods: frozen dataclasses that turn stacks into inverse roots."""

    dtype: torch.dtype | None = None  # what is computed in, None for that of the stack
    roots: ClassVar[str] = "any"  # or "rational", "integer", "2 or 4"

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def drops_zeros(self) -> bool:
        """Whether directions without any size have no part in the root."""
        return False

    def check(self, p: float) -> None:
        """Raise ValueError unless the method knows this root."""
        near = Fraction(p).limit_denominator(DENOMINATOR)
        allowed = {
            "any": True,
            "rational": near > 0 and abs(near - Fraction(p)) < 1e-6,
            "integer": float(p).is_integer(),
            "2 or 4": p in (2, 4),
        }
        if not allowed[self.roots]:
            raise ValueError(f"{self.name}: p must be {self.roots}, got {p}")

    def root(self, a: Tensor, ridge: float | Tensor, p: float, start: Tensor | None) -> Tensor:
        """The inverse p-th roots of ``a + ridge I``.

        Args:
            a: (batch, n, n), finite, no matrix of zeros alone, n >= 1.
            ridge: number or (batch, 1, 1).
            p: a root that `check` accepts.
            start: vectors for a power iteration, (batch, n, vectors).
        """
        raise NotImplementedError


def with_ridge(a: Tensor, ridge: float | Tensor) -> Tensor:
    """``a + ridge I``."""
    if isinstance(ridge, float) and ridge == 0:
        return a
    return a + ridge * identity(a)
