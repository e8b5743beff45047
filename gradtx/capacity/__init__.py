"""How much a compressed representation can hold: errors on normal numbers, effective bits.

One number, the mean square error on standard normal numbers, compares number formats, codecs of
moments and compressors of updates, and predicts how many parameters a network in a format is worth.
``python -m gradtx.capacity`` prints the table of all that the library has.
"""

from .blocks import absmax
from .codebook import vector_codebook
from .fit import fit_capacity, fit_scaling_law
from .format import Format
from .law import (
    Capacity,
    ScalingLaw,
    capacity,
    capacity_product,
    compose,
    effective_bits,
    scaling_law,
)
from .measure import GMSE, gmse, stored_bits
from .picture import save_picture
from .scalar import lloyd_max, uniform_midrise, uniform_midtread
from .sparse import n_of_m, prune
from .straight_through import sparsify
from .table import Row, format_rows, table

__all__ = [
    "GMSE",
    "Capacity",
    "Format",
    "Row",
    "ScalingLaw",
    "absmax",
    "capacity",
    "capacity_product",
    "compose",
    "effective_bits",
    "fit_capacity",
    "fit_scaling_law",
    "format_rows",
    "gmse",
    "lloyd_max",
    "n_of_m",
    "prune",
    "save_picture",
    "scaling_law",
    "sparsify",
    "stored_bits",
    "table",
    "uniform_midrise",
    "uniform_midtread",
    "vector_codebook",
]
