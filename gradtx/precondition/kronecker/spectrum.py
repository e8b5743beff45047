"""Eigenvalues of Kronecker factors that are followed at every step, between refreshes too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.fields import static
from .policy import Policy
from .stacks import along


@dataclass(frozen=True, repr=False)
class spectrum(Policy):
    """The inverse roots of the eigenvalues of KL factors, in the basis that there is.

    D <- b D + (1 - b) mean of (rotated G, times the roots of all other sides)^2; e = D^(-1/2).

    Args:
        source: "tracked" averages D at every update; "factors" takes the diagonal of the factors.
        init: the first eigenvalues, >= 0.
        clamp: largest inverse root, >= 10.
        bound: "side" takes max(10, min(d, clamp)) for a side of length d, "fixed" the clamp itself,
            "relative" the first one times the inverse root of the mean eigenvalue.
        damping: added to D times the mean squared roots of all other sides, >= 0.
        floor: smallest eigenvalue, >= 0.
        precondition: multiply what the inner transform gives by the roots.
        eps: with ``precondition``, the product E of the roots counts as E / (1 + eps E), >= 0.

    Raises:
        ValueError: a value that is not among these.

    Source: arXiv 2509.03378.

    >>> import gradtx as gx
    >>> gx.spectrum(clamp=1.0)
    Traceback (most recent call last):
    ValueError: spectrum: clamp must be in [10, inf], got 1.0
    """

    source: Literal["tracked", "factors"] = "tracked"
    init: float = static(0.1, within="[0, inf)")
    clamp: float = static(4000.0, within="[10, inf]")
    bound: Literal["side", "fixed", "relative"] = "side"
    damping: float = static(0.0, within="[0, inf)")
    floor: float = static(0.0, within="[0, inf)")
    precondition: bool = False
    eps: float = static(1e-8, within="[0, inf)")

    def __post_init__(self) -> None:
        if self.source == "tracked" and not self.init > 0:
            raise ValueError(f"spectrum: init must be > 0, got {self.init}")
        if self.source == "factors" and not self.floor > 0:
            raise ValueError("spectrum: source='factors' needs a floor > 0")

    def first(self, factor: Tensor) -> Tensor:
        """The inverse roots (n, d) before there are eigenvalues."""
        value = 1 / math.sqrt(max(self.init, self.floor))
        return torch.full(factor.shape[:-1], value, dtype=factor.dtype, device=factor.device)

    def of_factor(self, factor: Tensor) -> Tensor:
        """The inverse roots of the diagonal of a factor (n, d, d)."""
        return factor.diagonal(dim1=-2, dim2=-1).clamp(min=self.floor).rsqrt()

    def following(
        self, root: Tensor, mean: Tensor, others: Tensor, old: Tensor, new: Tensor
    ) -> Tensor:
        """The inverse roots of one side after another gradient.

        Args:
            root: (n, d), those before.
            mean: (n, d), mean squares of the gradient preconditioned along the other sides.
            others: (n,), product of the mean squared roots of the other sides.
            old: weight of what there was, (n,).
            new: weight of the new one, (n,).
        """
        if self.damping:
            mean = mean + self.damping * others[:, None]
        before = torch.where(root > 0, root.square().reciprocal(), 0.0)
        values = old[:, None] * before + new[:, None] * mean
        if self.floor:
            values = values.clamp(min=self.floor)
        roots = torch.where(values == 0, 0.0, values.rsqrt())
        most = self.clamp if self.bound == "fixed" else max(10.0, min(root.shape[-1], self.clamp))
        if self.bound == "relative":
            return torch.minimum(
                roots, most * values.mean(-1, keepdim=True).clamp(min=1e-38).rsqrt()
            )
        return roots.clamp(max=most)

    def applied(self, x: Tensor, roots: tuple[Tensor, ...], sides: tuple[int, ...]) -> Tensor:
        """Blocks (n, d_1, .. d_o), times the product of the roots of their sides."""
        order = x.ndim - 1
        if not self.eps:
            for root, side in zip(roots, sides, strict=True):
                x = x * along(root, side, order)
            return x
        inverse: Tensor | float = 1.0
        for root, side in zip(roots, sides, strict=True):
            inverse = inverse * along(
                torch.where(root > 0, root.reciprocal(), torch.inf), side, order
            )
        return x / (inverse + self.eps)
