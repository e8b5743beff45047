"""AdamW whose moments live in a few cosine components of every matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..codecs import Codec, affine_rows
from ..compressors import top_columns
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.leaves import LeafInfo
from ..core.plain import Plain
from ..core.protocol import GradientTransformation
from ..core.select import Labels, partition
from ..transforms import (
    add_decayed_weights,
    as_matrices,
    compress,
    densify,
    error_feedback,
    in_basis,
    scale_by_adam,
    scale_by_column_adam,
)
from ._learning_rate import with_learning_rate


@dataclass(frozen=True)
class _Projected(Plain):
    """Which leaves have moments of low rank."""

    name: ClassVar[str] = "dct_adamw"

    max_shape: int

    def __call__(self, info: LeafInfo) -> str:
        if info.ndim < 2:
            return "full"
        rows, columns = info.shape[0], math.prod(info.shape[1:])
        return "full" if max(rows, columns) >= self.max_shape else "low_rank"


def dct_adamw(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    rank: int = 128,
    basis: str = "dct2",
    transform: Literal["auto", "fft", "matmul"] = "auto",
    side: str = "std",
    selection_norm: Literal["l1", "l2"] = "l1",
    scale_by_basis_norm: bool = False,
    update_proj_gap: int = 1,
    rotate_subspace: bool = True,
    use_ef: bool = False,
    ef_bits: Literal[4, 8] | None = None,
    ef_levels: int | None = None,
    ef_domain: Literal["parameter", "spectral"] = "parameter",
    max_shape: int = 32000,
) -> Chain:
    """AdamW on the largest cosine components of every matrix.

    S = DCT(g + e) along the smaller dimension; the ``rank`` columns a of S with the largest norms
    go through Adam, whose moments follow their columns from step to step;
    p <- p - lr (IDCT(adam(a)) + weight_decay p). With error feedback e is what a leaves out.
    The state takes (8 R + 4) rank bytes for the larger dimension R. Vectors, and matrices with a
    dimension of at least ``max_shape``, get plain AdamW.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        rank: components that are kept, >= 1, at most the smaller dimension.
        basis: "dct2", "dct3" or "hadamard", see ``gx.in_basis``.
        transform: "fft", "matmul", or "auto" by length.
        side: "std", "std_left", "left" or "right", see ``gx.in_basis``.
        selection_norm: "l1" or "l2".
        scale_by_basis_norm: multiply the norms by those of the basis vectors.
        update_proj_gap: choose components at steps 1, T, 2T, ...; T >= 1.
        rotate_subspace: False leaves moments at their places when the components change.
        use_ef: add what was left out to the next gradient.
        ef_bits: 4 or 8 bits for e, in one range a row; None for float32.
        ef_levels: steps of that range; default 2^ef_bits - 1.
        ef_domain: quantise e itself or its cosine "spectral" components, which saves two
            transforms. Without ``ef_bits`` both are the same.
        max_shape: dimension from which on a matrix has full moments.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dct_adamw(0.1, rank=1), {"w": torch.zeros(4, 3)}
    >>> updates, _ = tx.update({"w": torch.ones(4, 3)}, tx.init(params), params)
    >>> updates["w"][0]
    tensor([-0.0577, -0.0577, -0.0577])
    """
    if ef_bits not in (None, 4, 8):
        raise ValueError(f"dct_adamw: ef_bits must be None, 4 or 8, got {ef_bits!r}")
    if ef_levels is not None and ef_bits is None:
        raise ValueError("dct_adamw: ef_levels needs ef_bits")
    if ef_domain not in ("parameter", "spectral"):
        raise ValueError(
            f"dct_adamw: ef_domain must be 'parameter' or 'spectral', got {ef_domain!r}"
        )
    spectral = use_ef and ef_bits is not None and ef_domain == "spectral"
    columns = top_columns(
        rank,
        norm=selection_norm,
        every=update_proj_gap,
        side=side,
        weights=basis if scale_by_basis_norm else None,
        basis=None if spectral else basis,
        transform=transform,
    )
    adam: GradientTransformation = scale_by_column_adam(columns, b1, b2, eps, rotate_subspace)
    if use_ef:
        codec: Codec | None = None if ef_bits is None else affine_rows(ef_bits, ef_levels)
        inner: GradientTransformation = chain(error_feedback(columns, codec, adam), densify())
    else:
        inner = chain(compress(columns), adam, densify())
    if spectral:
        inner = in_basis(inner, basis, transform, side)
    moments = partition(
        {
            "low_rank": as_matrices(inner),
            "full": scale_by_adam(b1, b2, eps),
        },
        _Projected(max_shape),
    )
    return with_learning_rate(chain(moments, add_decayed_weights(weight_decay, mask)), lr)
