"""One row for every format, codec and compressor of the library."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import codecs, compressors
from ..codecs import Codec
from ..compressors import Compressor
from ..core.random import make_key, normal
from .blocks import absmax
from .format import Format
from .law import compose, effective_bits
from .measure import GMSE, SHAPE, Representation, bits_of, sampled
from .scalar import lloyd_max, uniform_midrise, uniform_midtread
from .sparse import n_of_m, prune

SAMPLES = 1 << 20

# What is shown of classes besides their defaults, or instead where they have none.
_ARGUMENTS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "affine": ({"bits": 2}, {"bits": 4}, {"bits": 8}, {"bits": 4, "rounding": "stochastic"}),
    "symmetric": ({"bits": 2}, {"bits": 4}, {"bits": 8}),
    "blockwise": ({"bits": 4}, {"bits": 8}),
    "affine_rows": ({"bits": 4}, {"bits": 8}),
    "rotated": ({"codec": codecs.affine_rows(4)},),
    "top_k": ({"density": 0.01}, {"density": 0.1}, {"density": 0.5}),
    "block_top_k": ({"density": 0.01}, {"density": 0.1}),
    "random_k": ({"density": 0.1},),
    "sign": ({}, {"block_size": 256}),
    "threshold": ({"bound": 1.0},),
    "top_columns": ({"rank": 64},),
    "low_rank": ({"rank": 16},),
    "power_iteration": ({"fraction": 0.0625},),
}


@dataclass(frozen=True)
class Row:
    """One representation.

    Attributes:
        name: how it is made.
        kind: "format", "codec" or "compressor".
        bits: stored a value, side data included.
        gmse, stderr: error on normal numbers and its standard error, 0 where it is exact.

    >>> import gradtx as gx
    >>> gx.capacity.Row("two of four bits", "format", 4.0, 1 / 16, 0.0).efficiency
    0.5
    """

    name: str
    kind: str
    bits: float
    gmse: float
    stderr: float

    @property
    def effective_bits(self) -> float:
        """What a perfect code would need for the same error; 0 where zeros are better."""
        return max(0.0, effective_bits(min(self.gmse, 1.0)))

    @property
    def efficiency(self) -> float:
        """Effective over stored bits; NaN where nothing is stored."""
        return self.effective_bits / self.bits if self.bits else math.nan


def formats() -> list[Format]:
    """The formats that the table shows."""
    half, two_four = prune(0.5), n_of_m(2, 4)
    return [
        *(uniform_midrise(bits) for bits in (1, 2, 3, 4, 6, 8)),
        *(uniform_midtread(bits) for bits in (2, 3, 4, 8)),
        *(lloyd_max(bits) for bits in (2, 3, 4, 5)),
        *(prune(density) for density in (0.75, 0.5, 0.25, 0.1, 0.01)),
        *(n_of_m(n, m) for n, m in ((1, 2), (2, 4), (4, 8), (8, 16), (1, 4), (6, 8))),
        *(compose([half, uniform_midrise(bits)]) for bits in (2, 4, 8)),
        compose([two_four, uniform_midtread(4)]),
        *(absmax("int4", block) for block in (32, 64, 128)),
        *(absmax("nf4", block) for block in (64, 128)),
        *(absmax("fp4", block) for block in (16, 32)),
        *(absmax("int8", block) for block in (64, 256)),
    ]


def of_the_library() -> dict[str, Codec | Compressor]:
    """Every public codec and compressor, with the arguments that the table shows, by name."""
    return {**_made(codecs, Codec), **_made(compressors, Compressor)}


def table(
    more: Sequence[Representation] = (),
    samples: int = SAMPLES,
    seed: int = 0,
    shape: Sequence[int] = SHAPE,
) -> list[Row]:
    """A row for every format, codec and compressor, those without a closed form by sampling.

    Args:
        more: further representations.
        samples: numbers drawn, the same for all of them.
        seed: of the numbers.
        shape: of the leaf that codecs and compressors are given.

    Raises:
        ValueError, TypeError: as ``gmse``.

    Source: arXiv 2506.01863.

    >>> import gradtx as gx
    >>> rows = {row.name: row for row in gx.capacity.table(samples=1 << 17)}
    >>> row = rows["uniform_midrise(2)"]
    >>> row.bits, round(row.gmse, 6), round(row.effective_bits, 3)
    (2.0, 0.118846, 1.536)
    """
    shown: dict[str, Representation] = {
        **{repr(x): x for x in formats()},
        **of_the_library(),
        **{getattr(x, "__name__", repr(x)): x for x in more},
    }
    exact = {name: x.exact_gmse() for name, x in shown.items() if isinstance(x, Format)}
    found = {name: GMSE(value, 0.0) for name, value in exact.items() if value is not None}
    rest = [name for name in shown if name not in found]
    errors = sampled([shown[name] for name in rest], shape, samples, seed)
    found |= dict(zip(rest, errors, strict=True))
    z = normal(make_key(seed), shape)
    return [Row(name, _kind(x), _rounded(bits_of(x, z)), *found[name]) for name, x in shown.items()]


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as text: bits stored, error, its standard error, effective bits, efficiency.

    >>> import gradtx as gx
    >>> print(gx.capacity.format_rows([gx.capacity.Row("x", "codec", 4.0, 0.0625, 0.0)]))
    representation  kind   bits stored     GMSE  stderr  effective bits  efficiency
    x               codec        4.000  0.06250   exact           2.000       0.500
    """
    header = ("representation", "kind", "bits stored", "GMSE", "stderr")
    cells = [(*header, "effective bits", "efficiency")]
    for row in rows:
        digits = f"{row.gmse:.5f}" if row.gmse >= 0.005 or row.gmse == 0 else f"{row.gmse:.3e}"
        stderr = f"{row.stderr:.1e}" if row.stderr else "exact"
        share = f"{row.efficiency:.3f}" if row.gmse else "-"  # numbers that are kept as they are
        shown = (f"{row.effective_bits:.3f}", share)
        cells.append((row.name, row.kind, f"{row.bits:.3f}", digits, stderr, *shown))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        left = [cell.ljust(w) for cell, w in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(w) for cell, w in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def _kind(representation: Representation) -> str:
    """The column of that name."""
    for base, word in ((Format, "format"), (Codec, "codec"), (Compressor, "compressor")):
        if isinstance(representation, base):
            return word
    return "function"


def _made(room: ModuleType, base: type) -> dict[str, Any]:
    """Instances of the public classes of a room; those that need unknown arguments are left out."""
    made = {}
    for public in room.__all__:
        cls = getattr(room, public)
        if not isinstance(cls, type) or not issubclass(cls, base) or public[0].isupper():
            continue
        required = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
        if required and public not in _ARGUMENTS:
            continue
        for arguments in _ARGUMENTS.get(public, ({},)):
            shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            made[f"{public}({shown})"] = cls(**arguments)
    return made


def _rounded(bits: float) -> float:
    """Without the last digits, in which one scale for a whole leaf shows."""
    return round(bits, 3)
