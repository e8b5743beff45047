"""How a state tensor is kept between two steps: the codec protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from ..core import tree
from ..core.declared import short_repr
from ..core.errors import TreeMismatchError
from ..core.plain import Plain
from ..core.state import state_full
from ..ops.feedback_columns import RowCodes

Encoding: TypeAlias = Tensor | tuple[Any, ...]


@dataclass(frozen=True, repr=False)
class Codec(Plain):
    """Base class of the forms in which a moment may be stored.

    A moment transform decodes its state in full, uses the full moment for its step, and encodes the
    result, so that what a lossy codec forgets only reaches the next step. Subclass it as a frozen
    dataclass; an encoding is a tensor or a NamedTuple of tensors whose shapes follow from the
    leaf's shape alone.

    A first moment divided by the root of a second one must be zero where there never was a
    gradient: whatever else a codec brings back is divided by almost nothing there. Codecs bring
    zero back as zero (``keeps_zero``), can be told to (``for_first_moment``), or moments of theirs
    count only where the second moment has gathered something (``first_moment_of``).

    >>> import torch, gradtx as gx
    >>> codec, m = gx.codecs.rank1(), torch.tensor([[1.0, -2.0], [2.0, 4.0]])
    >>> enc = codec.encode(m, codec.init(m, signed=True))
    >>> codec.decode(enc, like=m)
    tensor([[ 1., -2.],
            [ 2.,  4.]])
    """

    def init(self, p: Tensor, signed: bool) -> Encoding:
        """The encoding of zeros for a state shaped like ``p``.

        Args:
            p: the parameter, or any tensor of its shape and dtype.
            signed: whether the state may be negative (first moments: yes, second moments: no).
        """
        raise NotImplementedError

    def decode(self, enc: Encoding, like: Tensor) -> Tensor:
        """The full tensor, of the shape and dtype of ``like`` (the update in its wide dtype)."""
        raise NotImplementedError

    def encode(self, full: Tensor, enc: Encoding) -> Encoding:
        """Store a full tensor in the form, shapes and dtypes of the old encoding ``enc``."""
        raise NotImplementedError

    def init_full(self, p: Tensor, value: float, signed: bool) -> Encoding:
        """The encoding of a constant for a state shaped like ``p``."""
        enc = self.init(p, signed)
        return enc if value == 0 else self.encode(state_full(p, value), enc)

    @property
    def keeps_zero(self) -> bool:
        """Whether entries of signed states that are zero come back as zero."""
        return False

    def for_first_moment(self) -> Codec:
        """This codec, or if there is one, the same one that keeps zero."""
        return self

    def for_leaf(self, name: str) -> Codec:
        """This codec for the leaf of that name: random numbers, if any, become the leaf's own."""
        return self

    def of_blocks(self, numel: int) -> tuple[int, Codec] | None:
        """For some consecutive blocks of a leaf: elements of a block, and the codec for them.

        None where blocks are not kept each by itself, in whole bytes, or the leaf stays dense.

        Args:
            numel: elements of the leaf.
        """
        return None

    def rescale(self, enc: Encoding, factor: float, like: Tensor) -> Encoding:
        """The encoding of ``factor`` times the tensor; codecs with a scale keep the codes."""
        return self.encode(factor * self.decode(enc, like), enc)

    def row_codes(self, enc: Encoding, like: Tensor) -> RowCodes | None:
        """The tensors of an encoding for executors that overwrite them; None in other formats.

        Args:
            enc: an encoding.
            like: the update, of the leaf's shape.
        """
        return None

    def __repr__(self) -> str:
        return short_repr(type(self).__name__, self)


def nbytes(enc: tree.PyTree) -> int:
    """Bytes that the tensors of an encoding, or of any state, take.

    >>> import torch, gradtx as gx
    >>> gx.codecs.nbytes(gx.codecs.rank1().init(torch.zeros(1024, 1024), signed=True))
    139264
    """
    return sum(x.numel() * x.element_size() for x in tree.leaves(enc) if isinstance(x, Tensor))


def check_shapes(codec: Codec, like: Tensor, enc: Any, *shapes: tuple[int, ...]) -> None:
    """Raise unless the tensors of an encoding have the shapes that a leaf like this one needs.

    Raises:
        TreeMismatchError: names the field, its shape and the leaf's.
    """
    for name, tensor, shape in zip(enc._fields, enc, shapes, strict=False):
        if isinstance(tensor, Tensor) and tensor.shape != shape:
            raise TreeMismatchError(
                f"{type(codec).__name__}: {name} has shape {tuple(tensor.shape)}, a leaf of shape "
                f"{tuple(like.shape)} needs {shape}"
            )
