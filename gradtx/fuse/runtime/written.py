"""What a step writes: parameters that can be written, no two of them in the same memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from ...core.errors import UnsupportedLeafError
from ..frontend.memory import extent, is_dense, overlaps_itself


class Written:
    """The parameters of a step, looked at again only when they are others or lie elsewhere."""

    def __init__(self) -> None:
        self._last: list[Any] = []

    def check(self, who: str, params: Sequence[Tensor], names: Callable[[], Sequence[str]]) -> None:
        """Raise where parameters cannot all be written; views apart in one memory can.

        Args:
            who: what wants to write, for messages.
            params: the parameters. What wraps other tensors is left alone.
            names: gives their names.

        Raises:
            UnsupportedLeafError: one cannot be written, or has elements in the same memory.
            ValueError: two share memory (names both).
        """
        plain = [i for i, p in enumerate(params) if is_plain(p)]
        now = [
            (p.data_ptr(), p.shape, p.stride(), p.dtype, p.is_inference())
            for p in map(params.__getitem__, plain)
        ]
        frozen = not torch.is_inference_mode_enabled() and any(p[-1] for p in now)
        if now == self._last and not frozen:
            return
        for i in plain:
            if why := unwritable(params[i]):
                raise UnsupportedLeafError(f"{who}: parameter {names()[i]!r} {why}")
        for a, b in map(sorted, _shared(params, plain)):
            raise ValueError(
                f"{who}: parameters {names()[a]!r} and {names()[b]!r} share memory; "
                "use one Parameter in both places, or give each its own memory with clone()"
            )
        self._last = now


def is_plain(p: Tensor) -> bool:
    """Whether a tensor has memory of its own that can be looked at."""
    return (
        type(p) in (Tensor, Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(p)
        and p.layout == torch.strided
        and not p.is_meta
    )


def unwritable(p: Tensor) -> str:
    """Why a tensor cannot be written, "" if it can."""
    if p._is_zerotensor():
        return "is zeros without memory and cannot be written; clone() it"
    if p.is_inference() and not torch.is_inference_mode_enabled():
        return "is an inference tensor, which cannot be written here; clone() it outside that mode"
    if overlaps_itself(p) and not _fills(p):
        return "has elements that share memory, such as those of expand(); clone() it"
    return ""


class _Span(NamedTuple):
    first: int
    stop: int
    leaf: int


def _shared(params: Sequence[Tensor], which: Sequence[int]) -> list[tuple[int, int]]:
    """The first two of these parameters that share memory, if any do."""
    spans = sorted(
        _Span(p.data_ptr(), p.data_ptr() + extent(p), i)
        for i, p in ((i, params[i]) for i in which)
        if p.numel()
    )
    together: list[_Span] = []  # that lie among each other, though perhaps in different elements
    stop = 0
    for span in (*spans, None):
        if span is None or span.first >= stop:
            if len(together) > 1 and (pair := _collide(params, together)):
                return [pair]
            together = []
        if span is not None:
            together.append(span)
            stop = max(stop, span.stop)
    return []


def _collide(params: Sequence[Tensor], spans: Sequence[_Span]) -> tuple[int, int] | None:
    """Two of several spans that have an element in common."""
    for a, b in itertools.pairwise(spans):
        if a.stop > b.first and is_dense(params[a.leaf]) and is_dense(params[b.leaf]):
            return a.leaf, b.leaf
    mask = _Mask([params[s.leaf] for s in spans], spans[0].first, max(s.stop for s in spans))
    for k, span in enumerate(spans):
        if bool(mask.of(params[span.leaf]).any()):
            for other in spans[:k]:
                mask.bits.fill_(False)
                mask.of(params[other.leaf]).fill_(True)
                if bool(mask.of(params[span.leaf]).any()):
                    return other.leaf, span.leaf
        mask.of(params[span.leaf]).fill_(True)
    return None


def _fills(p: Tensor) -> bool:
    """Whether every element has memory of its own, element by element."""
    if 0 in p.stride():
        return False
    mask = _Mask([p], p.data_ptr(), p.data_ptr() + extent(p))
    bits = mask.of(p)
    bits.fill_(True)
    return int(mask.bits.sum()) == bits.numel()


class _Mask:
    """A bit for every smallest unit of some memory.

    Args:
        tensors: that lie in it.
        first, stop: where it begins and ends.
    """

    def __init__(self, tensors: Sequence[Tensor], first: int, stop: int) -> None:
        self.first = first
        offsets = [t.data_ptr() - first for t in tensors]
        self.unit = math.gcd(*(t.itemsize for t in tensors), *offsets)
        self.bits = torch.zeros((stop - first) // self.unit, dtype=torch.bool, device="cpu")

    def of(self, t: Tensor) -> Tensor:
        """The bits of a tensor."""
        each = t.itemsize // self.unit
        return self.bits.as_strided(
            (*t.shape, each),
            (*(s * each for s in t.stride()), 1),
            (t.data_ptr() - self.first) // self.unit,
        )
