"""Checks of leaves: what a transform cannot take is refused by name, before anything happens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import tree
from .errors import UnsupportedLeafError, described, shape_mismatch
from .leaves import STRUCTURED
from .tree import PyTree
from .watch import is_recorded


def can_read(flag: Tensor) -> bool:
    """Whether Python may branch on a tensor."""
    if is_recorded() or type(flag) is not Tensor:
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(flag):
        return False
    return not (flag.is_cuda and torch.cuda.is_current_stream_capturing())


def all_done(done: Tensor) -> bool:
    """Whether a flag holds for all that are mapped over, if that can be read at no cost.

    >>> import torch
    >>> from gradtx.core.checks import all_done
    >>> all_done(torch.tensor(True))
    True
    """
    functorch = torch._C._functorch
    if is_recorded():
        return False
    while functorch.is_functorch_wrapped_tensor(done):
        done = functorch.get_unwrapped(done)
    return type(done) is Tensor and done.device.type == "cpu" and bool(done.all())


def check_leaf(
    who: str, name: str, leaf: Any, what: str, accepts: tuple[type, ...] = (Tensor,)
) -> None:
    """Raise unless a leaf is one that the named transform can take; None always is.

    Raises:
        UnsupportedLeafError: sparse, complex or integer tensors, or a structured update.
        TypeError: not a tensor.
    """
    if leaf is None:
        return
    if isinstance(leaf, STRUCTURED):
        if not isinstance(leaf, accepts):
            raise UnsupportedLeafError(
                f"{who}: leaf {name!r}: the update is a {type(leaf).__name__}, "
                "which this transform does not take; put gx.densify() before it"
            )
        return
    if not isinstance(leaf, Tensor):
        raise TypeError(f"{who}: leaf {name!r}: the {what} must be a tensor, got {described(leaf)}")
    if leaf.layout != torch.strided:
        raise UnsupportedLeafError(
            f"{who}: leaf {name!r}: the {what} has layout {leaf.layout}; sparse "
            "tensors are not supported, use dense gradients"
        )
    if leaf.is_complex():
        raise UnsupportedLeafError(
            f"{who}: leaf {name!r}: does not support complex parameters; "
            "pass torch.view_as_real of the parameter and of its gradient"
        )
    if not leaf.is_floating_point():
        raise UnsupportedLeafError(
            f"{who}: leaf {name!r}: the {what} has dtype {leaf.dtype}; "
            "only floating-point leaves can be optimized, use None or gx.masked for others"
        )


def check_tensors(
    who: str,
    updates: PyTree,
    like: PyTree = None,
    what: str = "update",
    accepts: tuple[type, ...] = (Tensor,),
) -> None:
    """Raise unless every leaf is an ordinary tensor or None, shaped like its leaf of ``like``.

    Raises:
        UnsupportedLeafError, TypeError: see ``check_leaf``.
        TreeMismatchError: ``like`` is given and has another structure or another shape.
    """
    leaves, spec = tree.flatten(updates)
    others = (
        [None] * len(leaves) if like is None else tree.leaves_like(who, spec, like, "parameter")
    )
    for name, leaf, other in zip(tree.names(spec), leaves, others, strict=True):
        check_leaf(who, name, leaf, what, accepts)
        if leaf is not None and other is not None and tuple(leaf.shape) != tuple(other.shape):
            raise shape_mismatch(who, name, what, leaf.shape, "parameter", other.shape)
