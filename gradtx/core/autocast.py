"""Outside autocast: what a transform computes does not depend on the region it is called in.

``torch.autocast`` runs matrix products in half precision. A model asks for that; its optimizer
does not, which may step inside the region.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_DEVICES: tuple[str, ...] = tuple(torch._C._autocast_supported_devices())
_is_any_enabled = torch._C._is_any_autocast_enabled

Function = TypeVar("Function", bound=Callable[..., Any])


def outside_autocast(fn: Function) -> Function:
    """The function with autocast switched off, on every device, while it runs.

    >>> import torch
    >>> from gradtx.core.autocast import outside_autocast
    >>> square = outside_autocast(lambda x: x @ x)
    >>> with torch.autocast("cpu"):
    ...     square(torch.ones(1, 1)).dtype
    torch.float32
    """

    @functools.wraps(fn)
    def outside(*args: Any, **kwargs: Any) -> Any:
        return _run(fn, args, kwargs) if _is_any_enabled() else fn(*args, **kwargs)

    return outside  # type: ignore[return-value]


def _run(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for device in _DEVICES:
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return _run(fn, args, kwargs)
    return fn(*args, **kwargs)


def define_outside_autocast(cls: type, *methods: str) -> None:
    """Give a class its own definitions of these methods ``outside_autocast``."""
    for name in methods:
        if callable(method := vars(cls).get(name)):
            setattr(cls, name, outside_autocast(method))
