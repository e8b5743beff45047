"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

from __future__ import annotations

from typing import Literal

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.quotient import quotient
from ..precondition import blocks, eigenbasis, in_eigenbasis, kronecker_factors
from ..transforms import (
    decay_after,
    first_moment,
    normalize_by_block_rms,
    root_second_moment,
    scale_by_learning_rate,
    skip_first,
    undo_bias,
)
from ._nonfinite import NonFinite, around, inside


def soap(
    lr: Hyper | None = 3e-3,
    b1: Hyper = 0.95,
    b2: Hyper = 0.95,
    shampoo_beta: float | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    data_format: Literal["channels_first", "channels_last"] = "channels_first",
    correct_bias: bool = True,
    skips_first: bool = True,
    one_sided: bool = False,
    staggered: bool = False,
    packed: bool = False,
    inner: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
    matmul_dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """Adam in the slowly changing eigenbasis of Shampoo's preconditioner.

    L <- b L + (1 - b) G G^T, likewise R and every other side; Q_L, Q_R their eigenvectors,
    refreshed every so many steps by one power iteration and a QR decomposition; m, v as Adam's of
    g' = Q_L^T G Q_R; p <- p - lr Q_L (m' / (sqrt(v') + eps)) Q_R^T; p <- (1 - lr wd) p. The
    first call finds the bases and changes no parameter; the basis of an update has not seen its
    gradient.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it and the decay out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        shampoo_beta: decay of the factors, in [0, 1); None for b2, which then must be a number.
        eps: added to the root of the second moment before its bias is corrected, >= 0.
        weight_decay: share of the parameter taken off after the step, times lr, >= 0.
        precondition_frequency: steps between refreshes of the bases, >= 1.
        max_precond_dim: longest side that has a factor, >= 1; longer ones are not turned.
        merge_dims: merge neighbouring dimensions up to ``max_precond_dim`` first.
        precondition_1d: whether vectors have a factor.
        normalize_grads: bring every leaf's step to root mean square one.
        data_format: "channels_last" for leaves of four dimensions whose last one has the channels;
            to be merged it is put second.
        correct_bias: correct the moments for having started at zero.
        skips_first: False makes the first step too, in the basis of its own gradient.
        one_sided: give matrices a factor on their shorter side alone.
        staggered: refresh every leaf at a phase of its own, which spreads the cost.
        packed: keep the upper triangles of the factors alone.
        inner: what runs in the basis in place of Adam.
        codec: how both moments are kept between steps, such as ``gx.codecs.dynamic8()``.
        matmul_dtype: torch.bfloat16 for the products with gradients and directions; bases, factors
            and moments stay in float32.
        nonfinite: "raise" for a matrix whose gradient is not finite, "skip" such leaves, or
            "ignore" that, which spoils factors for good.

    Raises:
        ValueError: a value outside its range; from ``update``, a gradient that is not finite.

    Source: arXiv 2409.11321.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.soap(0.1, weight_decay=0.0), {"w": torch.zeros(2, 2)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.eye(2)}, state, params)
    >>> updates["w"].round(decimals=3).abs()
    tensor([[0.1000, 0.0000],
            [0.0000, 0.1000]])
    """
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            f"soap: data_format must be 'channels_first' or 'channels_last', got {data_format!r}"
        )
    factors = kronecker_factors(
        factor_decay("soap", shampoo_beta, b2),
        max_dim=max_precond_dim,
        one_dim=precondition_1d,
        sides="short" if one_sided else "all",
        packed=packed,
        matmul_dtype=matmul_dtype,
    )
    if inner is None:
        above = first_moment(b1, codec)
        inner = quotient(
            chain(above, undo_bias(b1)) if correct_bias else above,
            root_second_moment(b2, eps, correct_bias, "root", codec),
        )
    last = merge_dims and data_format == "channels_last"
    turned = in_eigenbasis(
        inner,
        factors,
        eigenbasis(every=precondition_frequency, staggered=staggered),
        cut=blocks(
            view="merge_front" if merge_dims else "keep",
            limit=max_precond_dim,
            channels_last=last,
        ),
        first="skip" if skips_first else "current",
        matmul_dtype=matmul_dtype,
        nonfinite=inside("soap", nonfinite),
    )
    steps = [turned, *([normalize_by_block_rms()] if normalize_grads else [])]
    if lr is not None:
        steps += [scale_by_learning_rate(lr), decay_after(lr, weight_decay)]
    return around(chain(*steps, *([skip_first()] if skips_first else [])), nonfinite)


def factor_decay(who: str, given: float | None, b2: Hyper) -> float:
    """The decay of the factors, by default that of second moments.

    Raises:
        ValueError: neither is a number, or the decay is 1.
    """
    decay = plain(b2 if given is None else given)
    if isinstance(decay, bool) or not isinstance(decay, (int, float)):
        raise ValueError(f"{who}: give shampoo_beta as a number where b2 is none, got {decay!r}")
    if given == 1:
        raise ValueError(f"{who}: shampoo_beta must be in [0, 1), got {given}")
    return float(decay)
