"""What is kept of an update: the compressor protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ..core.autocast import define_outside_autocast
from ..core.declared import short_repr
from ..core.leaves import LowRankUpdate, SparseUpdate, densify_leaf
from ..core.plain import Plain
from ..ops.feedback_columns import RowCodes

Payload: TypeAlias = "Tensor | SparseUpdate | LowRankUpdate"


@dataclass(frozen=True, repr=False)
class Compressor(Plain):
    """Base class of lossy forms of one leaf's update.

    Subclass it as a frozen dataclass and define ``compress``, and ``init`` if there is state.
    ``gx.compress`` puts a compressor into a chain; ``gx.error_feedback`` also adds what it drops
    to the next update.

    >>> import torch, gradtx as gx
    >>> c, x = gx.compressors.top_k(k=1), torch.tensor([1.0, -4.0, 2.0])
    >>> payload, _ = c.compress(x, c.init(x))
    >>> c.decompress(payload), c.residual(x, payload)
    (tensor([ 0., -4.,  0.]), tensor([1., 0., 2.]))
    """

    # Whether ``compress`` raises for no values where it has not raised for others.
    cannot_raise: ClassVar[bool] = False
    # Whether there are updates for which ``compress_with_feedback_`` is not None.
    takes_feedback: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        define_outside_autocast(cls, "init", "compress", "decompress", "residual")

    def init(self, p: Tensor, name: str = "") -> Any:
        """The state for a leaf: a NamedTuple of tensors, or () if there is none.

        Args:
            p: the parameter, or any tensor of its shape and dtype.
            name: the leaf's name, which tells its random numbers from those of other leaves.
        """
        return ()

    def compress(self, x: Tensor, state: Any) -> tuple[Payload, Any]:
        """What is kept of ``x``, and the state for the next update."""
        raise NotImplementedError

    def decompress(self, payload: Payload) -> Tensor:
        """What is kept, as an ordinary tensor."""
        return densify_leaf(payload)

    def residual(self, x: Tensor, payload: Payload) -> Tensor:
        """What is dropped: ``x - decompress(payload)``."""
        return x - self.decompress(payload)

    def compress_with_feedback_(
        self, x: Tensor, error: RowCodes, state: Any
    ) -> tuple[Payload, Any] | None:
        """``compress`` for ``x`` and an error, of which the rest becomes the new error, in place.

        For executors; None where it has to be done in parts.
        """
        return None

    def nbits(self, payload: Payload) -> float:
        """Bits that a payload takes: those of its values and of their positions.

        Where blocks begin follows from the leaf's size and is not counted.
        """
        if isinstance(payload, SparseUpdate):
            return _bits(payload.values) + _bits(payload.indices)
        if isinstance(payload, LowRankUpdate):
            return _bits(payload.factor) + _bits(payload.basis)
        return _bits(payload)

    def __repr__(self) -> str:
        return short_repr(type(self).__name__, self)


def _bits(x: Tensor) -> float:
    return 8.0 * x.numel() * x.element_size()


@dataclass(frozen=True, repr=False)
class identity(Compressor):
    """Keep everything.

    >>> import torch, gradtx as gx
    >>> gx.compressors.identity().compress(torch.ones(2), ())
    (tensor([1., 1.]), ())
    """

    def compress(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return x, state

    def residual(self, x: Tensor, payload: Payload) -> Tensor:
        return torch.zeros_like(x)
