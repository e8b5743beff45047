"""Workers that send little of what they have done, and remember the rest."""

from __future__ import annotations

from typing import Literal

from ..codecs import affine
from ..compressors import SparseCompressor, block_top_k, dct_top_k
from ..core.chain import chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..recipes.sgd import sgd
from ..transforms import add_decayed_weights, scale_by_learning_rate, scale_by_sign
from .diloco import diloco
from .feedback import Feedback
from .held import exchange_held, hold_updates
from .local_steps import LocalSteps
from .quantized import quantized


def sparse_loco(
    inner: GradientTransformation,
    density: float = 0.02,
    decay: float = 0.95,
    every: int = 30,
    outer_lr: Hyper = 1.0,
    bits: Literal[2, 4, 8] | None = 2,
    block_size: int = 4096,
    compressor: SparseCompressor | None = None,
) -> LocalSteps:
    """SparseLoCo: DiLoCo whose drifts travel as few entries of two bits.

    a = delta + decay e;  C(a) are the largest entries of every block in ``bits`` bits, e <- a -
    C(a);  anchor <- anchor - outer_lr mean(C(a)). The memory e stands for the outer momentum.

    Args:
        inner: a worker's optimizer, learning rate included.
        density: share of the entries that travels, in (0, 1].
        decay: of what is remembered, in [0, 1].
        every: steps between meetings, >= 1.
        outer_lr: of the mean drift, >= 0.
        bits: of a value that travels: 2, 4 or 8; None for whole numbers.
        block_size: entries of a block.
        compressor: what is kept instead of the largest of every block.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2508.15706.

    >>> import torch, gradtx as gx
    >>> method = gx.distributed.sparse_loco(gx.sgd(1.0), every=1)
    >>> both = gx.distributed.Simulation(method, {"w": torch.zeros(64, 64)}, workers=2)
    >>> both.step([{"w": torch.randn(64, 64)}] * 2)
    >>> both.sent_bytes, 4 * 64 * 64
    (193, 16384)
    """
    kept = block_top_k(density, block_size) if compressor is None else compressor
    per_block = max(1, kept.blocks(block_size).k)
    sent = kept if bits is None else quantized(kept, affine(bits, per_block))
    return diloco(inner, sgd(outer_lr), every, Feedback(sent, decay))


def demo(
    lr: Hyper = 1e-3,
    momentum: float = 0.999,
    k: int = 32,
    block: int = 64,
    weight_decay: Hyper = 0.0,
    every: int = 1,
) -> LocalSteps:
    """DeMo: momenta that stay with their workers and send their strongest frequencies.

    m <- momentum m + g;  q are the k strongest frequencies of every tile of m;  m <- m - q;
    p <- p - lr (sign(mean(q)) + weight_decay p).

    Args:
        lr: learning rate >= 0, or a schedule.
        momentum: decay of what has not been sent, in [0, 1].
        k: frequencies of a tile, >= 1.
        block: largest side of a tile, in [1, 181].
        weight_decay: multiple of the parameter added to the sign, >= 0.
        every: steps between meetings, >= 1.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2411.19870.

    >>> import torch, gradtx as gx
    >>> both = gx.distributed.Simulation(gx.distributed.demo(k=1), {"w": torch.zeros(64, 64)})
    >>> both.step([{"w": torch.ones(64, 64)}, {"w": -3 * torch.ones(64, 64)}])
    >>> both.params[0]["w"][0, 0], both.sent_bytes
    (tensor(0.0010), 6)
    """
    step = chain(scale_by_sign(), add_decayed_weights(weight_decay), scale_by_learning_rate(lr))
    feedback = Feedback(dct_top_k(k, block), momentum)
    return LocalSteps(hold_updates(), (exchange_held(step, every, feedback),))
