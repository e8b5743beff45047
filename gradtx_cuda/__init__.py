"""Compiled kernels for the operators of gradtx.

`load` brings the shared library in, if there is one, and never raises; `status` says whether that
worked and why not. A library of other sources than those that lie here is not loaded, which is said
once: its operators may take other arguments, or compute something else. Without the library gradtx
runs on its reference operators.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from .sources import built_from, digest

__all__ = ["Status", "function", "load", "status"]

logger = logging.getLogger("gradtx")
_SOURCES = Path(__file__).parent / "csrc"
_LIBRARY = Path(__file__).parent / "_C.abi3.so"
_MIN_TORCH = (2, 10)


class Status(NamedTuple):
    """Whether the compiled kernels are in use.

    Attributes:
        active: True once the library is loaded.
        reason: why it is not; empty when active.
    """

    active: bool
    reason: str


_status: Status | None = None


def load() -> Status:
    """Load the shared library once; later calls return the first answer."""
    global _status
    if _status is None:
        _status = _load()
    return _status


def status() -> Status:
    """Return the outcome of `load`."""
    return load()


@functools.cache
def function(name: str) -> Callable[..., bytes | None] | None:
    """A function of the library that answers with a message or nothing; None without it.

    Args:
        name: of C.
    """
    if not load().active:
        return None
    found = getattr(ctypes.CDLL(str(_LIBRARY)), name, None)
    if found is not None:
        found.restype = ctypes.c_char_p
    return found


def _load() -> Status:
    if not _LIBRARY.exists():
        return Status(
            False,
            f"{_LIBRARY.name} was not built; install with "
            "`pip install --no-build-isolation` where torch and a C++ compiler are present",
        )
    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _MIN_TORCH:
        return Status(False, f"the kernels need torch >= 2.10, found {version}")
    try:
        built, sources = built_from(_LIBRARY), digest(_SOURCES)
        if built and sources and built != sources:
            reason = (
                f"{_LIBRARY} was built from other sources than those that lie beside it; build it "
                "again with `pip install --no-build-isolation --editable .`"
            )
            logger.warning("gradtx: the compiled kernels are not used: %s", reason)
            return Status(False, reason)
        torch.ops.load_library(_LIBRARY)
    except OSError as error:
        return Status(False, f"{_LIBRARY.name} does not load: {error}")
    return Status(True, "")
