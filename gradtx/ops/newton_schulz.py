"""The operator ``gradtx::newton_schulz``: several iterations on several matrices of one shape.

    newton_schulz(Tensor[] xs, float[] coefficients, int[] parts, str scaling, float safety,
                  float eps, ScalarType dtype, bool mixed, float scale) -> Tensor

The kernel keeps matrices packed between products, in float32 and bfloat16. Where there are enough
of them a thread has one to itself, in scratch for one matrix a thread: for a matrix of m x n with
n <= m, iterated in bfloat16, 2 m n + 12 n^2 bytes, of which the process keeps up to 32 MiB. The
reference is made of ``product`` and ``symmetric_product`` and is what is differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradtx.core.autocast import outside_autocast
from gradtx.core.roots import vector_norm
from gradtx.core.watch import is_watched
from gradtx.ops.registry import NAMESPACE, Op, operator, require_together, single
from gradtx.ops.symmetric_product import product
from gradtx.ops.symmetric_product import symmetric_product as symmetric

__all__ = ["Triple", "definition", "is_tall", "newton_schulz", "twins"]

Triple = tuple[float, float, float]
SCALINGS = ("add", "clamp", "none")

_ARGUMENTS = (
    "(Tensor[] xs, float[] coefficients, int[] parts, str scaling, float safety, float eps, "
    "ScalarType dtype, bool mixed, float scale) -> Tensor"
)
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def definition(x: Tensor, triples: Sequence[Triple]) -> Tensor:
    """The iterations, for matrices that are not tall; all else here makes the same ones faster."""
    x = x / torch.linalg.matrix_norm(x, keepdim=True)  # (batch, rows, columns)
    for a, b, c in triples:
        gram = x @ x.mT  # (batch, rows, rows)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def is_tall(x: Tensor) -> bool:
    """Whether matrices have more rows than columns and are multiplied from the right."""
    return x.shape[-2] > x.shape[-1]


def twins(x: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the smaller Gram matrix, (batch, short, short) with short the shorter side."""
    return (x.mT, x) if is_tall(x) else (x, x.mT)


def _power_of_two(x: Tensor) -> Tensor:
    """One that is near the largest element of every matrix, which divides exactly."""
    largest = x.detach().abs().amax((-2, -1), keepdim=True).float()
    exponent = torch.frexp(largest).exponent.clamp(-100, 100)
    return torch.ldexp(torch.ones_like(largest), exponent).to(x.dtype)


def _size(x: Tensor, scaling: str, safety: float, eps: float) -> Tensor:
    """What a matrix is divided by; in a wider dtype, the squares of large numbers overflow."""
    wide = torch.promote_types(x.dtype, torch.float32)
    wide = torch.float64 if x.dtype == torch.float32 else wide  # below: (batch, 1, 1)
    unit: Tensor | float = 1.0
    if x.dtype == torch.bfloat16:  # a copy of x in another dtype takes longer
        unit = _power_of_two(x)
        x = vector_norm(x / unit, dim=-1, keepdim=True)
    norm = safety * unit * vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
    return norm + eps if scaling == "add" else torch.clamp(norm, min=eps)


def _square(gram: Tensor, b: float, c: float, dtype: torch.dtype) -> Tensor:
    """``b A + c A^2`` in this dtype, of A rounded to it, with which it then commutes."""
    low = gram.to(dtype)
    return symmetric(low, low.mT, low, b, c)


def _factor(gram: Tensor, z: Tensor, part: Sequence[Triple], mixed: bool) -> Tensor:
    """The matrix Q with Q X = X after these iterations: the product of all a + b A + c A^2.

    Args:
        gram: A of the first iteration, (batch, n, n), as all that follows from it.
        z: b A + c A^2 of the first iteration, (batch, n, n).
        part: the coefficients.
        mixed: multiply in bfloat16, the dtype of z; everything else is in float32.
    """
    a = part[0][0]
    # What A is multiplied with and what X is are the same, roundings of z included.
    q = z.to(torch.promote_types(z.dtype, torch.float32), copy=True)
    q.diagonal(dim1=-2, dim2=-1).add_(a)
    q = q.to(gram.dtype)
    for after, b, c in part[1:]:
        # All of these are polynomials of the first A, so that A <- p A p = p p A.
        r = symmetric(gram, z, gram, a, 1.0, mixed)
        gram = symmetric(r, z, r, a, 1.0, mixed)
        a, z = after, _square(gram, b, c, z.dtype)
        q = symmetric(q, z, q, a, 1.0, mixed)
    return q


def _reference(
    xs: Sequence[Tensor],
    coefficients: Sequence[float],
    parts: Sequence[int],
    scaling: str,
    safety: float,
    eps: float,
    dtype: torch.dtype,
    mixed: bool,
    scale: float,
) -> Tensor:
    joined = torch.cat(list(xs)) if len(xs) > 1 else xs[0]
    x = joined.to(dtype)  # (batch, rows, columns)
    if scaling != "none":
        x = x / _size(x, scaling, safety, eps).to(dtype)
    tall = is_tall(x)
    numbers = iter(coefficients)
    triples = iter(list(zip(numbers, numbers, numbers, strict=True)))
    for iterations in parts:
        part = [next(triples) for _ in range(iterations)]
        several = iterations > 1
        a, b, c = part[0]
        gram = symmetric(*twins(x), mixed=mixed and several)  # (batch, short, short)
        z = _square(gram, b, c, dtype)
        if several:
            q = _factor(gram, z, part, mixed).to(dtype)
            x = product(x, q) if tall else product(q, x)
        else:
            x = product(x, z, x, a) if tall else product(z, x, x, a)
    x = x.to(joined.dtype)
    return x if scale == 1.0 else x * scale


def _checked(
    xs: Sequence[Tensor],
    parts: Sequence[int],
    scaling: str,
    dtype: torch.dtype | None,
    mixed: bool,
) -> torch.dtype:
    """The dtype of the iterations."""
    if not xs:
        raise ValueError("newton_schulz: there must be a matrix")
    dtype = dtype or xs[0].dtype
    for x in xs:
        if x.ndim != 3 or x.shape[1:] != xs[0].shape[1:]:
            raise ValueError(
                "newton_schulz: batches must be (batch, rows, columns) of one shape, got "
                f"{tuple(xs[0].shape)} and {tuple(x.shape)}"
            )
        if x.dtype != xs[0].dtype or not x.is_floating_point():
            raise ValueError(
                f"newton_schulz: batches must have one floating dtype, got {xs[0].dtype} and "
                f"{x.dtype}"
            )
    require_together("newton_schulz", *xs)
    if scaling not in SCALINGS:
        raise ValueError(f"newton_schulz: scaling must be one of {SCALINGS}, got {scaling!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"newton_schulz: dtype must be floating, got {dtype}")
    if mixed and dtype != torch.bfloat16:
        raise ValueError(f"newton_schulz: mixed is for bfloat16, got {dtype}")
    if not parts or any(part < 1 for part in parts):
        raise ValueError(f"newton_schulz: parts must have iterations, got {list(parts)}")
    return dtype


def _check_all(
    xs: Sequence[Tensor],
    coefficients: Sequence[float],
    parts: Sequence[int],
    scaling: str,
    safety: float,
    eps: float,
    dtype: torch.dtype,
    mixed: bool,
    scale: float,
) -> None:
    _checked(xs, parts, scaling, dtype, mixed)
    if len(coefficients) != 3 * sum(parts):
        raise ValueError(
            f"newton_schulz: there must be three coefficients an iteration, got "
            f"{len(coefficients)} for {list(parts)}"
        )
    if not all(math.isfinite(single(c, dtype)) for c in coefficients):
        raise ValueError(
            f"newton_schulz: coefficients must be finite in {dtype}, got {list(coefficients)}"
        )


def _fake(xs: Sequence[Tensor], *args: Any) -> Tensor:
    _check_all(xs, *args)
    return xs[0].new_empty((sum(x.shape[0] for x in xs), *xs[0].shape[1:]))


def _vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    xs, dims = args[0], in_dims[0]
    examples = []
    for i in range(info.batch_size):
        one = [x if dim is None else x.select(dim, i) for x, dim in zip(xs, dims, strict=True)]
        examples.append(_newton_schulz(one, *args[1:]))
    return torch.stack(examples), 0


def _checked_reference(xs: Sequence[Tensor], *args: Any) -> Tensor:
    _check_all(xs, *args)
    return _reference(xs, *args)


_newton_schulz = operator("newton_schulz" + _ARGUMENTS, fake=_fake, vmap=_vmap)(_checked_reference)

# Where the kernel has no instructions for a dtype it calls this.
_ON_ITS_OWN = Op("newton_schulz_reference" + _ARGUMENTS, _reference, _fake, _vmap)
_ON_ITS_OWN.define(_LIBRARY)


@outside_autocast
def newton_schulz(
    xs: Sequence[Tensor],
    parts: Sequence[Sequence[Triple]],
    scaling: str = "add",
    safety: float = 1.0,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    mixed: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Newton-Schulz iterations on all matrices of these batches; differentiable.

    With A = X X^T (of tall matrices X^T X, from the right): X <- a X + (b A + c A^2) X for every
    triple (a, b, c), from X / size. The iterations of a part are made on A alone, and X multiplied
    once by what comes of them.

    Args:
        xs: floating tensors (batch, rows, columns) of one shape but for the batch.
        parts: coefficients, those of a part together.
        scaling: size is "add" safety |X|_F + eps, "clamp" max(safety |X|_F, eps), "none" one.
        safety: factor on the norm.
        eps: of the scaling.
        dtype: of the iterations; None for that of xs.
        mixed: in bfloat16, keep everything but the factors of products in float32 within parts of
            several iterations.
        scale: factor on the results.

    Returns:
        All matrices one after the other, (sum of batches, rows, columns), in the dtype of xs.

    Raises:
        ValueError: other shapes, dtypes or scalings, ``mixed`` in another dtype, or an empty part.

    >>> import torch, gradtx as gx
    >>> x = torch.tensor([[[3.0, 0.0], [0.0, -4.0]]])
    >>> gx.ops.newton_schulz([x], [[(1.5, -0.5, 0.0)] * 6] * 2).diagonal(dim1=1, dim2=2).round()
    tensor([[ 1., -1.]])
    """
    lengths = [len(part) for part in parts]
    dtype = _checked(xs, lengths, scaling, dtype, mixed)
    numbers = [number for part in parts for triple in part for number in triple]
    run = _reference if is_watched(*xs) else _newton_schulz
    return run(xs, numbers, lengths, scaling, safety, eps, dtype, mixed, scale)
