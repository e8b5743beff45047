"""Whether something other than the caller follows a computation: derivatives, maps, compilers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_recorded() -> bool:
    """Whether operations are being recorded: ``torch.compile``, ``make_fx`` and their like.

    Python must not branch on values then.
    """
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def is_traced() -> bool:
    """Whether operations become a graph, as ``is_recorded``; not where a mode only looks at them.

    Modes that count operations or collectives must not change the bits of what is computed.
    """
    keys = torch._C._TorchDispatchModeKey
    return torch.compiler.is_compiling() or any(
        torch._C._get_dispatch_mode(key) is not None
        for key in (keys.PROXY, keys.FAKE, keys.FUNCTIONAL)
    )


def is_watched(*args: Any) -> bool:
    """Whether anything may differentiate, map or compile what is computed of these arguments."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or (
            torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
        )
    )
