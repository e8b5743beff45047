"""Group options in a state dict: values that ``torch.load`` takes back by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from .. import codecs, compressors, schedules, sparsity, subspace
from ..core.masks import Dimensions
from ..core.plain import plain

# Objects that options may be, all of them frozen dataclasses.
SAFE: tuple[type[Any], ...] = (
    Dimensions,
    *(
        thing
        for room in (codecs, compressors, schedules, subspace)
        for thing in map(vars(room).get, room.__all__)
        if isinstance(thing, type) and dataclasses.is_dataclass(thing)
    ),
    *(sparsity.PhaseSchedule, sparsity.magnitude_support),
    *(sparsity.nm_support, sparsity.block_support),
)
_PLAIN = (NoneType, bool, int, float, complex, str, bytes, Tensor, torch.dtype, torch.device)
_LEFT_OUT = "gradtx: no checkpoint holds this: "


def to_saved(group: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A group with NumPy's numbers as Python's, and words for options that cannot be saved.

    Args:
        group: as ``torch.optim`` packs it.
        options: names of the options; other entries belong to the user.
    """
    out = {name: _numbers(value) for name, value in group.items()}
    for name in options:
        if name in out and not _is_safe(out[name]):
            out[name] = _LEFT_OUT + _words(out[name])
    return out


def from_saved(
    who: str, index: int, saved: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """A saved group with the present values of the options that could not be saved.

    Raises:
        ValueError: such an option has no present value of its kind (names it).
    """
    out = dict(saved)
    for name, value in saved.items():
        if not (isinstance(value, str) and value.startswith(_LEFT_OUT)):
            continue
        if name not in now or _is_safe(now[name]):
            raise ValueError(
                f"{who}: option {name!r} of group {index} was {value.removeprefix(_LEFT_OUT)}, "
                "which a checkpoint cannot hold: make the optimizer with it before loading, "
                f"got {now.get(name)!r}"
            )
        out[name] = now[name]
    return out


def _numbers(value: Any) -> Any:
    return [plain(x) for x in value] if type(value) is list else plain(value)


def _is_safe(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_safe, value))
    if isinstance(value, dict):
        return all(map(_is_safe, value.values()))
    if type(value) in SAFE:
        return all(map(_is_safe, vars(value).values()))
    return isinstance(value, _PLAIN)


def _words(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    return f"a {type(value).__name__}" if name is None else f"the {type(value).__name__} {name}"
