"""Options that name a dtype: distributed checkpoints do not take dtypes in parameter groups."""

from __future__ import annotations

import torch


def dtype_of(who: str, name: str, value: str | torch.dtype) -> torch.dtype:
    """The dtype of that name, for an option.

    Raises:
        ValueError: torch has none.
    """
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{who}: {name} must be 'bfloat16' or 'float32', got {value!r}")
    return found
