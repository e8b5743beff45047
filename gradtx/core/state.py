"""Making state: counters and buffers with their dtype policy.

State lives in at least float32 whatever the parameter's dtype, unless a transform is asked for
another dtype. ``update`` returns every state tensor in the dtype it came in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .tree import accumulator_dtype


def new_count(leaves: Iterable[Any]) -> Tensor:
    """A zero int32 step counter on the device of the first leaf that is there.

    >>> import torch, gradtx as gx
    >>> gx.new_count([None, torch.zeros(3)])
    tensor(0, dtype=torch.int32)
    """
    device = next((x.device for x in leaves if x is not None), torch.device("cpu"))
    return torch.zeros((), dtype=torch.int32, device=device)


def advance(count: Tensor, period: int = 1) -> Tensor:
    """A counter one step on; at the largest integer it stays.

    Args:
        count: integer tensor.
        period: what the counter is taken modulo. At its end it then goes back by that much, so that
            what happens every so many steps goes on happening.

    >>> import torch
    >>> from gradtx import advance
    >>> last = torch.tensor(2**31 - 1, dtype=torch.int32)
    >>> advance(last - 1) == last, advance(last) == last, advance(last, period=8) == last - 7
    (tensor(True), tensor(True), tensor(True))
    """
    most = torch.iinfo(count.dtype).max
    if period == 1:
        return torch.clamp(count, max=most - 1) + 1
    return torch.where(count < most, count, most - period) + 1


def state_zeros(p: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A zero buffer shaped like ``p``, of ``dtype`` or of at least float32.

    >>> import torch, gradtx as gx
    >>> gx.state_zeros(torch.ones(2, dtype=torch.bfloat16))
    tensor([0., 0.])
    """
    return torch.zeros_like(p, dtype=dtype or accumulator_dtype(p.dtype), requires_grad=False)


def state_full(p: Tensor, value: float, dtype: torch.dtype | None = None) -> Tensor:
    """A buffer shaped like ``p`` filled with ``value``, otherwise as ``state_zeros``.

    >>> import torch, gradtx as gx
    >>> gx.state_full(torch.zeros(2), 0.5)
    tensor([0.5000, 0.5000])
    """
    return torch.full_like(p, value, dtype=dtype or accumulator_dtype(p.dtype), requires_grad=False)


def new_scalar(leaves: Iterable[Any], value: float | Tensor = 0.0) -> Tensor:
    """A 0-d tensor for what leaves share, as wide as the widest, in at least float32."""
    there = [x for x in leaves if x is not None]
    dtype = torch.float32
    for x in there:
        dtype = torch.promote_types(dtype, accumulator_dtype(x.dtype))
    device = there[0].device if there else torch.device("cpu")
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype)
    return torch.full((), value, dtype=dtype, device=device)
