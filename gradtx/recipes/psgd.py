"""PSGD: preconditioners that are fitted by a few products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.chain import Chain, chain
from ..core.hyper import Hyper, check_value
from ..core.leaves import LeafInfo
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.random import Seed
from ..core.select import masked
from ..precondition import precondition_by_kron
from ..schedules import exponential_decay
from ..transforms import add_decayed_weights, clip, clip_by_block_rms, ema
from ._learning_rate import with_learning_rate

# Every update at first, after 500 fewer and fewer, at last 3 of 100.
FALLING = exponential_decay(
    1.0, transition_steps=1000, decay_rate=math.exp(-1), transition_begin=500, end_value=0.03
)


@dataclass(frozen=True)
class _Growing:
    """The decay of an average over all updates, until that is so much."""

    most: float

    def __call__(self, count: Any) -> Any:
        if isinstance(count, Tensor):
            count = count.to(torch.float64)
            return torch.clamp(count / (1 + count), max=self.most)
        return min(count / (1 + count), self.most)


def _is_matrix(info: LeafInfo) -> bool:
    return info.ndim >= 2


def psgd_kron(
    lr: Hyper | None = 3e-4,
    b1: Hyper = 0.9,
    weight_decay: Hyper = 0.0,
    probability: Hyper = FALLING,
    max_size: float = 8192,
    min_ndim: int = 2,
    memory_save_mode: str | None = None,
    whiten: str = "momentum",
    precond_lr: Hyper = 0.1,
    init_scale: float = 1.0,
    merge_dims: bool = True,
    form: str = "EQ",
    norm: str = "column",
    noise: str = "drawn",
    noise_in_momentum: bool = False,
    seed: Seed = 0,
) -> Chain:
    """Momentum whitened by fitted Kronecker factors, the form that most users run.

    m <- b1 m + (1 - b1) g, corrected; u = P m; u at most 1.1 in root mean square;
    p <- p - lr (u + weight_decay p). P is fitted at first with every update, later with 3 of 100.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the momentum, in [0, 1).
        weight_decay: multiple of matrices added to the update, >= 0.
        probability: fits an update, in (0, 1], or a schedule.
        max_size: longest side with a matrix; longer ones have a diagonal.
        min_ndim: leaves of fewer dimensions have diagonals alone.
        memory_save_mode: "one_diag", "smart_one_diag", "all_diag" or None, see
            ``gx.precondition_by_kron``.
        whiten: fit on "momentum" or "gradient".
        precond_lr: length of a fit's step, in (0, 1].
        init_scale: the first Q, > 0.
        merge_dims: see more than two dimensions as a matrix.
        form: of the factors, see ``gx.precondition_by_kron``.
        norm: "column", "subspace" or "exact".
        noise: "drawn" or "recorded".
        noise_in_momentum: multiply the momentum with the noise in it, as published.
        seed: of the noise.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1512.04202; Kron in PyTorch.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.psgd_kron(0.1), {"w": torch.zeros(2, 2)}
    >>> updates, _ = tx.update({"w": torch.eye(2)}, tx.init(params), params)
    >>> updates["w"].diagonal() < 0
    tensor([True, True])
    """
    steps: list[GradientTransformation] = [
        ema(b1, debias=True),
        precondition_by_kron(
            form,
            precond_lr,
            remember=False,
            damping=0.0,
            relative_damping="mean",
            whiten=whiten,
            init_scale=init_scale,
            max_size=max_size,
            max_skew=None,
            min_ndim=min_ndim,
            memory_save_mode=memory_save_mode,
            merge_dims=merge_dims,
            drop_units=False,
            probability=probability,
            norm=norm,
            noise=noise,
            noise_in_momentum=noise_in_momentum,
            seed=seed,
        ),
        clip_by_block_rms(1.1),
        masked(add_decayed_weights(weight_decay), _is_matrix),
    ]
    return with_learning_rate(chain(*steps), lr)


def psgd(
    lr: Hyper | None = 1e-3,
    momentum: float = 0.0,
    weight_decay: Hyper = 0.0,
    form: str = "Q0.5EQ1.5",
    precond_lr: Hyper = 0.1,
    beta_l: Hyper = 0.9,
    damping: Hyper = 1e-9,
    whiten: str = "gradient",
    init_scale: float | None = None,
    max_size: float = math.inf,
    max_skew: float = 1.0,
    max_rms: Hyper = 2.0,
    max_entry: Hyper = 10.0,
    probability: Hyper = 1.0,
    update_first: bool = True,
    norm: str = "column",
    noise: str = "drawn",
    seed: Seed = 0,
) -> Chain:
    """Gradients or momentum whitened by fitted Kronecker factors, the author's form.

    m <- beta m + (1 - beta) g, beta = min(t / (1 + t), momentum), t = 0, 1, ...; u = P m, at most
    max_rms in root mean square, then max_entry in every entry; p <- p - lr (u + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: largest decay of the momentum, in [0, 1); 0 for none.
        weight_decay: multiple of matrices added to the update, >= 0.
        form: of the factors, see ``gx.precondition_by_kron``.
        precond_lr: length of a fit's step, in (0, 1].
        beta_l: decay of the sizes that it is divided by, in (0, 1].
        damping: noise added to what is fitted, >= 0.
        whiten: fit on "gradient" or "momentum", or "newton" on Hessian-vector products.
        init_scale: the first Q, > 0; None to take it from the first gradients.
        max_size: longest side with a matrix.
        max_skew: a side d of N elements has a matrix only if d^2 <= max_skew N.
        max_rms: largest root mean square of a leaf's update, > 0.
        max_entry: largest entry, > 0.
        probability: fits an update, in (0, 1].
        update_first: fit before the update is multiplied.
        norm: "column", "subspace" or "exact".
        noise: "drawn" or "recorded".
        seed: of the noise.

    Raises:
        ValueError: a value outside its range, or whitened momentum without momentum.

    Source: arXiv 2402.11858.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.psgd(0.1), {"w": torch.zeros(2, 2)}
    >>> updates, _ = tx.update({"w": torch.eye(2)}, tx.init(params), params)
    >>> updates["w"].diagonal() < 0
    tensor([True, True])
    """
    momentum = plain(momentum)
    check_value("psgd", "momentum", momentum, "[0, 1)")
    if not isinstance(momentum, (int, float)):
        raise TypeError(f"psgd: momentum must be a number, got {type(momentum).__name__}")
    if whiten == "momentum" and momentum == 0:
        raise ValueError("psgd: whiten='momentum' needs momentum > 0, got 0")
    steps: list[GradientTransformation] = [
        *([ema(_Growing(momentum), debias=False)] if momentum else []),
        precondition_by_kron(
            form,
            precond_lr,
            beta_l,
            damping=damping,
            whiten=whiten,
            init_scale=init_scale,
            max_size=max_size,
            max_skew=max_skew,
            probability=probability,
            update_first=update_first,
            norm=norm,
            noise=noise,
            seed=seed,
        ),
        clip_by_block_rms(max_rms),
        clip(max_entry),
        masked(add_decayed_weights(weight_decay), _is_matrix),
    ]
    return with_learning_rate(chain(*steps), lr)
