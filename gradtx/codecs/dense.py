"""The plain tensor as a codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.fields import check_floating
from ..core.hyper import static
from ..core.state import state_zeros
from .codec import Codec, Encoding


@dataclass(frozen=True, repr=False)
class dense(Codec):
    """Keep the state as it is, in some floating dtype; the encoding is the tensor itself.

    Args:
        dtype: of the stored tensor; default float32, float64 for float64 parameters.

    Raises:
        ValueError: a dtype that is not floating.

    >>> import torch, gradtx as gx
    >>> gx.codecs.dense(torch.bfloat16).init(torch.zeros(2), signed=True)
    tensor([0., 0.], dtype=torch.bfloat16)
    """

    dtype: torch.dtype | None = static(None, check=check_floating)

    @property
    def keeps_zero(self) -> bool:
        return True

    def init(self, p: Tensor, signed: bool) -> Tensor:
        return state_zeros(p, self.dtype)

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        assert isinstance(enc, Tensor)
        return enc if enc.dtype == like.dtype else enc.to(like.dtype)

    def encode(self, full: Tensor, enc: Encoding) -> Tensor:
        assert isinstance(enc, Tensor)
        return full if full.dtype == enc.dtype else full.to(enc.dtype)


_DENSE = dense()


def as_codec(value: Codec | torch.dtype | None) -> Codec:
    """A codec as it is, a dtype as ``dense(dtype)``, None as ``dense()``.

    Raises:
        TypeError: anything else.

    >>> import torch, gradtx as gx
    >>> gx.codecs.as_codec(torch.bfloat16)
    dense(dtype=torch.bfloat16)
    """
    if value is None:
        return _DENSE
    if isinstance(value, torch.dtype):
        return dense(value)
    if isinstance(value, Codec):
        return value
    raise TypeError(f"as_codec: a codec, a dtype or None is needed, got {type(value).__name__}")


def first_moment_codec(value: Codec | torch.dtype | None) -> Codec:
    """The codec that an option of a first moment asks for.

    >>> import gradtx as gx
    >>> from gradtx.codecs import first_moment_codec
    >>> first_moment_codec(gx.codecs.affine(4))
    affine(include_zero=True)
    """
    return as_codec(value).for_first_moment()


def first_moment_of(
    codec: Codec, enc: Encoding, like: Tensor, second: Tensor, nothing: float | Tensor = 0.0
) -> Tensor:
    """A first moment, zero where the second one is at most ``nothing``.

    That is where no gradient has been: what a codec that does not keep zero brings back there is
    the image of other entries.

    >>> import torch, gradtx as gx
    >>> from gradtx.codecs import first_moment_of
    >>> codec, m = gx.codecs.rank1(), torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> first_moment_of(codec, codec.encode(m, codec.init(m, signed=True)), m, second=m * m)
    tensor([[2., 1.],
            [2., 0.]])
    """
    full = codec.decode(enc, like)
    return full if codec.keeps_zero else torch.where(second <= nothing, 0.0, full)


def codec_field(default: Codec | torch.dtype | None = None) -> Any:
    """Declare how a moment is kept: a codec, a dtype, or None for at least float32.

    >>> import gradtx as gx
    >>> gx.ema(0.9, codec="bfloat16")
    Traceback (most recent call last):
    TypeError: ema: codec must be a codec, a dtype or None, got str
    """
    return static(default, check=_codec_field)


def _codec_field(who: str, name: str, value: Any) -> None:
    if value is not None and not isinstance(value, (Codec, torch.dtype)):
        raise TypeError(
            f"{who}: {name} must be a codec, a dtype or None, got {type(value).__name__}"
        )
