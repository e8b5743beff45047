"""Orthogonal factors of matrices by Newton-Schulz iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import decompositions
from ..core.roots import root, vector_norm
from ..core.watch import is_watched
from ..ops.newton_schulz import Triple, is_tall, twins
from ..ops.newton_schulz import newton_schulz as iterations
from ..ops.symmetric_product import has_mixed_products
from ..ops.symmetric_product import symmetric_product as symmetric
from .diagonal_root import diagonal_root
from .gram import parts_of


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
SCALINGS = ("add", "clamp", "rows", "schatten4")
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
    xs: Sequence[Tensor],
    triples: Sequence[Triple],
    scaling: str,
    safety: float,
    eps: float,
    dtype: torch.dtype,
    form: str | None = "plain",
    scale: float = 1.0,
) -> Tensor:
    """Approximations of the orthogonal factors of all matrices of these batches, as one batch.

    With A = X X^T (of tall matrices X^T X, from the right): X <- a X + (b A + c A^2) X for every
    triple. The "gram" form makes that several times in a row on A alone, see ``parts_of``; in
    bfloat16 with everything but the factors of products in float32, where that takes fewer parts.

    Args:
        xs: (batch, rows, columns) of one shape but for the batch.
        triples: coefficients, one iteration each.
        scaling: "add", "clamp" or "rows", see ``Polynomials``; "schatten4" divides by
            max(|X X^T|_F^(1/2), eps), which is closer to the largest singular value.
        safety: factor on the norm.
        eps: of the scaling.
        dtype: of the iteration.
        form: "plain", "gram", or None for what suits the shape.
        scale: factor on the results.
    """
    if scaling == "rows":
        wide = torch.promote_types(xs[0].dtype, dtype)
        xs, scaling = [_by_rows(x.to(dtype), eps).to(wide) for x in xs], "none"
    if scaling == "schatten4":
        wide = torch.promote_types(xs[0].dtype, dtype)
        xs, scaling = [x.to(wide) / schatten4(x.to(wide), safety, eps) for x in xs], "none"
    parts: Sequence[Sequence[Triple]] = [(triple,) for triple in triples]
    mixed = False
    if (form or _best_form(xs[0])) == "gram":
        parts = parts_of(triples, dtype)
        if dtype == torch.bfloat16 and has_mixed_products(xs[0]):
            fewer = parts_of(triples, dtype, mixed=True)
            mixed = len(fewer) < len(parts)
            parts = fewer if mixed else parts
    return iterations(xs, parts, scaling, safety, eps, dtype, mixed, scale)


def _best_form(x: Tensor) -> str:
    """The one with fewer multiplications, for matrices whose products take the time."""
    short, long = sorted(x.shape[-2:])
    least = 128 if x.device.type == "cpu" else 256
    return "gram" if short >= least and long >= 1.5 * short else "plain"


def _by_rows(x: Tensor, eps: float) -> Tensor:
    """Rows, of tall matrices columns, such that no singular value is larger than one."""
    sums = symmetric(*twins(x)).abs().sum(-2 if is_tall(x) else -1, keepdim=True)
    return x * torch.rsqrt(torch.clamp(sums, min=eps))


def schatten4(x: Tensor, safety: float = 1.0, eps: float = 0.0) -> Tensor:
    """``max(safety |X X^T|_F^(1/2), eps)`` of (batch, rows, columns), as (batch, 1, 1)."""
    # Fourth powers of entries leave the range of float32 at 1e9 already.
    size = x.detach().abs().amax((-2, -1), keepdim=True)  # (batch, 1, 1)
    size = torch.where((size > 0) & torch.isfinite(size), size, 1.0)
    gram = symmetric(*twins(x / size))  # (batch, short, short)
    norm = vector_norm(gram, dim=(-2, -1), keepdim=True)
    return torch.clamp(safety * size * root(norm), min=eps)


def polar_factor(x: Tensor) -> Tensor:
    """``U V^T`` of the singular value decompositions of a batch; vanishing directions stay zero.

    A matrix that is not finite, which decompositions refuse, becomes NaN. Derivatives are those of
    ``X (X^T X)^(-1/2)``, finite for equal singular values.
    """
    finite = torch.isfinite(x).all((-2, -1), keepdim=True)
    x = torch.where(finite, x, 0.0)
    u, s, vh = decompositions.svd(
        x.detach(), full_matrices=False
    )  # s: (batch, short), u: (batch, rows, short)
    tolerance = s[..., :1] * (max(x.shape[-2:]) * torch.finfo(x.dtype).eps)
    kept = s > tolerance
    out = (u * kept[..., None, :]) @ vh
    if is_watched(x):
        out = out + _no_more_than_derivatives(x, u, s, vh, kept)
    return torch.where(finite, out, torch.nan)


def _no_more_than_derivatives(x: Tensor, u: Tensor, s: Tensor, vh: Tensor, kept: Tensor) -> Tensor:
    """Zeros with the derivatives of polar factors, whose directions that are not kept are zero."""
    tall = x.shape[-2] >= x.shape[-1]
    x, basis = (x, vh.mT) if tall else (x.mT, u)
    y = (x @ basis) * kept[..., None, :]  # (batch, long, short), columns at right angles
    square = y.mT @ y + torch.diag_embed((~kept).to(x.dtype))
    root = diagonal_root(square, torch.where(kept, s, 1.0))
    out = y @ torch.linalg.inv(root) @ basis.mT
    out = out - out.detach()
    return out if tall else out.mT
