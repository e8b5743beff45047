"""M-FAC: steps along the inverse Fisher matrix of the last gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch

from ..compressors import SparseCompressor, block_top_k, low_rank, top_k
from ..core.chain import Chain, chain
from ..core.flatten import flatten
from ..core.hyper import Hyper, check_value
from ..core.plain import whole_number
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients
from ..core.random import Seed
from ..precondition import precondition_mfac
from ..transforms import (
    add_decayed_weights,
    ema,
    error_feedback,
    scale,
    scale_by_learning_rate,
    trace,
)
from . import _sparse_mfac_kernel  # noqa: F401  registers it
from ._assemble import is_off
from ._learning_rate import with_learning_rate
from ._nonfinite import NonFinite, around_steps, inside

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
    nonfinite: NonFinite = "raise",
    max_bytes: int | None = None,
) -> Chain:
    """Natural gradient with the Fisher matrix of the last ``window`` gradients of the whole model.

    u = F^-1 g with F = damping I + (1/window) sum g_i g_i^T, never formed (``precondition_mfac``);
    p <- p - lr u. The window takes ``window`` numbers a parameter.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out. The first step is
            lr g / (damping + |g|^2 / window), up to lr / damping times the gradient: begin with
            rates far below those of SGD, and where the loss rises at first, take a smaller one, a
            schedule that warms up, or more damping.
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
        max_bytes: what the window may take, >= 1; None for any amount.

    Raises:
        ValueError: a value outside its range; from ``init``, a window of more than ``max_bytes``
            (says how many, and how many rows there is room for); from ``update``, damping that has
            fallen to zero, or a gradient that is not finite.

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
        nonfinite=inside("mfac", nonfinite),
        max_bytes=max_bytes,
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


def sparse_mfac(
    lr: Hyper | None = 1e-3,
    window: int = 1024,
    damping: Hyper = 1e-5,
    density: float | int | None = 0.01,
    momentum: Hyper | None = None,
    weight_decay: Hyper = 0.0,
    scope: Literal["leaf", "block", "global"] = "leaf",
    block_size: int = 16384,
    momentum_kind: MomentumKind = "sum",
    weight_decay_kind: DecayKind = "decoupled_lr",
    query: Literal["compressed", "gradient"] = "compressed",
    normalize: Literal["capacity", "count"] = "capacity",
    freeze_zeros: bool = False,
    dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
    max_bytes: int | None = None,
    error_dtype: torch.dtype | None = None,
) -> Chain:
    """M-FAC whose window keeps the largest entries of every gradient; what is dropped comes later.

    a = g + e; c = the largest entries of a; e <- a - c; u = F^-1 c with the Fisher matrix of the
    last c (``precondition_mfac`` inside ``error_feedback``); p <- p - lr u. The window takes 6
    bytes times window times density a parameter, e takes 4; both in bfloat16 4 and 2.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out. The first step is
            lr c / (damping + |c|^2 / window), up to lr / damping times the gradient: begin with
            rates far below those of SGD, and where the loss rises at first, take a smaller one, a
            schedule that warms up, or more damping.
        window: gradients that are remembered, >= 1.
        damping: > 0.
        density: share of entries that are kept, in (0, 1]; with scope="global" also how many, or
            None for all.
        momentum: of u, in [0, 1); None or 0 keeps none.
        weight_decay: >= 0.
        scope: where the largest entries are looked for: in blocks of every "leaf", in "block"s of
            all leaves as one vector, or in that vector ("global", the number rounded down). The
            last two need the gradients of all leaves at every step.
        block_size: elements of a block, in [2, 32767].
        momentum_kind: "ema" or "sum", as for ``mfac``.
        weight_decay_kind: as for ``mfac``.
        query: F^-1 times what is "compressed", or times the "gradient" itself.
        normalize: what the sum is divided by, "capacity" or the "count" of gradients so far.
        freeze_zeros: leave entries alone that are zero at ``init``; not with scope="leaf".
        dtype: of the window, None for at least float32, or bfloat16.
        nonfinite: what happens to a gradient that is not finite: "raise", "skip" the step, or
            "ignore" it, which spoils ``window`` steps.
        max_bytes: what the window may take, >= 1; None for any amount.
        error_dtype: of e, torch.bfloat16 or another floating dtype; None for at least float32,
            which compiled steps need.

    Raises:
        ValueError: a value outside its range; from ``init``, a window of more than ``max_bytes``
            (says how many, and how many rows there is room for); from ``update``, damping that has
            fallen to zero, or a gradient that is not finite.

    Source: arXiv 2306.06098.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.sparse_mfac(0.5, 2, 1.0, density=0.5), {"w": torch.ones(2)}
    >>> tx.update({"w": torch.tensor([2.0, 1.0])}, tx.init(params), params)[0]
    {'w': tensor([-0.3333, -0.0000])}
    """
    if scope not in ("leaf", "block", "global"):
        raise ValueError(f"sparse_mfac: scope must be 'leaf', 'block' or 'global', got {scope!r}")
    if query not in ("compressed", "gradient"):
        raise ValueError(f"sparse_mfac: query must be 'compressed' or 'gradient', got {query!r}")
    decayed = decay_in_query("sparse_mfac", weight_decay, weight_decay_kind)
    if query == "gradient" and decayed:
        raise ValueError("sparse_mfac: query='gradient' and decay in the query exclude each other")
    if block_size == 1:
        raise ValueError(
            "sparse_mfac: block_size must be >= 2, got 1; a block keeps an entry at least"
        )
    known = isinstance(error_dtype, torch.dtype)
    if error_dtype is not None and not (known and error_dtype.is_floating_point):
        raise ValueError(f"sparse_mfac: error_dtype must be a floating dtype, got {error_dtype}")
    if freeze_zeros and scope == "leaf":
        raise ValueError("sparse_mfac: freeze_zeros needs scope='block' or 'global'")
    keep: SparseCompressor = (
        _of_all(density) if scope == "global" else block_top_k(_share(density), block_size)
    )
    precondition: GradientTransformation = error_feedback(
        keep,
        error_dtype,
        inner=precondition_mfac(
            window,
            damping,
            keep,
            dtype,
            normalize,
            nonfinite=inside("sparse_mfac", nonfinite),
            max_bytes=max_bytes,
            **(decayed or {"query": "gradient" if query == "gradient" else "newest"}),
        ),
    )
    if query == "gradient" and weight_decay_kind == "coupled":
        precondition = as_gradients(precondition)  # their decay is preconditioned too
    if scope != "leaf":
        precondition = flatten(precondition, "nonzero" if freeze_zeros else "all")
    return around(
        "sparse_mfac",
        precondition,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        momentum_kind=momentum_kind,
        weight_decay_kind=weight_decay_kind,
        nonfinite=nonfinite,
    )


def lowrank_mfac(
    lr: Hyper | None = 1e-3,
    window: int = 1024,
    damping: Hyper = 1e-5,
    rank: int = 1,
    momentum: Hyper | None = None,
    weight_decay: Hyper = 0.0,
    aggregate: bool = True,
    momentum_kind: MomentumKind = "ema",
    weight_decay_kind: DecayKind = "coupled",
    normalize: Literal["capacity", "count"] = "capacity",
    dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
    seed: Seed = 0,
    max_bytes: int | None = None,
) -> Chain:
    """M-FAC whose window keeps every gradient at a low rank; what is dropped comes later.

    a = g + e; c = P (P^T a), one power iteration from where the last one ended; e <- a - c;
    u = F^-1 c; p <- p - lr u. Vectors are kept whole.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out. The first step is
            lr c / (damping + |c|^2 / window), up to lr / damping times the gradient: begin with
            rates far below those of SGD, and where the loss rises at first, take a smaller one, a
            schedule that warms up, or more damping.
        window: gradients that are remembered, >= 1.
        damping: > 0.
        rank: of what is kept of a matrix, >= 1; of a smaller matrix all is kept, and the log says
            so.
        momentum: of u, in [0, 1); None or 0 keeps none.
        weight_decay: >= 0.
        aggregate: one Fisher matrix of the whole model; False: one of every leaf.
        momentum_kind: "ema" or "sum", as for ``mfac``.
        weight_decay_kind: as for ``mfac``.
        normalize: what the sum is divided by, "capacity" or the "count" of gradients so far.
        dtype: of the window, None for at least float32, or bfloat16.
        nonfinite: what happens to a gradient that is not finite: "raise", "skip" the step, or
            "ignore" it, which spoils ``window`` steps.
        seed: of the first power iteration.
        max_bytes: what the window may take, >= 1; None for any amount.

    Raises:
        ValueError: a value outside its range; from ``init``, a window of more than ``max_bytes``
            (says how many, and how many rows there is room for); from ``update``, damping that has
            fallen to zero, or a gradient that is not finite.

    Source: arXiv 2306.06098.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.lowrank_mfac(0.5, 2, 1.0), {"w": torch.ones(2, 2)}
    >>> tx.update({"w": torch.ones(2, 2)}, tx.init(params), params)[0]["w"].mean()
    tensor(-0.1667)
    """
    keep = low_rank(rank, seed=seed, always=True)
    precondition = error_feedback(
        keep,
        inner=precondition_mfac(
            window,
            damping,
            keep,
            dtype,
            normalize,
            fisher="model" if aggregate else "leaf",
            nonfinite=inside("lowrank_mfac", nonfinite),
            max_bytes=max_bytes,
            **decay_in_query("lowrank_mfac", weight_decay, weight_decay_kind),
        ),
    )
    return around(
        "lowrank_mfac",
        precondition,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        momentum_kind=momentum_kind,
        weight_decay_kind=weight_decay_kind,
        nonfinite=nonfinite,
    )


def _of_all(density: float | int | None) -> top_k:
    """The largest entries of the whole vector, by their share or their number."""
    if density is None:
        return top_k(1.0)
    return top_k(density, rounding="down") if density <= 1 else top_k(k=whole_number(density))


def _share(density: float | int | None) -> float:
    """A density that must be a share.

    Raises:
        ValueError: it is None.
    """
    if density is None:
        raise ValueError("sparse_mfac: density=None needs scope='global'")
    return density


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
    nonfinite: NonFinite,
) -> Chain:
    """Weight decay, momentum and the learning rate around a preconditioner.

    Raises:
        ValueError: an option outside its range.
    """
    if momentum_kind not in ("ema", "sum"):
        raise ValueError(f"{who}: momentum_kind must be 'ema' or 'sum', got {momentum_kind!r}")
    decay = add_decayed_weights(weight_decay)
    members = [decay] if weight_decay_kind == "coupled" else []
    members.append(precondition)
    if momentum is not None:
        check_value(who, "momentum", momentum, "[0, 1)")
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
    return around_steps(tx, nonfinite)
