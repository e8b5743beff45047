"""How moments are stored between steps: dense, in blocks of few bits, or as rank-one factors."""

from .affine import Affine, Symmetric, affine, symmetric
from .blockwise import Blockwise, UnsignedBlockwise, blockwise
from .codec import Codec, Encoding, nbytes
from .dense import as_codec, codec_field, dense, first_moment_codec, first_moment_of
from .dynamic import dynamic8
from .matricize import square_matricize
from .rank1 import Rank1, factor, rank1
from .rows import Rows, affine_rows, rotated

# What codecs store instead of a tensor.
ENCODINGS = (Affine, Blockwise, Rank1, Symmetric, UnsignedBlockwise)

__all__ = [
    "ENCODINGS",
    "Affine",
    "Blockwise",
    "Codec",
    "Encoding",
    "Rank1",
    "Rows",
    "Symmetric",
    "UnsignedBlockwise",
    "affine",
    "affine_rows",
    "as_codec",
    "blockwise",
    "codec_field",
    "dense",
    "dynamic8",
    "factor",
    "first_moment_codec",
    "first_moment_of",
    "nbytes",
    "rank1",
    "rotated",
    "square_matricize",
    "symmetric",
]
