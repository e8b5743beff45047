"""Compression of updates, without memory of what is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..compressors import Compressor, Payload
from ..core.hyper import Values, static
from ..core.leaves import LeafInfo
from ..core.transform import LeafTransform


def compressor_field() -> Any:
    """Declare what is kept of updates."""
    return static(check=_check_compressor)


def _check_compressor(who: str, name: str, value: Any) -> None:
    if not isinstance(value, Compressor):
        raise TypeError(f"{who}: {name} must be one of gx.compressors, got {type(value).__name__}")


class CompressState(NamedTuple):
    """Attributes: ``compressor``, the compressor's state for the leaf, () if it has none."""

    compressor: Any


@dataclass(frozen=True)
class compress(LeafTransform):
    """Replace updates by what a compressor keeps of them; the rest is lost.

    What goes on is a sparse or low-rank update for members that understand it, or an ordinary
    tensor, as the compressor says; ``gx.densify`` ends it. ``gx.error_feedback`` keeps the rest.

    Args:
        compressor: one of ``gx.compressors``.

    Raises:
        TypeError: not a compressor.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.compress(gx.compressors.top_k(k=1)), gx.scale(2.0), gx.densify())
    >>> params = {"w": torch.zeros(3)}
    >>> tx.update({"w": torch.tensor([1.0, -4.0, 2.0])}, tx.init(params))[0]
    {'w': tensor([ 0., -8.,  0.])}
    """

    compressor: Compressor = compressor_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> CompressState:
        return CompressState(self.compressor.init(p, info.name))

    def update_leaf(
        self, u: Tensor, s: CompressState, p: Tensor | None, h: Values
    ) -> tuple[Payload, CompressState]:
        payload, new = self.compressor.compress(u, s.compressor)
        return payload, CompressState(new)
