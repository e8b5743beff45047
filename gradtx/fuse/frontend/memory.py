"""Where tensors lie: which may be treated as flat arrays, and which overlap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from ..ir.errors import CannotFuseError

DTYPES = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def check_plain(what: str, x: Tensor, device: torch.device, empty: bool = False) -> None:
    """Raise unless ``x`` is an ordinary dense tensor on a device.

    Args:
        what: its name for the message.
        x: the tensor.
        device: where it should be.
        empty: whether it may be zeros without memory.

    Raises:
        CannotFuseError: names what it is.
    """
    if type(x) not in (Tensor, Parameter) or torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise CannotFuseError("", f"{what} is a {type(x).__name__} that wraps another tensor")
    if x.layout != torch.strided:
        raise CannotFuseError("", f"{what} has layout {x.layout}")
    if x.device != device:
        raise CannotFuseError("", f"{what} is on {x.device}, the first parameter on {device}")
    if x.dtype not in DTYPES:
        raise CannotFuseError("", f"{what} has dtype {x.dtype}")
    if x._is_zerotensor() and not empty:
        raise CannotFuseError("", f"{what} is zeros without memory")


def is_dense(x: Tensor) -> bool:
    """Whether the elements fill a block of memory, in any order of dimensions."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def overlaps_itself(x: Tensor) -> bool:
    """Whether two elements may share memory."""
    reach = 0
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def same_order(x: Tensor, y: Tensor) -> bool:
    """Whether flat positions of two dense tensors of one shape correspond."""
    return x.stride() == y.stride() or (x.is_contiguous() and y.is_contiguous())


class Spans:
    """The memory that is written, sorted.

    Args:
        written: tensors.

    Raises:
        CannotFuseError: two of them share memory.
    """

    def __init__(self, written: Iterable[Tensor]) -> None:
        first, stop = _spans(written)
        order = np.argsort(first, kind="stable")
        self.first, self.stop = first[order], stop[order]
        if (self.first[1:] < self.stop[:-1]).any():
            raise CannotFuseError("", "two of the parameters and state tensors share memory")

    def check_disjoint(self, addresses: np.ndarray, sizes: np.ndarray) -> None:
        """Raise if something that is read overlaps with what is written.

        Args:
            addresses: of what is read.
            sizes: bytes of each.

        Raises:
            CannotFuseError: it does.
        """
        there = sizes > 0
        low = addresses[there]
        if not len(self.first) or not len(low):
            return
        high = low + sizes[there]
        # An overlap with [low, high) is with the last span that starts below high.
        at = np.searchsorted(self.first, high, side="left") - 1
        if ((at >= 0) & (self.stop[np.maximum(at, 0)] > low)).any():
            raise CannotFuseError("", "a gradient shares memory with a parameter or with the state")


def _spans(tensors: Iterable[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    spans = [(x.data_ptr(), extent(x)) for x in tensors]
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    table = table[table[:, 1] > 0]
    return table[:, 0], table[:, 0] + table[:, 1]


def extent(x: Tensor) -> int:
    """Bytes from the first element to behind the last."""
    if x.is_contiguous():
        return x.nbytes
    if not x.numel():
        return 0
    return (1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))) * x.itemsize
