"""The door of a step: how tensors lie is looked at before anything is read by address.

Tables of addresses are used again as long as the same tensors lie as they did, which is more than
where they begin: a tensor turned in place keeps its address. Gradients come in whatever form they
have and leave in the order in which their leaves are gone through, lazy bits resolved.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import CannotFuseError
from .memory import Spans, is_dense

_SHAPE, _DTYPE, _DEVICE = attrgetter("shape"), attrgetter("dtype"), attrgetter("device")


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Where tensors begin.

    Raises:
        CannotFuseError: one has no memory of its own.
    """
    try:
        return list(map(Tensor.data_ptr, tensors))
    except RuntimeError:
        pass
    raise CannotFuseError("", "a tensor wraps another one, or has no memory")


def layouts(tensors: Sequence[Tensor]) -> tuple[list[Any], ...]:
    """How tensors lie, wherever that is."""
    return (
        list(map(Tensor.stride, tensors)),
        list(map(_SHAPE, tensors)),
        list(map(_DTYPE, tensors)),
        list(map(Tensor.is_neg, tensors)),
    )


class Owned:
    """What a step writes, and how it lay when tables were made for it.

    Args:
        params: parameters.
        states: all that belongs to them.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        self.tensors = [*params, *states]
        self._params = params
        self._addresses = addresses(self.tensors)
        self._layouts = layouts(params)
        many = [s for s in states if s.ndim]
        self._plain = [s for s in many if s.is_contiguous()]
        self._strided = [s for s in many if not s.is_contiguous()]
        self._strides = list(map(Tensor.stride, self._strided))

    def is_(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors."""
        return len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors))

    def lies_still(self) -> bool:
        """Whether everything lies where and as it did."""
        return (
            self._addresses == addresses(self.tensors)
            and self._layouts == layouts(self._params)
            and all(map(Tensor.is_contiguous, self._plain))
            and self._strides == list(map(Tensor.stride, self._strided))
        )

    def forget(self) -> None:
        """Let go of the tensors."""
        self.tensors, self._params, self._plain, self._strided = [], [], [], []

    def lies_like(self, params: Sequence[Tensor]) -> bool:
        """Whether other parameters lie as these did, wherever that is."""
        return self._layouts == layouts(params)


class Gradients:
    """Where the gradients of a fixed list of leaves pass.

    Args:
        params: the leaves.
        dtypes: of their gradients.
        strides: per leaf those of the order in which it is gone through.
        spans: what is written.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        dtypes: Sequence[torch.dtype],
        strides: Sequence[tuple[int, ...]],
        spans: Spans,
    ) -> None:
        self.spans = spans
        self._shapes = list(map(_SHAPE, params))
        self._dtypes = list(dtypes)
        self._devices = list(map(_DEVICE, params))
        self._strides = list(strides)
        sizes = [p.numel() * d.itemsize for p, d in zip(params, dtypes, strict=True)]
        self._sizes = np.array(sizes, dtype=np.int64)
        self._last: list[weakref.ref[Tensor]] = []
        self._at: tuple[list[int], list[Any]] = [], []

    def admit(self, grads: list[Tensor]) -> tuple[list[Tensor], list[int]]:
        """Gradients that can be read by address, and their addresses.

        Copies stand for those that lie in another order, carry a lazy bit or have no memory.

        Raises:
            CannotFuseError: one is of another kind than it was, or in memory that is written.
        """
        at = addresses(grads), list(map(Tensor.stride, grads))
        lazy = any(map(Tensor.is_neg, grads))
        if at == self._at and not lazy and all(map(is_, grads, [ref() for ref in self._last])):
            return grads, at[0]
        self._refuse_others(grads)
        here, strides = at
        if lazy or strides != self._strides or 0 in here:
            copied = list(map(_in_order, grads, self._strides, here))
        else:
            copied = grads
        if all(map(is_, grads, copied)):
            self._last, self._at = list(map(weakref.ref, grads)), at
        else:
            self._last, self._at = [], ([], [])
            here = addresses(copied)
        self.spans.check_disjoint(here, self._sizes)
        return copied, here

    def _refuse_others(self, grads: Sequence[Tensor]) -> None:
        kinds = (
            (map(type, grads), [Tensor] * len(grads)),
            (map(_SHAPE, grads), self._shapes),
            (map(_DTYPE, grads), self._dtypes),
            (map(_DEVICE, grads), self._devices),
        )
        for now, then in kinds:
            if (found := list(now)) != then:
                i = next(i for i, (a, b) in enumerate(zip(found, then, strict=True)) if a != b)
                raise CannotFuseError("", f"gradient {i} is of another kind than at the last step")


def _in_order(g: Tensor, strides: tuple[int, ...], address: int) -> Tensor:
    if is_in_order(g, strides) and (address or not g.numel()):
        return g
    return torch.empty_strided(g.shape, strides, dtype=g.dtype, device=g.device).copy_(g)


def order(p: Tensor, by_row: bool) -> tuple[int, ...]:
    """The strides of memory whose elements are in the order in which a leaf is gone through."""
    if is_dense(p) and not by_row:
        return p.stride()
    return torch.empty(p.shape, dtype=p.dtype, device="meta").stride()


def is_in_order(x: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether a tensor may be read as if it had these strides; those of one entry are all alike."""
    return not x.is_neg() and all(
        a == b or n == 1 for n, a, b in zip(x.shape, x.stride(), strides, strict=True)
    )
