"""Forward-mode rules of functions of our own, which can be differentiated forward again."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functorch = torch._C._functorch


def forward_rule(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the ``jvp`` of a ``torch.autograd.Function``.

    Torch switches forward mode off while it calls a rule, so that a second derivative by forward
    over forward mode would be zero without a word. With it on, saved tensors must be without the
    tangents that the rule is there for.

    >>> import torch
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(x):
    ...         return x * x
    ...     @staticmethod
    ...     def setup_context(ctx, inputs, output):
    ...         ctx.save_for_forward(*inputs)
    ...     @staticmethod
    ...     @forward_rule
    ...     def jvp(ctx, dx):
    ...         return 2 * ctx.saved_tensors[0] * dx
    """

    @wraps(rule)
    def run(ctx: Any, *tangents: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return rule(_Primals(ctx), *tangents)

    return run


class _Primals:
    """A context whose saved tensors have no tangents of the innermost forward derivative."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple(map(_primal, self._ctx.saved_tensors))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _primal(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if not _functorch.is_batchedtensor(x):
        return forward_ad.unpack_dual(x).primal
    inside = _primal(_functorch.get_unwrapped(x))
    return _functorch._add_batch_dim(
        inside, _functorch.maybe_get_bdim(x), _functorch.maybe_get_level(x)
    )
