"""The largest of some numbers, chosen the same way everywhere: of equal ones the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradtx.core.watch import is_recorded, is_watched

__all__ = ["Threshold", "kth_largest", "top_indices", "top_mask"]

_LONG = 1 << 14  # numbers from which on selecting is faster than sorting


def top_mask(scores: Tensor, k: int) -> Tensor:
    """Which numbers are among the k largest along the last dimension.

    Of equal numbers the one at the lower position is taken; NaN counts as the largest.

    Args:
        scores: (..., n).
        k: how many, in [0, n].

    Returns:
        bool (..., n), k of them True.

    Raises:
        ValueError: k outside its range.

    >>> import torch, gradtx as gx
    >>> gx.ops.top_mask(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3)
    tensor([ True,  True, False,  True])
    """
    n = scores.shape[-1]
    if not 0 <= k <= n:
        raise ValueError(f"top_mask: k must be in [0, {n}], got {k}")
    if k in (0, n):
        return torch.full_like(scores, bool(k), dtype=torch.bool)
    if _is_long(scores):
        least = torch.from_numpy(np.partition(scores.numpy(), n - k)[n - k : n - k + 1])
        above = scores >= least
        if int(above.sum()) == k:  # neither equal ones nor NaN
            return above
    else:
        least = scores.topk(k, dim=-1).values[..., -1:]
    equal = (scores == least) | (scores.isnan() & least.isnan())
    above = ((scores > least) | scores.isnan()) & ~equal
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


def _is_long(scores: Tensor) -> bool:
    """Whether NumPy, which selects without sorting, takes these scores."""
    return (
        scores.ndim == 1
        and len(scores) >= _LONG
        and type(scores) is Tensor
        and scores.device.type == "cpu"
        and scores.dtype in (torch.float32, torch.float64)
        and not is_recorded()
        and not is_watched(scores)
        and not scores.requires_grad
    )


def top_indices(scores: Tensor, k: int) -> Tensor:
    """Positions of the k largest numbers along the last dimension, ascending; see ``top_mask``.

    Args:
        scores: (..., n).
        k: how many, in [0, n].

    Returns:
        int64 (..., k).

    Raises:
        ValueError: k outside its range.

    >>> import torch, gradtx as gx
    >>> gx.ops.top_indices(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3)
    tensor([0, 1, 3])
    """
    if not 0 <= k <= scores.shape[-1]:
        raise ValueError(f"top_indices: k must be in [0, {scores.shape[-1]}], got {k}")
    left = ~top_mask(scores, k)
    return torch.sort(left, dim=-1, stable=True).indices[..., :k]


class Threshold(NamedTuple):
    """Attributes: ``value``, the k-th largest number; ``above``, how many are larger."""

    value: float
    above: int


def kth_largest(pieces: Callable[[], Iterable[Tensor]], k: int) -> Threshold:
    """The k-th largest of many numbers, exactly, without sorting them or holding them together.

    Numbers that are not negative have the order of their bits. They are counted by the upper 16,
    and those of the k-th largest by the lower 16: three passes, each over one piece after the
    other. Counts are read on the host.

    Args:
        pieces: gives the numbers as often as it is called: float32, >= 0.
        k: in [1, all].

    >>> import torch
    >>> from gradtx.ops.selection import kth_largest
    >>> kth_largest(lambda: [torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0])], 3)
    Threshold(value=2.0, above=2)
    """
    upper, above = _kth_of(_counts(bits >> 16 for bits in _bits(pieces)), k)
    within = (bits[bits >> 16 == upper] & 0xFFFF for bits in _bits(pieces))
    lower, inside = _kth_of(_counts(within), k - above)
    value = torch.tensor(upper << 16 | lower, dtype=torch.int32, device="cpu")
    return Threshold(value.view(torch.float32).item(), above + inside)


def _bits(pieces: Callable[[], Iterable[Tensor]]) -> Iterable[Tensor]:
    return (x.reshape(-1).view(torch.int32) for x in pieces())


def _counts(keys: Iterable[Tensor]) -> Tensor:
    """How often every number of 16 bits occurs."""
    total = torch.zeros(1 << 16, dtype=torch.int64, device="cpu")
    for key in keys:
        total += torch.bincount(key, minlength=1 << 16).to(total.device)
    return total


def _kth_of(counts: Tensor, k: int) -> tuple[int, int]:
    """The k-th largest key, and how many are larger."""
    at_least = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_least, k))
    return len(counts) - 1 - place, int(at_least[place] - counts[len(counts) - 1 - place])
