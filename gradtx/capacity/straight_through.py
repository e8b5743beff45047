"""Pruned weights in the forward pass, and which of them get a gradient."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..sparsity.straight_through import KINDS, masked
from .sparse import largest


def sparsify(
    x: Tensor,
    density: float,
    backward_mask: Literal["forward", "threshold", "band"] = "forward",
    backward_density: float | None = None,
    band: tuple[float, float] | None = None,
) -> Tensor:
    """Keep the entries of largest magnitude, and let a gradient through to those of a mask.

    Args:
        x: a tensor of weights.
        density: share of entries that are kept, in (0, 1]; of equal ones the first.
        backward_mask: "forward", the kept ones get a gradient; "threshold", those above a second,
            lower threshold; "band", those between two thresholds.
        backward_density: for "threshold", the share of entries above that threshold, in
            [density, 1].
        band: for "band", the shares of entries above the upper and above the lower threshold,
            0 <= first < second <= 1.

    Raises:
        ValueError: an unknown mask, or a share that is missing or outside its range.

    Source: arXiv 2506.01863, which leaves the thresholds open.

    >>> import torch, gradtx as gx
    >>> x = torch.tensor([4.0, -3.0, 2.0, 1.0])
    >>> def total(x, **kw): return gx.capacity.sparsify(x, 0.25, **kw).sum()
    >>> torch.func.grad(total)(x)
    tensor([1., 0., 0., 0.])
    >>> torch.func.grad(lambda x: total(x, backward_mask="band", band=(0.25, 0.75)))(x)
    tensor([0., 1., 1., 0.])
    """
    if backward_mask not in KINDS:
        raise ValueError(f"sparsify: backward_mask must be one of {KINDS}, got {backward_mask!r}")
    if not 0 < density <= 1:
        raise ValueError(f"sparsify: density must be in (0, 1], got {density}")
    kept = largest(x, density)
    passing = kept
    if backward_mask == "threshold":
        if backward_density is None or not density <= backward_density <= 1:
            raise ValueError(
                "sparsify: backward_density must be in [density, 1] for backward_mask="
                f"'threshold', got {backward_density}"
            )
        passing = largest(x, backward_density)
    elif backward_mask == "band":
        if band is None or not 0 <= band[0] < band[1] <= 1:
            raise ValueError(
                "sparsify: band must be two ascending shares in [0, 1] for backward_mask='band', "
                f"got {band}"
            )
        passing = largest(x, band[1])
        if band[0] > 0:
            passing = passing & ~largest(x, band[0])
    return masked(x, kept, passing)
