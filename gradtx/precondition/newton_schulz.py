"""Orthogonal factors of matrices by Newton-Schulz iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.symmetric_product import has_mixed_products, product
from ..ops.symmetric_product import symmetric_product as symmetric
from .gram import Triple, factor, parts_of, squared


@dataclass(frozen=True)
class Polynomials:
    """A set of odd polynomials ``a x + b x^3 + c x^5`` and how matrices are scaled for it.

    Attributes:
        triples: the coefficients, iteration by iteration; the last ones repeat.
        scaling: "add" divides by safety * |X|_F + eps, "clamp" by max(safety * |X|_F, eps),
            "rows" multiplies rows by 1 / sqrt(max(sum_j |(X X^T)_ij|, eps)).
        safety: factor on the norm, >= 1.
    """

    triples: tuple[Triple, ...]
    scaling: str = "add"
    safety: float = 1.0


# Muon (Jordan 2024); arXiv 2505.16932; the five and four polynomials are published with Muon's and
# Dion's GPU kernels.
SETS: dict[str, Polynomials] = {
    "quintic5": Polynomials(((3.4445, -4.7750, 2.0315),) * 5),
    "polar_express5": Polynomials(
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        safety=1.02,
    ),
    "five_polynomials": Polynomials(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        )
    ),
    "aol4": Polynomials(
        (
            (4.6051, -9.6552, 5.6769),
            (4.7505, -6.0861, 2.1790),
            (2.7763, -2.3190, 0.5523),
            (2.4231, -2.2861, 0.8193),
        ),
        scaling="rows",
    ),
}
SCALINGS = ("add", "clamp", "rows")
FORMS = ("plain", "gram")


def triples_of(who: str, coefficients: str | Sequence[object]) -> tuple[Triple, ...]:
    """The triples of a set, of one triple, or of a list of them.

    Raises:
        ValueError: an unknown name, or something that is no triple of numbers.
    """
    if isinstance(coefficients, str):
        if coefficients not in SETS:
            raise ValueError(
                f"{who}: coefficients must be one of {tuple(SETS)}, 'svd' or triples of numbers, "
                f"got {coefficients!r}"
            )
        return SETS[coefficients].triples
    rows: tuple[Any, ...] = tuple(coefficients)
    if rows and all(isinstance(x, (int, float)) for x in rows):
        rows = (rows,)
    for row in rows or ((),):
        numbers = isinstance(row, Sequence) and all(isinstance(x, (int, float)) for x in row)
        if not numbers or len(row) != 3:
            raise ValueError(f"{who}: coefficients must be triples of numbers, got {row!r}")
    return tuple((float(a), float(b), float(c)) for a, b, c in rows)


def newton_schulz(
    x: Tensor,
    triples: Sequence[Triple],
    scaling: str,
    safety: float,
    eps: float,
    form: str | None = "plain",
) -> Tensor:
    """An approximation of the orthogonal factor of every matrix of a batch.

    With A = X X^T (of tall matrices X^T X, from the right): X <- a X + (b A + c A^2) X for every
    triple. The "gram" form makes that several times in a row on A alone, see ``parts_of``; in
    bfloat16 with everything but the factors of products in float32, where that takes fewer parts.

    Args:
        x: (batch, rows, columns), in the dtype of the iteration.
        triples: coefficients, one iteration each.
        scaling: "add", "clamp" or "rows", see ``Polynomials``.
        safety: factor on the norm.
        eps: of the scaling.
        form: "plain", "gram", or None for what suits the shape.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = _scaled(x, tall, scaling, safety, eps)
    on_gram = (form or _best_form(x)) == "gram"
    parts: Sequence[Sequence[Triple]] = [(triple,) for triple in triples]
    mixed = False
    if on_gram:
        parts = parts_of(triples, x.dtype)
        if x.dtype == torch.bfloat16 and has_mixed_products(x):
            fewer = parts_of(triples, x.dtype, mixed=True)
            mixed = len(fewer) < len(parts)
            parts = fewer if mixed else parts
    for part in parts:
        several = len(part) > 1
        a, b, c = part[0]
        gram = symmetric(*_twins(x, tall), mixed=mixed and several)
        z = squared(gram, b, c, x.dtype)
        if several:
            q = factor(gram, z, part, mixed).to(x.dtype)
            x = product(x, q) if tall else product(q, x)
        else:
            x = product(x, z, x, a) if tall else product(z, x, x, a)
    return x


def _twins(x: Tensor, tall: bool) -> tuple[Tensor, Tensor]:
    """The factors of A."""
    return (x.mT, x) if tall else (x, x.mT)


def _best_form(x: Tensor) -> str:
    """The one with fewer multiplications, for matrices whose products take the time."""
    short, long = sorted(x.shape[-2:])
    return "gram" if short >= 256 and long >= 1.5 * short else "plain"


def _scaled(x: Tensor, tall: bool, scaling: str, safety: float, eps: float) -> Tensor:
    if scaling == "rows":
        gram = symmetric(*_twins(x, tall))
        sums = gram.abs().sum(-2 if tall else -1, keepdim=True)
        return x * torch.rsqrt(torch.clamp(sums, min=eps))
    norm = safety * _norm(x)
    norm = norm + eps if scaling == "add" else torch.clamp(norm, min=eps)
    return x / norm.to(x.dtype)


def _norm(x: Tensor) -> Tensor:
    """|X|_F in a wider dtype: the squares of large numbers overflow."""
    if x.dtype == torch.bfloat16:  # row by row: a copy of x in another dtype takes longer
        x = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    wide = torch.promote_types(x.dtype, torch.float32)
    wide = torch.float64 if x.dtype == torch.float32 else wide
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)


def polar_factor(x: Tensor) -> Tensor:
    """``U V^T`` of the singular value decompositions of a batch; vanishing directions stay zero."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    largest = s[..., :1]
    tolerance = largest * (max(x.shape[-2:]) * torch.finfo(x.dtype).eps)
    kept = (s > tolerance).to(x.dtype)
    return (u * kept[..., None, :]) @ vh
