"""What a compressed representation is: something that encodes and decodes, and takes bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..compressors import Compressor
from ..core.tree import accumulator

SCALE_BITS = 16  # what a scale is counted as: bfloat16


@dataclass(frozen=True, repr=False)
class Format(Compressor):
    """Base class of number formats: ``decode(encode(x))`` is what is left of ``x``.

    A format is a compressor as well, so that it can stand in ``gx.compress`` and
    ``gx.error_feedback``. Subclass it as a frozen dataclass with ``encode``, ``decode`` and
    ``bits_per_value``, and ``exact_gmse`` where there is a closed form.

    >>> import torch, gradtx as gx
    >>> four, x = gx.capacity.absmax("int4", block=4), torch.tensor([7.0, -3.2, 0.4, 1.0])
    >>> four(x), four.bits_per_value((4,))
    (tensor([ 7., -3.,  0.,  1.]), 8.0)
    """

    quiet: ClassVar[tuple[str, ...]] = ()  # options that repr leaves out at their defaults

    def encode(self, x: Tensor) -> Any:
        """Codes and side data, a tensor or a tuple of tensors."""
        raise NotImplementedError

    def decode(self, code: Any, like: Tensor) -> Tensor:
        """The numbers that the codes stand for, in the shape and dtype of ``like``."""
        raise NotImplementedError

    def bits_per_value(self, shape: Sequence[int]) -> float:
        """Bits that a leaf of this shape takes, side data included, over its elements."""
        raise NotImplementedError

    def exact_gmse(self) -> float | None:
        """The error on normal numbers where it is known without sampling."""
        return None

    def for_share(self, share: float) -> Format:
        """This format for the largest ``share`` of the numbers alone, its step chosen for them."""
        return self

    def __repr__(self) -> str:
        """The constructor call, without arguments that are left to the format."""
        values = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))
        named = False
        shown = []
        for field, value in values:
            if value is None or (value == field.default and field.name in self.quiet):
                named = True
            else:
                shown.append(f"{field.name}={value!r}" if named else repr(value))
        return f"{type(self).__name__}({', '.join(shown)})"

    def compress(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self(x), state

    def __call__(self, x: Tensor) -> Tensor:
        """What is left of ``x``."""
        return self.decode(self.encode(x), x)


def root_mean_square(x: Tensor) -> Tensor:
    """Of all entries in at least float32, 0-d; 1 for a leaf of zeros, which any scale fits."""
    mean = accumulator(x).square().mean() if x.numel() else accumulator(x).new_ones(())
    return torch.where(mean > 0, mean.sqrt(), torch.ones_like(mean))
