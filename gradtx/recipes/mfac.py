"""M-FAC: steps along the inverse Fisher matrix of the last gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch

from ..core.chain import Chain, chain
from ..core.conditional import apply_if_finite
from ..core.flatten import flatten
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..precondition import precondition_mfac
from ..transforms import add_decayed_weights, ema, scale, scale_by_learning_rate, trace
from ._assemble import is_off
from ._learning_rate import with_learning_rate

MomentumKind = Literal["ema", "sum"]
DecayKind = Literal["coupled", "decoupled", "decoupled_lr", "reg", "both"]
_DECAYS = ("coupled", "decoupled", "decoupled_lr", "reg", "both")
_IN_QUERY = ("reg", "both")


def mfac(
    lr: Hyper | None = 1e-3,
    window: int = 1024,
    damping: Hyper = 1e-5,
    momentum: Hyper | None = None,
    weight_decay: Hyper = 0.0,
    momentum_kind: MomentumKind = "ema",
    weight_decay_kind: DecayKind = "coupled",
    normalize: Literal["capacity", "count"] = "capacity",
    freeze_zeros: bool = False,
    dtype: torch.dtype | None = None,
    nonfinite: Literal["raise", "skip", "ignore"] = "raise",
) -> Chain:
    """Natural gradient with the Fisher matrix of the last ``window`` gradients of the whole model.

    u = F^-1 g with F = damping I + (1/window) sum g_i g_i^T, never formed (``precondition_mfac``);
    p <- p - lr u. The window takes ``window`` numbers a parameter. While it fills, steps are about
    lr / damping times the gradient.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        window: gradients that are remembered, >= 1.
        damping: > 0.
        momentum: of u, in [0, 1); None or 0 keeps none.
        weight_decay: >= 0.
        momentum_kind: "ema", v <- momentum v + (1 - momentum) u, or "sum", v <- momentum v + u.
        weight_decay_kind: "coupled": the window sees g + weight_decay p. "decoupled":
            p <- (1 - weight_decay) p besides, without lr. "decoupled_lr":
            p <- (1 - lr weight_decay) p. "reg": F^-1 (g + weight_decay p), the window sees g.
            "both": "reg" and "decoupled".
        normalize: what the sum is divided by, "capacity" or the "count" of gradients so far.
        freeze_zeros: leave entries alone that are zero at ``init``; the window has no room for
            them.
        dtype: of the window, None for at least float32, or bfloat16.
        nonfinite: what happens to a gradient that is not finite: "raise", "skip" the step, or
            "ignore" it, which spoils ``window`` steps.

    Raises:
        ValueError: a value outside its range; from ``update``, damping that has fallen to zero, or
            a gradient that is not finite.

    Source: arXiv 2107.03356.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.mfac(0.5, window=2, damping=1.0), {"w": torch.ones(2)}
    >>> tx.update({"w": torch.tensor([2.0, 0.0])}, tx.init(params), params)[0]
    {'w': tensor([-0.3333, -0.0000])}
    """
    precondition: GradientTransformation = precondition_mfac(
        window,
        damping,
        dtype=dtype,
        normalize=normalize,
        nonfinite="raise" if nonfinite == "raise" else "ignore",
        **decay_in_query("mfac", weight_decay, weight_decay_kind),
    )
    if freeze_zeros:
        precondition = flatten(precondition, "nonzero")
    return around(
        "mfac",
        precondition,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        momentum_kind=momentum_kind,
        weight_decay_kind=weight_decay_kind,
        nonfinite=nonfinite,
    )


def decay_in_query(who: str, weight_decay: Hyper, kind: DecayKind) -> dict[str, Any]:
    """The arguments of ``precondition_mfac`` for a kind of weight decay.

    Raises:
        ValueError: no such kind.
    """
    if kind not in _DECAYS:
        raise ValueError(f"{who}: weight_decay_kind must be one of {_DECAYS}, got {kind!r}")
    return {"query": "decayed", "weight_decay": weight_decay} if kind in _IN_QUERY else {}


def around(
    who: str,
    precondition: GradientTransformation,
    *,
    lr: Hyper | None,
    momentum: Hyper | None,
    weight_decay: Hyper,
    momentum_kind: MomentumKind,
    weight_decay_kind: DecayKind,
    nonfinite: Literal["raise", "skip", "ignore"],
) -> Chain:
    """Weight decay, momentum and the learning rate around a preconditioner.

    Raises:
        ValueError: an option outside its range.
    """
    if momentum_kind not in ("ema", "sum"):
        raise ValueError(f"{who}: momentum_kind must be 'ema' or 'sum', got {momentum_kind!r}")
    if nonfinite not in ("raise", "skip", "ignore"):
        raise ValueError(f"{who}: nonfinite must be 'raise', 'skip' or 'ignore', got {nonfinite!r}")
    decay = add_decayed_weights(weight_decay)
    members = [decay] if weight_decay_kind == "coupled" else []
    members.append(precondition)
    if momentum is not None and not is_off(momentum):
        ema_ = momentum_kind == "ema"
        members.append(ema(momentum, debias=False) if ema_ else trace(momentum))
    if weight_decay_kind == "decoupled_lr":
        members.append(decay)
    if weight_decay_kind in ("decoupled", "both"):
        if lr is None:
            raise ValueError(f"{who}: weight_decay_kind={weight_decay_kind!r} needs lr")
        members += [scale_by_learning_rate(lr, flip_sign=False), decay, scale(-1.0)]
        tx = chain(*members)
    else:
        tx = with_learning_rate(chain(*members), lr)
    return chain(apply_if_finite(tx)) if nonfinite == "skip" else tx
