"""Whether a chain treats every element by itself, found out on tensors without values."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch, _pytree

from ..core.protocol import GradientTransformation
from .leaves import Leaves

# Whole matrices and vectors, large enough for what begins at a size.
_SHAPES = {"matrix": (4096, 1024), "kernel": (256, 256, 3, 3), "vector": (1 << 20,)}
_COPIES = frozenset(
    [
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_empty",
        "empty",
        "zeros",
        "ones",
        "full",
        "empty_strided",
        "new_empty_strided",
        "new_full",
        "scalar_tensor",
        "lift_fresh",
        "copy_",
        "_to_copy",
        "clone",
        "detach",
        "alias",
        "fill_",
        "zero_",
    ]
)


class _NotPointwiseError(Exception):
    """An operator that lets elements meet, or that depends on where they are."""


class _Pointwise(_python_dispatch.TorchDispatchMode):
    """Raises at the first operator on large tensors that is not pointwise."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if torch.Tag.pointwise in func.tags or func._schema.name[6:] in _COPIES:
            return out
        if any(x.numel() > 1 for x in _tensors((args, kwargs, out))):
            raise _NotPointwiseError(func._schema.name)
        return out


def _tensors(values: Any) -> Iterator[Tensor]:
    return (x for x in _pytree.tree_leaves(values) if isinstance(x, Tensor))


def meeting(tx: GradientTransformation, dtypes: frozenset[torch.dtype]) -> str | None:
    """Where elements of a leaf meet in a chain, or None if nowhere.

    Args:
        tx: the chain.
        dtypes: of its parameters.

    Returns:
        The member and the operator; also where the chain cannot be run without values.
    """
    try:
        for dtype in dtypes:
            params = Leaves(
                {
                    name: torch.empty(shape, dtype=dtype, device="meta")
                    for name, shape in _SHAPES.items()
                }
            )
            with torch.no_grad(), _Pointwise():
                state = tx.init(params)
                value = torch.empty((), dtype=torch.float32, device="meta")
                for _ in range(2):
                    _, state = tx.update(params, state, params, value=value)
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"{_member(error, tx)} ({what})"
    return None


def _member(error: Exception, tx: GradientTransformation) -> str:
    """The innermost transform that was running."""
    name = tx.name
    for frame, _ in traceback.walk_tb(error.__traceback__):
        own = frame.f_locals.get("self")
        if isinstance(own, GradientTransformation):
            name = own.name
    return name
