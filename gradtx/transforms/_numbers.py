"""Scalars that stay in the dtype of the update, and roots with finite derivatives."""

from __future__ import annotations

import torch
from torch import Tensor


def floored_root(square: Tensor, floor: float | Tensor) -> Tensor:
    """``max(sqrt(square), floor)``, with derivative zero where the floor holds.

    The root's derivative at zero is infinite; keeping zero out of the root, not only out of the
    result, keeps NaN out of derivatives through the update.
    """
    low = square.sqrt() <= floor
    root = torch.where(low, torch.ones_like(square), square).sqrt()
    return torch.where(low, floor, root)
