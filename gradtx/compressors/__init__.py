"""What is kept of an update: chosen entries, signs, or a matrix of low rank."""

from .coded import Coded, dct_top_k
from .columns import TopColumnsState, top_columns
from .compressor import Compressor, Payload, identity
from .elementwise import sign, threshold
from .low_rank import LowRankState, low_rank
from .power_iteration import PowerIterationState, power_iteration
from .sparse import Blocks, RandomKState, SparseCompressor, block_top_k, random_k, top_k

__all__ = [
    "Blocks",
    "Coded",
    "Compressor",
    "LowRankState",
    "Payload",
    "PowerIterationState",
    "RandomKState",
    "SparseCompressor",
    "TopColumnsState",
    "block_top_k",
    "dct_top_k",
    "identity",
    "low_rank",
    "power_iteration",
    "random_k",
    "sign",
    "threshold",
    "top_columns",
    "top_k",
]
