"""Dion, Dion2 and Trion: orthonormal updates of low rank, with momentum that keeps the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..codecs import Codec
from ..compressors import power_iteration, top_columns
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.random import Seed
from ..core.select import Labels
from ..precondition import normalize_factor, normalize_neurons, orthogonalize, scale_by_shape
from ..transforms import as_matrices, densify, in_basis, low_rank_momentum
from ._matrix import matrices_and_others

# Names of factors in Trion's publication.
SCALINGS = {
    "kj": "original",
    "none": "none",
    "kimi": "match_rms_adamw",
    "dion": "spectral_norm",
}


def dion(
    lr: Hyper | None = 0.01,
    momentum: Hyper = 0.95,
    weight_decay: Hyper = 0.01,
    rank_fraction: float = 1.0,
    rank_multiple_of: int = 1,
    power_iters: int = 1,
    eps: float = 1e-8,
    scale: str = "spectral_norm",
    matrices: Labels | None = None,
    other: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
    seed: Seed = 0,
) -> Chain:
    """Orthonormal updates of low rank from a warm power iteration.

    b = m + g; P = orthonormal columns of b Q, W = b^T P; m <- b - (1 - mu) P W^T;
    Q = W with columns of length one; p <- p - lr (sqrt(R / C) P Q^T + weight_decay p). Wide
    matrices are taken transposed, leaves of more dimensions as matrices with the first against all
    others.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: mu, in [0, 1].
        weight_decay: multiple of the parameter added to the update, >= 0.
        rank_fraction: rank over the smaller dimension, in (0, 1].
        rank_multiple_of: round the rank up to a multiple of this, >= 1.
        power_iters: power iterations an update, >= 1.
        eps: added to the lengths of W's columns.
        scale: see ``gx.scale_by_shape``.
        matrices: which leaves are matrices, a predicate on ``LeafInfo`` or a tree of booleans;
            default those with at least two dimensions.
        other: what the other leaves get; default AdamW with lr 3e-4, betas 0.9 and 0.95.
        codec: how the momentum is kept; default at least float32.
        seed: of the first Q.

    Raises:
        ValueError: a value outside its range, or a vector among the matrices (names the leaf).

    Source: arXiv 2504.05295.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dion(0.1, rank_fraction=0.25), {"w": torch.zeros(8, 4)}
    >>> updates, _ = tx.update({"w": torch.ones(8, 4)}, tx.init(params), params)
    >>> int(torch.linalg.matrix_rank(updates["w"]))
    1
    """
    compressor = power_iteration(rank_fraction, rank_multiple_of, power_iters, eps, seed)
    steps = chain(
        low_rank_momentum(compressor, momentum, codec),
        normalize_factor(eps),
        densify(),
        scale_by_shape(scale),
    )
    return matrices_and_others(
        as_matrices(steps), lr=lr, weight_decay=weight_decay, matrices=matrices, other=other
    )


def dion2(
    lr: Hyper | None = 0.01,
    momentum: Hyper = 0.95,
    weight_decay: Hyper = 0.01,
    fraction: float = 0.25,
    b2: Hyper | None = None,
    coefficients: str | Sequence[Any] = "polar_express5",
    ns_steps: int | None = 5,
    ns_eps: float = 1e-8,
    ns_dtype: torch.dtype | None = None,
    scale: str = "spectral_norm",
    matrices: Labels | None = None,
    other: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Muon on the rows or columns of the momentum with the largest l1 norms.

    b = m + g; the rows (of a tall matrix the columns) with the largest norms are a matrix B;
    m <- b, with B decayed by mu; O = orthogonal factor of B; p <- p - lr (s O + weight_decay p),
    O at the places of B.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: mu, what is left of what was used, in [0, 1].
        weight_decay: multiple of the parameter added to the update, >= 0.
        fraction: share of the rows or columns that an update uses, in (0, 1].
        b2: normalise rows with averages of this decay, as NorMuon does; then rows are chosen of
            every matrix.
        coefficients: of the iteration, see ``gx.orthogonalize``; "svd" is exact.
        ns_steps: iterations in 1..99, None for as many as there are coefficients.
        ns_eps: of the scaling, > 0.
        ns_dtype: dtype of the iteration, see ``gx.orthogonalize``.
        scale: see ``gx.scale_by_shape``.
        matrices: which leaves are matrices, a predicate on ``LeafInfo`` or a tree of booleans;
            default those with at least two dimensions.
        other: what the other leaves get; default AdamW with lr 3e-4, betas 0.9 and 0.95.
        codec: how the momentum is kept; default at least float32.

    Raises:
        ValueError: a value outside its range, or a vector among the matrices (names the leaf).

    Source: Microsoft's Dion repository.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dion2(0.1), {"w": torch.zeros(4, 4)}
    >>> updates, _ = tx.update({"w": torch.eye(4)}, tx.init(params), params)
    >>> updates["w"].abs().sum(1) > 0
    tensor([ True, False, False, False])
    """
    columns = top_columns(fraction=fraction, side="std_left" if b2 is None else "left")
    steps = chain(
        low_rank_momentum(columns, momentum, codec),
        orthogonalize(
            *(coefficients, _steps(coefficients, ns_steps), None, None, ns_eps, ns_dtype),
            scale="none" if b2 is not None else scale,
        ),
        *([] if b2 is None else [normalize_neurons(b2), scale_by_shape(scale)]),
        densify(),
    )
    return matrices_and_others(
        as_matrices(steps), lr=lr, weight_decay=weight_decay, matrices=matrices, other=other
    )


def trion(
    lr: Hyper | None = 0.02,
    momentum: Hyper = 0.95,
    weight_decay: Hyper = 0.0,
    rank: int = 128,
    basis: str = "dct2",
    transform: Literal["auto", "fft", "matmul"] = "auto",
    selection_norm: Literal["l1", "l2"] = "l1",
    coefficients: str | Sequence[Any] = "quintic5",
    ns_steps: int | None = 5,
    ns_eps: float = 1e-7,
    ns_dtype: torch.dtype | None = None,
    scaling_type: Literal["kj", "none", "kimi", "dion"] = "kj",
    matrices: Labels | None = None,
    other: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Muon on the largest cosine components of the momentum.

    In coordinates of a cosine basis of the smaller dimension: z <- z + DCT(g); the ``rank``
    columns of z with the largest norms are a matrix M; M is decayed by mu in z;
    p <- p - lr (s IDCT(O) + weight_decay p), O the orthogonal factor of M at its places. The
    state is z, the momentum in those coordinates. With full rank this is Muon with heavy-ball
    momentum.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: mu, in [0, 1].
        weight_decay: multiple of the parameter added to the update, >= 0.
        rank: columns an update uses, >= 1, at most the smaller dimension.
        basis: "dct2", "dct3", "released_matmul" or "hadamard", see ``gx.in_basis``.
        transform: "fft", "matmul", or "auto" by length.
        selection_norm: "l1" or "l2".
        coefficients: of the iteration, see ``gx.orthogonalize``; "svd" is exact.
        ns_steps: iterations in 1..99, None for as many as there are coefficients.
        ns_eps: of the scaling, > 0.
        ns_dtype: dtype of the iteration, see ``gx.orthogonalize``.
        scaling_type: s for R rows and C columns: "kj" sqrt(max(1, R / C)), "none" 1, "kimi"
            0.2 sqrt(max(R, C)), "dion" sqrt(R / C).
        matrices: which leaves are matrices, a predicate on ``LeafInfo`` or a tree of booleans;
            default those with at least two dimensions.
        other: what the other leaves get; default AdamW with lr 3e-4, betas 0.9 and 0.95.
        codec: how z is kept; default at least float32.

    Raises:
        ValueError: a value outside its range, or a vector among the matrices (names the leaf).

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.trion(0.1, rank=1), {"w": torch.zeros(4, 4)}
    >>> updates, _ = tx.update({"w": torch.eye(4)}, tx.init(params), params)
    >>> int(torch.linalg.matrix_rank(updates["w"]))
    1
    """
    if not isinstance(scaling_type, str) or scaling_type not in SCALINGS:
        raise ValueError(
            f"trion: scaling_type must be one of {tuple(SCALINGS)}, got {scaling_type!r}"
        )
    steps = chain(
        low_rank_momentum(top_columns(rank, norm=selection_norm), momentum, codec),
        orthogonalize(coefficients, _steps(coefficients, ns_steps), None, None, ns_eps, ns_dtype),
    )
    return matrices_and_others(
        as_matrices(
            chain(in_basis(steps, basis, transform), scale_by_shape(SCALINGS[scaling_type]))
        ),
        lr=lr,
        weight_decay=weight_decay,
        matrices=matrices,
        other=other,
    )


def _steps(coefficients: Any, ns_steps: int | None) -> int | None:
    return None if coefficients == "svd" else ns_steps
