"""Masked weights in the forward pass, and which of them get a gradient."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .keep import check_mask

KINDS = ("forward", "threshold", "band")


def straight_through(
    w: Tensor,
    mask: Tensor,
    kind: Literal["forward", "threshold", "band"] = "forward",
    lower: float | None = None,
    upper: float | None = None,
) -> Tensor:
    """The weights with masked ones zero, and a gradient for those of another mask.

    The value is w where the mask is True, 0 elsewhere. Its gradient reaches w where B is True: the
    mask itself ("forward"), the mask or |w| > lower ("threshold"), lower < |w| <= upper ("band").

    Args:
        w: weights.
        mask: bool, shaped like them, True where a weight is kept.
        kind: which B.
        lower: magnitude, >= 0, for "threshold" and "band".
        upper: magnitude, > lower, for "band".

    Raises:
        ValueError: an unknown kind, a mask of another shape or dtype, or thresholds that are
            missing, not used or not ascending.

    Source: arXiv 2506.01863, which leaves the thresholds open.

    >>> import torch, gradtx as gx
    >>> w, mask = torch.tensor([4.0, 2.0, 1.0]), torch.tensor([True, False, False])
    >>> def total(w, *how): return gx.sparsity.straight_through(w, mask, *how).sum()
    >>> torch.func.grad(total)(w), torch.func.grad(total)(w, "threshold", 1.5)
    (tensor([1., 0., 0.]), tensor([1., 1., 0.]))
    """
    if kind not in KINDS:
        raise ValueError(f"straight_through: kind must be one of {KINDS}, got {kind!r}")
    check_mask("straight_through", "w", mask, w)
    given = {"lower": lower, "upper": upper}
    used = {"forward": (), "threshold": ("lower",), "band": ("lower", "upper")}[kind]
    for name, value in given.items():
        if (value is not None) != (name in used):
            need = "needs" if name in used else "has no"
            raise ValueError(f"straight_through: kind {kind!r} {need} {name}, got {value!r}")
    least = 0.0 if lower is None else lower
    most = math.inf if upper is None else upper
    if not 0 <= least < most:
        raise ValueError(
            f"straight_through: needs 0 <= lower < upper, got lower={lower!r}, upper={upper!r}"
        )
    size = w.detach().abs()
    passing = mask
    if kind == "threshold":
        passing = mask | (size > least)
    elif kind == "band":
        passing = (size > least) & (size <= most)
    return masked(w, mask, passing)


def masked(w: Tensor, kept: Tensor, passing: Tensor) -> Tensor:
    """The weights where they are kept, 0 elsewhere, with a gradient where it is to pass."""
    zero = torch.zeros_like(w)
    through = torch.where(passing, w, zero)
    # The difference is exactly zero and carries the gradient.
    return torch.where(kept, w, zero).detach() + (through - through.detach())
