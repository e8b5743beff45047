"""Every system that can be replayed, gathered from the family modules of this package."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from .golden import Golden
from .steppers import Extra, Factory, Meta, Stepper

Conformance = Callable[[Mapping[str, Tensor]], list[tuple[str, Any, Any]]]
Case = Callable[[Golden], list[tuple[str, Any, Any, float]]]

_HARNESS = {"__main__", "golden", "replay", "steppers", "systems"}


def _gather(what: str) -> dict[str, Any]:
    """The dictionaries of that name of all family modules as one."""
    package = __name__.rpartition(".")[0]
    out: dict[str, Any] = {}
    for info in pkgutil.iter_modules([str(p) for p in import_module(package).__path__]):
        if info.name in _HARNESS or info.name.startswith(("test_", "conftest")):
            continue
        found = getattr(import_module(f"{package}.{info.name}"), what, {})
        twice = out.keys() & found.keys()
        if twice:
            raise ValueError(f"{info.name}.{what}: {sorted(twice)} are defined elsewhere too")
        out.update(found)
    return out


PEERS: dict[str, Factory] = _gather("PEERS")


def peer(meta: Meta, extra: Extra) -> Stepper:
    """A file of the folder ``peers``: one system an optimizer."""
    return PEERS[meta["optimizer"]](meta, extra)


SYSTEMS: dict[str, Factory] = {**_gather("SYSTEMS"), **({"peers": peer} if PEERS else {})}
CONFORMANCE: dict[str, Conformance] = _gather("CONFORMANCE")
CASES: dict[str, Case] = _gather("CASES")


def is_known(golden: Golden) -> bool:
    """Whether a file can be replayed."""
    if not golden.is_trajectory:
        return golden.system in CONFORMANCE or golden.system in CASES
    if golden.system == "peers":
        return golden.meta["optimizer"] in PEERS
    return golden.system in SYSTEMS
