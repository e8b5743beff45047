"""Averages of what a gradient is along each of its sides: Shampoo's Kronecker factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.fields import static
from ...core.hyper import one_minus_power
from ...core.tree import accumulator_dtype
from ...ops.matrix_powers import may_look
from ...ops.symmetric_product import symmetric_product
from .policy import Policy
from .stacks import unfolded

PRODUCTS = (None, torch.bfloat16)  # dtypes that their factors are rounded to


def _check_exponents(who: str, name: str, exponents: Any) -> None:
    for order, given in exponents:
        each = given if isinstance(given, tuple) else (given,)
        if order < 0 or len(each) not in (1, order) or not all(e >= 0 for e in each):
            raise ValueError(
                f"{who}: {name} must be pairs of a number of dimensions and an exponent >= 0, or "
                f"one a side, got {(order, given)!r}"
            )


@dataclass(frozen=True, repr=False)
class kronecker_factors(Policy):
    """What is gathered of blocks G along their sides, for preconditioners.

    L_i <- b L_i + (1 - b) W W^T with W the block as a matrix whose rows lie along side i. In the
    form "plain" W is G. In the form "kl" it is G, preconditioned along all other sides, and W W^T
    is divided by the number of its columns: the factors of the covariance that is nearest in the
    Kullback-Leibler divergence.

    Args:
        b: decay of the average, in [0, 1]; 1 sums up.
        form: "plain" or "kl".
        bias_correction: divide by 1 - b^t, by which averages lack at first.
        average: False for b L_i + W W^T.
        max_dim: longest side that has a factor, >= 1; None for any.
        one_dim: whether blocks of one dimension have a factor.
        sides: "all", or "short" for the shorter one of matrices alone.
        exponents: powers -e of the factors in ``gx.scale_by_inverse_roots`` where they are not
            1 / (2 o) for blocks of o dimensions: pairs of o and a number, or a number a side; of a
            side whose number is zero there is no factor.
        whole_first: let the first gradient count in full, not 1 - b.
        packed: keep the upper triangles alone, in half the memory.
        matmul_dtype: bfloat16 for products of what is rounded to it; sums stay in float32.
        columns: in the form "kl", the "mean" of what columns of W give, or the "sum".

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1802.09568, arXiv 2509.03378.

    >>> import gradtx as gx
    >>> gx.kronecker_factors(0.95, max_dim=1000).of((2000, 10))
    (1,)
    """

    b: float = static(0.95, within="[0, 1]")
    form: Literal["plain", "kl"] = "plain"
    bias_correction: bool = False
    average: bool = True
    max_dim: int | None = static(None, at_least=1)
    one_dim: bool = False
    sides: Literal["all", "short"] = "all"
    exponents: tuple[tuple[int, Any], ...] = static((), check=_check_exponents)
    whole_first: bool = False
    packed: bool = False
    matmul_dtype: torch.dtype | None = static(None, choices=PRODUCTS)
    columns: Literal["mean", "sum"] = "mean"

    @property
    def sums(self) -> bool:
        """Whether factors are sums, so that there is no bias."""
        return self.b == 1 or not self.average

    def of(self, block: Sequence[int]) -> tuple[int, ...]:
        """The sides of a block that have a factor."""
        if 0 in block or (len(block) == 1 and not self.one_dim):
            return ()
        most = max(block, default=0) if self.max_dim is None else self.max_dim
        found = tuple(
            i for i, d in enumerate(block) if d <= most and self.exponent(len(block), i) > 0
        )
        if self.sides == "short" and len(block) > 1:
            return found and (min(found, key=lambda i: block[i]),)
        return found

    def exponent(self, order: int, side: int) -> float:
        """The power -e of a side's factor in blocks of so many dimensions."""
        given = dict(self.exponents).get(order, 1 / (2 * max(order, 1)))
        return float(given[side]) if isinstance(given, tuple) else float(given)

    def init(self, block: Sequence[int], n: int, like: Tensor) -> tuple[Tensor, ...]:
        """Zeros for n blocks of one shape, one tensor a side that has a factor."""
        dtype, device = accumulator_dtype(like.dtype), like.device
        shapes = [
            (d * (d + 1) // 2,) if self.packed else (d, d)
            for d in map(block.__getitem__, self.of(block))
        ]
        return tuple(torch.zeros(n, *shape, dtype=dtype, device=device) for shape in shapes)

    def weights(
        self, step: Tensor, dtype: torch.dtype, corrected: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What the old factor and the new product count, 0-d; ``step`` includes this one.

        Without ``corrected`` they do not depend on the step, and ``correction`` is left to do.
        """
        one = torch.ones((), dtype=dtype, device=step.device)
        if self.sums:
            return self.b * one, one
        new = (1 - self.b) * one
        if not corrected:
            return self.b * one, new
        if self.bias_correction:
            new = new / one_minus_power(self.b, step, dtype)
        return one - new, new

    def correction(self, step: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What averages are divided by, 0-d; None for nothing."""
        if self.sums or not self.bias_correction:
            return None
        return one_minus_power(self.b, step, dtype)

    def updated(self, factor: Tensor, w: Tensor, side: int, old: Tensor, new: Tensor) -> Tensor:
        """The factor of one side after another gradient.

        Args:
            factor: (n, d, d), not packed.
            w: blocks (n, d_1, .. d_o).
            side: which one.
            old: weight of what there was, (n,).
            new: weight of the new one, (n,).
        """
        x = unfolded(w, side)
        if self.form == "kl" and self.columns == "mean":
            new = new / max(x.shape[-1], 1)
        mixed = self.matmul_dtype is not None and x.dtype == torch.float32
        if not len(x) or not (may_look(old) and may_look(new)):
            gram = symmetric_product(x, x.mT, mixed=mixed)
            return old[:, None, None] * factor + new[:, None, None] * gram
        weights = list(zip(old.tolist(), new.tolist(), strict=True))
        alike = all(pair == weights[0] for pair in weights)
        sums = [
            symmetric_product(x[at], x[at].mT, factor[at], beta, alpha, mixed)
            for at, (beta, alpha) in (
                [(slice(None), weights[0])]
                if alike
                else [(slice(i, i + 1), pair) for i, pair in enumerate(weights)]
            )
        ]
        return sums[0] if alike else torch.cat(sums)

    def kept(self, factor: Tensor) -> Tensor:
        """A factor as it is stored."""
        if not self.packed:
            return factor
        i, j = torch.triu_indices(*factor.shape[-2:], dtype=torch.int64, device=factor.device)
        return factor[:, i, j]

    def whole(self, kept: Tensor) -> Tensor:
        """The factor (n, d, d) of what is stored."""
        if not self.packed:
            return kept
        d = int(((8 * kept.shape[-1] + 1) ** 0.5 - 1) / 2 + 0.5)
        at = torch.arange(d, dtype=torch.int64, device=kept.device)
        low, high = torch.minimum(at[:, None], at), torch.maximum(at[:, None], at)
        return kept[:, low * (2 * d - low - 1) // 2 + high]
