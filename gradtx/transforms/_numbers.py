"""Scalars that stay in the dtype of the update, and roots with finite derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def like(value: Any, x: Tensor) -> Any:
    """A dynamic value for arithmetic with ``x``: a tensor in the dtype and on the device of ``x``.

    Two 0-d tensors promote to the wider dtype, so a float64 value (every schedule gives one) would
    widen a float32 scalar leaf.
    """
    return value.to(device=x.device, dtype=x.dtype) if isinstance(value, Tensor) else value


def floored_root(square: Tensor, floor: float | Tensor) -> Tensor:
    """``max(sqrt(square), floor)``, with derivative zero where the floor holds.

    The root's derivative at zero is infinite; keeping zero out of the root, not only out of the
    result, keeps NaN out of derivatives through the update.
    """
    floor = like(floor, square)
    low = square.sqrt() <= floor
    root = torch.where(low, torch.ones_like(square), square).sqrt()
    return torch.where(low, floor, root)
