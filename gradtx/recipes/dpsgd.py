"""Differentially private gradient descent."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.random import Seed
from ..transforms import differentially_private_aggregate, trace
from ._learning_rate import with_learning_rate


def dpsgd(
    lr: Hyper | None = 1e-3,
    l2_norm_clip: Hyper = 1.0,
    noise_multiplier: Hyper = 1.0,
    seed: Seed = 0,
    momentum: Hyper | None = None,
    nesterov: bool = False,
) -> Chain:
    """Gradient descent on the mean of clipped per-example gradients with noise.

    p <- p - lr (sum_i clip(g_i) + l2_norm_clip noise_multiplier N(0, I)) / B, or its trace.
    Gradients have the B examples in their first dimension, as ``torch.func.vmap`` of
    ``torch.func.grad`` gives them. Torch optimizers have sums in ``.grad`` and cannot take it.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        l2_norm_clip: largest norm of an example's gradient, >= 0.
        noise_multiplier: deviation of the noise as a multiple of it, >= 0.
        seed: an integer of at most 64 bits, or a 0-d integer tensor.
        momentum: decay of the trace in [0, 1], or None for none.
        nesterov: Nesterov's form of it.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1607.00133.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dpsgd(0.5, noise_multiplier=0.0), {"w": torch.zeros(2)}
    >>> grads = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.4]])}  # two examples
    >>> tx.update(grads, tx.init(params), params)[0]
    {'w': tensor([-0.1500, -0.3000])}
    """
    private = differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed)
    kept = [] if momentum is None else [trace(momentum, nesterov)]
    return with_learning_rate(chain(private, *kept), lr)
