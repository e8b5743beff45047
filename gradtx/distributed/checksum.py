"""Whether trees are the same on all workers, in a few bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(what: PyTree) -> str:
    """A number that depends on every bit of a tree's tensors and on its place.

    >>> import torch
    >>> from gradtx.distributed.checksum import checksum
    >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    >>> checksum({"w": a}) == checksum({"w": a.clone()}), checksum({"w": a}) == checksum({"w": b})
    (True, False)
    """
    total = 0
    for place, x in enumerate(tree.leaves(what)):
        if isinstance(x, Tensor):
            total = (31 * total + place + _sum(x)) % 2**64
    return f"{total:016x}"


def _sum(x: Tensor) -> int:
    flat = x.detach().contiguous().reshape(-1)
    words = flat.view(_WORDS[flat.element_size()]).long()
    # Odd factors in no order, so that no two changes cancel easily; integers wrap around.
    places = torch.arange(words.numel(), dtype=torch.int64, device=x.device)
    factors = (places * 0x9E3779B97F4A7C1 + 0x7F4A7C15) | 1
    return int((words * factors).sum())
