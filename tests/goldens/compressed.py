"""Number formats: errors on normal numbers, and exact decoded vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

import gradtx as gx

from .golden import Golden

Row = tuple[str, Any, Any, float]
_EXACT = 1e-9  # of numbers that a row gives of another number in it
_BLOCKS = {
    **{"absmax_int4_sym": "int4", "absmax_int8_sym": "int8"},
    **{"absmax_nf4": "nf4", "absmax_fp4_e2m1": "fp4"},
}


def capacity(golden: Golden) -> list[Row]:
    """The rows of a table of errors, or decoded vectors."""
    hyper = golden.meta["hyperparameters"]
    if "table" in hyper:
        return [row for entry in hyper["table"] for row in _table_row(entry, golden)]
    rtol, x = golden.meta["rtol"], golden.tensor("extra/x")
    decoders = {f"extra/{entry['key']}": _decoder(entry, golden) for entry in hyper["formats"]}
    return [(key, decode(x), golden.tensor(key), rtol) for key, decode in decoders.items()]


def _table_row(entry: Mapping[str, Any], golden: Golden) -> Iterator[Row]:
    name = "/".join(str(v) for k, v in entry.items() if k in ("format", "bits", "n", "m", "block"))
    form = _format(entry, golden)
    yield f"{name}/gmse", gx.capacity.gmse(form).value, entry["gmse"], entry["rtol"]
    yield f"{name}/eff_bits", gx.capacity.effective_bits(entry["gmse"]), entry["eff_bits"], _EXACT
    if "levels" in entry:
        yield f"{name}/levels", list(form.levels()), entry["levels"], entry["rtol"]


def _format(entry: Mapping[str, Any], golden: Golden) -> gx.capacity.Format:
    """The format of a row of a table."""
    kind, step = entry["format"], entry.get("step")
    if kind == "uniform_midrise":
        return gx.capacity.uniform_midrise(entry["bits"], step)
    if kind == "uniform_midtread":
        return gx.capacity.uniform_midtread(entry["bits"], step)
    if kind == "lloyd_max":
        return gx.capacity.lloyd_max(entry["bits"])
    if kind == "topk_density":
        return gx.capacity.prune(entry["density"])
    if kind == "n_of_m":
        return gx.capacity.n_of_m(entry["n"], entry["m"])
    if kind.startswith("topk_then_mid"):
        rise = kind.endswith("rise")
        make = gx.capacity.uniform_midrise if rise else gx.capacity.uniform_midtread
        return gx.capacity.compose([gx.capacity.prune(entry["density"]), make(entry["bits"], step)])
    if kind in _BLOCKS:
        return gx.capacity.absmax(_BLOCKS[kind], entry["block"])
    assert kind == "vq_codebook", kind
    return gx.capacity.vector_codebook(_words(entry, golden), scale=1.0)


def _decoder(entry: Mapping[str, Any], golden: Golden) -> Callable[[Tensor], Tensor]:
    """The format of a decoded vector."""
    key = entry["key"]
    if key.startswith("midrise"):
        return gx.capacity.uniform_midrise(entry["bits"], entry["step"])
    if key.startswith("midtread"):
        return gx.capacity.uniform_midtread(entry["bits"], entry["step"])
    if "m" in entry:
        return gx.capacity.n_of_m(entry["n"], entry["m"])
    if "k" in entry:
        compressor = gx.compressors.top_k(k=entry["k"])
        return lambda x: compressor.decompress(compressor.compress(x, ())[0])
    if "block" in entry:
        kind = "fp4" if "e2m1" in key else next(k for k in _BLOCKS.values() if k in key)
        return gx.capacity.absmax(kind, entry["block"])
    return gx.capacity.vector_codebook(_words(entry, golden), scale=1.0)


def _words(entry: Mapping[str, Any], golden: Golden) -> Tensor:
    words = golden.tensor(f"extra/{entry.get('codebook', 'codebook')}")
    assert words.shape[1] == entry["dim"]
    return words


CASES = {"capacity": capacity}
