"""GaLore: any optimizer in a subspace of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..codecs import dynamic8
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.leaves import LeafInfo
from ..core.parallel import parallel
from ..core.protocol import GradientTransformation
from ..core.quotient import quotient
from ..core.select import freeze
from ..subspace import Projector, Where, in_subspace, zero_based
from ..transforms import (
    add_decayed_weights,
    clip_by_block_rms,
    ema,
    first_moment,
    limit_relative_step,
    root_second_moment,
    scale_by_adam,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_param_block_rms,
    undo_bias,
)
from ..transforms import scale as scale_by
from ._assemble import is_off
from ._subspace import make_projector, subspace_tail


def galore_adamw(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    rank: int | None = 128,
    update_proj_gap: int = 200,
    scale: Hyper = 0.25,
    proj_type: str = "std",
    correct_bias: bool = True,
    proj: str | Projector = "svd",
    on_refresh: str = "keep",
    matricize: bool = False,
    where: Where | None = None,
) -> Chain:
    """AdamW on the coordinates of matrices in the leading singular subspace of their gradient.

    Z = Q^T G;  u = scale Q adam(Z), with (sqrt(v) + eps) / sqrt(1 - b2^t) below the bar;
    p <- (1 - lr weight_decay) (p - lr u). Other leaves take AdamW's step.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment before its correction.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        rank: dimensions of the subspace, less where a matrix is smaller; None for plain AdamW.
        update_proj_gap: updates between two choices of the subspace, >= 1.
        scale: factor of projected leaves' updates.
        proj_type: the compressed dimension: "std" the smaller one, "reverse_std", "left", "right",
            or "full" for both.
        correct_bias: correct both moments for having started at zero.
        proj: kind of subspace, or a projector of ``gx.subspace``.
        on_refresh: what becomes of the moments then: "keep", "reset" or "rotate".
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2403.03507.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.galore_adamw(0.1, rank=2), {"w": torch.ones(8, 4)}
    >>> state = tx.init(params)
    >>> gx.tree.get(state, "mu").shape
    torch.Size([8, 2])
    """
    inner = quotient(
        chain(first_moment(b1), undo_bias(b1)) if correct_bias else first_moment(b1),
        root_second_moment(b2, eps, debias=correct_bias, eps_at="root"),
    )
    tx = _projected(
        "galore_adamw",
        inner,
        rank,
        update_proj_gap,
        scale,
        proj_type,
        proj,
        on_refresh,
        matricize,
        where,
    )
    return subspace_tail(tx, lr=lr, weight_decay=weight_decay)


def galore_adamw8bit(
    lr: Hyper = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    rank: int | None = 128,
    update_proj_gap: int = 200,
    scale: Hyper = 0.25,
    proj_type: str = "std",
    proj: str | Projector = "svd",
    block_size: int = 256,
    min_size: int = 4096,
    matricize: bool = False,
    where: Where | None = None,
) -> Chain:
    """``galore_adamw`` with 8-bit moments, and eps as in AdamW.

    Args:
        lr: learning rate >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the corrected root of the second moment.
        weight_decay: share of the parameter that is taken off after the step per unit of lr.
        rank: dimensions of the subspace, less where a matrix is smaller; None for plain AdamW.
        update_proj_gap: updates between two choices of the subspace, >= 1.
        scale: factor of projected leaves' updates.
        proj_type: the compressed dimension, see ``galore_adamw``.
        proj: kind of subspace, or a projector of ``gx.subspace``.
        block_size: elements that share a scale.
        min_size: coordinates with fewer elements keep dense moments.
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2403.03507, arXiv 2110.02861.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.galore_adamw8bit(0.1, rank=2, min_size=0), {"w": torch.ones(8, 4)}
    >>> gx.tree.get(tx.init(params), "mu").codes.shape
    torch.Size([16])
    """
    codec = dynamic8(block_size, min_size)
    inner = scale_by_adam(b1, b2, eps, mu_codec=codec, nu_codec=codec)
    tx = _projected(
        "galore_adamw8bit",
        inner,
        rank,
        update_proj_gap,
        scale,
        proj_type,
        proj,
        "keep",
        matricize,
        where,
    )
    return subspace_tail(tx, lr=lr, weight_decay=weight_decay)


@dataclass(frozen=True)
class _Ramp:
    """Adafactor's warm-up: a learning rate of 1e-6 times the number of this update."""

    def __call__(self, count: Any) -> Any:
        # Not count + 1: a counter at its end has no number above it.
        return 1e-6 + 1e-6 * count


def galore_adafactor(
    lr: Hyper | None = None,
    eps: Hyper = 1e-30,
    min_parameter_scale: Hyper = 1e-3,
    clip_threshold: Hyper = 1.0,
    decay_rate: Hyper = 0.8,
    b1: Hyper | None = None,
    weight_decay: Hyper = 0.0,
    scale_parameter: bool = True,
    relative_step: bool = True,
    warmup_init: bool = False,
    rank: int | None = 128,
    update_proj_gap: int = 200,
    scale: Hyper = 0.25,
    proj_type: str = "std",
    proj: str | Projector = "svd",
    on_refresh: str = "keep",
    matricize: bool = False,
    where: Where | None = None,
) -> Chain:
    """Adafactor on the coordinates of matrices in the leading singular subspace.

    a = lr max(rms(p), min_parameter_scale);  u = a f / max(1, rms(f) / clip_threshold) with
    f = factored(Z);  p <- p - scale Q u - a weight_decay p.

    Args:
        lr: learning rate >= 0, or a schedule; None with ``relative_step``.
        eps: added to squared gradients.
        min_parameter_scale: smallest scale of a parameter, >= 0.
        clip_threshold: largest root mean square of f, > 0.
        decay_rate: exponent of the second moment's decay 1 - t^-decay_rate, >= 0.
        b1: decay of an average of u, in [0, 1); None keeps none.
        weight_decay: multiple of the parameter that is taken off, >= 0.
        scale_parameter: scale steps by the root mean square of the parameter.
        relative_step: learning rate min(1e-2, t^-1/2).
        warmup_init: begin that with 1e-6 t.
        rank: dimensions of the subspace, less where a matrix is smaller; None for Adafactor.
        update_proj_gap: updates between two choices of the subspace, >= 1.
        scale: factor of projected leaves' updates.
        proj_type: the compressed dimension, see ``galore_adamw``.
        proj: kind of subspace, or a projector of ``gx.subspace``.
        on_refresh: what becomes of the moments then: "keep" or "reset".
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: a value outside its range, ``lr`` together with ``relative_step`` or neither,
            or ``warmup_init`` without ``relative_step``.

    Source: arXiv 2403.03507, arXiv 1804.04235.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.galore_adafactor(0.1, relative_step=False, rank=2), {"w": torch.ones(8, 4)}
    >>> gx.tree.get(tx.init(params), "v_row").shape
    torch.Size([8])
    """
    if (lr is not None) == relative_step:
        raise ValueError("galore_adafactor: give lr, or relative_step=True without lr")
    if warmup_init and not relative_step:
        raise ValueError("galore_adafactor: warmup_init needs relative_step=True")
    rate: Hyper = (_Ramp() if warmup_init else 1e-2) if lr is None else lr

    def size() -> list[GradientTransformation]:
        """The size of steps, anew for every branch."""
        relative = [limit_relative_step(rate)] if relative_step else []
        of_parameter = [scale_by_param_block_rms(min_parameter_scale)] if scale_parameter else []
        return [*of_parameter, *relative, scale_by_learning_rate(rate, flip_sign=False)]

    moments = scale_by_factored_rms(
        decay_rate=decay_rate, min_dim_size_to_factor=1, epsilon=eps, factored_dims="last"
    )
    momentum = () if b1 is None or is_off(b1) else (ema(b1, debias=False),)
    inner = chain(moments, clip_by_block_rms(clip_threshold), *size(), *momentum)
    tx = _projected(
        "galore_adafactor",
        inner,
        rank,
        update_proj_gap,
        scale,
        proj_type,
        proj,
        on_refresh,
        matricize,
        where,
    )
    decay = chain(freeze(_every_leaf), add_decayed_weights(weight_decay), *size())
    return chain(parallel(tx, decay), scale_by(-1.0))


def _every_leaf(info: LeafInfo) -> bool:
    return True


def _projected(
    who: str,
    inner: GradientTransformation,
    rank: int | None,
    gap: int,
    factor: Hyper,
    side: str,
    proj: str | Projector,
    on_refresh: str,
    matricize: bool,
    where: Where | None,
) -> GradientTransformation:
    """The inner transform in the subspace, or as it is without a rank."""
    if rank is None and not isinstance(proj, Projector):
        return inner
    projector = make_projector(who, proj, rank, side, matricize)
    return in_subspace(projector, inner, zero_based(gap), on_refresh, factor, where)
