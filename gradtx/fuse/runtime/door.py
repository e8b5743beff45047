"""The door of a step: how tensors lie is looked at before anything is read by address.

Tables of addresses are used again as long as the same tensors lie as they did, which is more than
where they begin: a tensor turned in place keeps its address. Gradients come in whatever form they
have and leave in the order in which their leaves are gone through, lazy bits resolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_

import numpy as np
import torch
from torch import Tensor

from ..frontend.memory import Spans, is_dense
from ..ir.errors import CannotFuseError
from .glance import Glance, addresses

_SHAPE, _DTYPE, _DEVICE = attrgetter("shape"), attrgetter("dtype"), attrgetter("device")


class Owned:
    """What a step writes, and how it lay when tables were made for it.

    Args:
        params: parameters.
        states: all that belongs to them.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        self.tensors = [*params, *states]
        self._params, self._states = list(params), list(states)
        self._lazy = list(map(Tensor.is_neg, params))
        self._form, self._state_form = Glance(params), Glance(states)

    def is_(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors."""
        return len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors))

    def lies_still(self) -> bool:
        """Whether everything lies where and as it did."""
        seen = ((self._form, self._params), (self._state_form, self._states))
        return self._lazy == list(map(Tensor.is_neg, self._params)) and all(
            (at := form.at(tensors)) is not None and np.array_equal(at, form.addresses)
            for form, tensors in seen
        )

    def forget(self) -> None:
        """Let go of the tensors."""
        self.tensors, self._params, self._states = [], [], []

    def lies_like(self, params: Sequence[Tensor]) -> bool:
        """Whether other parameters lie as these did, wherever that is."""
        lazy = list(map(Tensor.is_neg, params))
        return self._lazy == lazy and self._form.at(list(params)) is not None


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
        self._types = [Tensor] * len(self._shapes)
        self._form: Glance | None = None  # of gradients that were not copied
        self._at: np.ndarray = np.empty(0, dtype=np.int64)

    def admit(self, grads: list[Tensor]) -> tuple[list[Tensor], np.ndarray]:
        """Gradients that can be read by address, and their addresses.

        Copies stand for those that lie in another order, carry a lazy bit or have no memory.

        Raises:
            CannotFuseError: one is of another kind than it was, or in memory that is written.
        """
        lazy = any(map(Tensor.is_neg, grads))
        if self._form is not None and not lazy and list(map(type, grads)) == self._types:
            at = self._form.at(grads)
            if at is not None and np.array_equal(at, self._at):
                return grads, at
            if at is not None and at[self._sizes > 0].all():
                self.spans.check_disjoint(at, self._sizes)
                self._at = at
                return grads, at
        return self._admit_others(grads, lazy)

    def _admit_others(self, grads: list[Tensor], lazy: bool) -> tuple[list[Tensor], np.ndarray]:
        here = addresses(grads)
        self._refuse_others(grads)
        if lazy or 0 in here or list(map(Tensor.stride, grads)) != self._strides:
            copied = list(map(_in_order, grads, self._strides, here))
        else:
            copied = grads
        form = Glance(copied)
        self.spans.check_disjoint(form.addresses, self._sizes)
        if all(map(is_, grads, copied)):
            self._form, self._at = form, form.addresses
        else:
            self._form = None
        return copied, form.addresses

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
