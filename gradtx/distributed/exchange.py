"""How what a compressor keeps of one leaf travels between processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..compressors import Coded, Compressor, low_rank, random_k, sign
from ..core import decompositions
from ..core.leaves import LowRankUpdate, SparseUpdate, densify_leaf
from .rounds import Exchange, Gather, Mean


def exchange(
    compressor: Compressor, total: Tensor, state: Any, dtype: torch.dtype, workers: int = 1
) -> Exchange:
    """Compress a leaf, exchange it, and say what is to be remembered.

    Args:
        compressor: what is kept.
        total: the gradient with what has been dropped before.
        state: the compressor's state for this leaf.
        dtype: of the gradient, in which values travel.
        workers: the number of processes, if their means are sums of shares in ``dtype``.

    Returns:
        A generator for ``rounds.run`` whose result is the mean over all processes of what they
        kept, what this process remembers, and the compressor's new state.
    """
    if isinstance(compressor, low_rank) and compressor.applies(state):
        return _low_rank(compressor, total, state, dtype)
    if isinstance(compressor, Coded):
        return _coded(compressor, total, state)
    payload, new = compressor.compress(total, state)
    if isinstance(payload, LowRankUpdate):
        payload = payload.to_dense()
    if isinstance(payload, SparseUpdate):
        # Positions that do not depend on the values are the same everywhere.
        common = isinstance(compressor, random_k)
        shares = workers if common else 1
        kept = payload.map(lambda v: divisible(v, dtype, shares).to(v.dtype))
        return (_values if common else _entries)(kept, total, new, dtype)
    if isinstance(compressor, sign):
        return _signs(compressor, payload, total, new, dtype)
    return _whole(payload, total, new, dtype, workers)


def limited(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What of finite values another dtype can hold; infinities stay.

    A gradient and what has been dropped before may be too large together; the rest is remembered.
    """
    top = torch.finfo(dtype).max
    if top >= torch.finfo(x.dtype).max:
        return x
    return torch.where(torch.isfinite(x), x.clamp(-top, top), x)


def divisible(x: Tensor, dtype: torch.dtype, workers: int) -> Tensor:
    """What of values can be sent in a dtype, and be divided by the number of processes there.

    A gradient in float16 may be so small that a share of it is zero; it is remembered then.
    """
    if dtype == x.dtype:
        return x
    share = limited(x / workers, dtype).to(dtype).to(x.dtype)
    return limited(share * workers, dtype).to(dtype)


def _whole(
    payload: Tensor, total: Tensor, state: Any, dtype: torch.dtype, workers: int
) -> Exchange:
    """An ordinary tensor."""
    sent = divisible(payload, dtype, workers)
    mean = yield Mean(sent)
    return mean, total - sent, state


def _values(kept: SparseUpdate, total: Tensor, state: Any, dtype: torch.dtype) -> Exchange:
    """Values at positions that all processes know."""
    mean = yield Mean(kept.values.to(dtype))
    dense = SparseUpdate(kept.indices, mean.to(kept.dtype), kept.shape, kept.offsets).to_dense()
    return dense, total - kept.to_dense(), state


def _entries(kept: SparseUpdate, total: Tensor, state: Any, dtype: torch.dtype) -> Exchange:
    """Positions and values of every process."""
    everyone = yield Gather((kept.indices, kept.values.to(dtype)))
    out = torch.zeros(total.numel(), dtype=total.dtype, device=total.device)
    for indices, values in everyone:
        where = indices.long() if kept.offsets is None else indices.long() + kept.offsets
        out.index_add_(0, where, values.to(total.dtype))
    return (out / len(everyone)).view_as(total), total - kept.to_dense(), state


def _coded(compressor: Coded, total: Tensor, state: Any) -> Exchange:
    """What a compressor makes of a leaf by itself."""
    message, new = compressor.encode(total, state)
    everyone = yield Gather(message)
    out = torch.zeros_like(total)
    for theirs in everyone:
        out += densify_leaf(compressor.decode(theirs, total))
    kept = densify_leaf(compressor.decode(message, total))
    return out / len(everyone), total - kept, new


def _signs(
    compressor: sign, payload: Tensor, total: Tensor, state: Any, dtype: torch.dtype
) -> Exchange:
    """Two bits an entry, for positive and for negative ones, and a magnitude a block."""
    n, payload = total.numel(), limited(payload, dtype)
    flat = payload.reshape(-1)
    magnitudes = limited(compressor.magnitudes(total), dtype)
    message = ops.pack_signs(torch.stack([flat, -flat])), magnitudes
    everyone = yield Gather(message)
    out = torch.zeros_like(flat)
    for bits, magnitudes in everyone:
        positive, negative = ops.unpack_signs(bits, n).to(flat.dtype)
        out += (positive - negative) * compressor.spread(magnitudes, n)
    return (out / len(everyone)).view_as(total), total - payload, state


def _low_rank(compressor: low_rank, total: Tensor, state: Any, dtype: torch.dtype) -> Exchange:
    """Power iteration on the mean matrix, which no process ever sees."""
    matrix, basis = compressor.start(total, state)
    for _ in range(compressor.iterations):
        product = yield Mean(matrix @ basis)
        left = decompositions.qr(product).Q
        factor = yield Mean(left.mT @ matrix)
        basis = factor.mT
    payload, new = compressor.kept(left, factor, total, state)
    dense = limited(compressor.decompress(payload), dtype)
    return dense, total - dense, new
