"""Communication hooks of DistributedDataParallel, of which a module has one."""

from __future__ import annotations

from typing import Any

from torch import nn


def register(who: str, module: nn.Module, hook: Any) -> None:
    """Give a module in DistributedDataParallel a communication hook.

    Args:
        who: for errors.
        module: it.
        hook: what it calls for every bucket of gradients.

    Raises:
        RuntimeError: it has one already.
    """
    try:
        module.register_comm_hook(None, hook)  # type: ignore[operator]
    except RuntimeError as error:
        raise RuntimeError(
            f"{who}: the module has a communication hook already, such as that of "
            f"gx.optim.zero1(model=) or comm_hook: {error}; wrap it in DistributedDataParallel "
            "anew, or give the module inside"
        ) from error
