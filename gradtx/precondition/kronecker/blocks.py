"""How leaves are cut into the blocks that a preconditioner treats as problems of their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core.fields import static
from .policy import Policy


class Region(NamedTuple):
    """The blocks of one shape in a view of a leaf: a box on whose grid they lie.

    Attributes:
        starts: first entry by dimension.
        counts: blocks by dimension.
        shape: of one block.
    """

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BlockPlan:
    """Where the blocks of one leaf are; static and hashable.

    The blocks of one shape form a stack (number, d_1, .. d_o), row-major over the grid: of a matrix
    those of full size, a right strip, a bottom strip and a corner.

    Attributes:
        shape: of the leaf.
        order: a permutation of its dimensions before they are merged, or ().
        view: shape that is cut.
        size: longest side of a block; None for no cuts.

    >>> import torch, gradtx as gx
    >>> plan = gx.blocks(2).plan((3, 5))
    >>> [(math.prod(r.counts), r.shape) for r in plan.regions]
    [(2, (2, 2)), (1, (2, 1)), (2, (1, 2)), (1, (1, 1))]
    >>> x = torch.arange(15.0).view(3, 5)
    >>> bool((plan.scatter(plan.gather(x)) == x).all())
    True
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    view: tuple[int, ...]
    size: int | None = None

    @property
    def regions(self) -> tuple[Region, ...]:
        """One for every shape of block, the first dimension outermost."""
        make = _regions if torch.compiler.is_compiling() else _known_regions
        return make(self.view, self.size)

    def gather(self, leaf: Tensor) -> tuple[Tensor, ...]:
        """The stacks of blocks of a tensor shaped like the leaf, in the order of ``regions``."""
        x = leaf.permute(self.order) if self.order else leaf
        x = x.reshape(self.view)
        return tuple(_stack(x, region) for region in self.regions)

    def scatter(self, stacks: Sequence[Tensor]) -> Tensor:
        """The tensor shaped like the leaf that has these blocks."""
        pieces = [_box(x, region) for x, region in zip(stacks, self.regions, strict=True)]
        for dim in reversed(range(len(self.view))):
            parts = len(_runs(self.view[dim], self.size))
            pieces = [
                torch.cat(pieces[i : i + parts], dim) if parts > 1 else pieces[i]
                for i in range(0, len(pieces), parts)
            ]
        (x,) = pieces
        if not self.order:
            return x.reshape(self.shape)
        permuted = x.reshape([self.shape[i] for i in self.order])
        return permuted.permute([self.order.index(i) for i in range(len(self.order))])


def _regions(view: tuple[int, ...], size: int | None) -> tuple[Region, ...]:
    found = []
    for runs in itertools.product(*(_runs(length, size) for length in view)):
        starts, counts, sides = zip(*runs, strict=True) if runs else ((), (), ())
        found.append(Region(starts, counts, sides))
    return tuple(found)


_known_regions = cache(_regions)


def _runs(length: int, size: int | None) -> list[tuple[int, int, int]]:
    """Start, number and length of the blocks of a dimension: the full ones, then the rest."""
    if size is None or length <= size:
        return [(0, 1, length)]
    full, rest = divmod(length, size)
    return [(0, full, size), *([(full * size, 1, rest)] if rest else [])]


def _stack(x: Tensor, region: Region) -> Tensor:
    """(n_1 b_1, n_2 b_2, ..) -> (n_1 n_2 .., b_1, b_2, ..)."""
    for dim, (start, count, side) in enumerate(zip(*region, strict=True)):
        x = x.narrow(dim, start, count * side)
    if math.prod(region.counts) == 1:
        return x.unsqueeze(0)
    split = [n for pair in zip(region.counts, region.shape, strict=True) for n in pair]
    last = len(split)
    x = x.reshape(split).permute(*range(0, last, 2), *range(1, last, 2))
    return x.reshape(-1, *region.shape)


def _box(stack: Tensor, region: Region) -> Tensor:
    """The inverse of ``_stack``."""
    if math.prod(region.counts) == 1:
        return stack.squeeze(0)
    order = len(region.shape)
    x = stack.reshape(*region.counts, *region.shape)
    x = x.permute([i // 2 + (order if i % 2 else 0) for i in range(2 * order)])
    pairs = zip(region.counts, region.shape, strict=True)
    return x.reshape([count * side for count, side in pairs])


@dataclass(frozen=True, repr=False)
class blocks(Policy):
    """How leaves of any shape are seen, and cut into blocks.

    Args:
        size: longest side of a block, >= 1; None for no cuts.
        view: "keep" leaves dimensions as they are; "squeeze" drops those of length one; "matrix"
            drops them too and takes the first against all others; "merge_front" merges
            neighbours from the first dimension on while their product is at most ``limit``;
            "merge_back" from the last one on, down to ``target`` dimensions.
        limit: of merged dimensions, >= 1; None for ``size``, and without it for no limit.
        target: dimensions that "merge_back" leaves, >= 1; None merges nothing.
        channels_last: of a leaf of four dimensions the last one has the channels; see it second.

    Raises:
        ValueError: a value that is not among these.

    >>> import gradtx as gx
    >>> gx.blocks(8, view="matrix").plan((8, 3, 1, 3)).view
    (8, 9)
    >>> gx.blocks(view="merge_front", limit=16).plan((4, 2, 2, 2)).view
    (16, 2)
    """

    size: int | None = static(None, at_least=1)
    view: Literal["keep", "squeeze", "matrix", "merge_front", "merge_back"] = "keep"
    limit: int | None = static(None, at_least=1)
    target: int | None = static(1, at_least=1, optional=True)
    channels_last: bool = False

    def plan(self, shape: Sequence[int]) -> BlockPlan:
        """The plan of a leaf of this shape."""
        make = _plan if torch.compiler.is_compiling() else _known_plan
        return make(self, tuple(shape))


def _plan(how: blocks, shape: tuple[int, ...]) -> BlockPlan:
    order = (0, 3, 1, 2) if how.channels_last and len(shape) == 4 else ()
    dims = tuple(shape[i] for i in order) if order else shape
    limit = how.limit or how.size or math.inf
    if math.prod(shape) == 0:
        return BlockPlan(shape, order, (0,))
    if how.view == "merge_front" and len(dims) > 1:
        dims = _from_front(dims, limit)
    elif how.view == "merge_back" and how.target is not None:
        dims = _from_back(dims, limit, how.target)
    elif how.view in ("squeeze", "matrix"):
        dims = tuple(d for d in dims if d > 1)
        if how.view == "matrix" and len(dims) > 2:
            dims = (dims[0], math.prod(dims[1:]))
    return BlockPlan(shape, order, dims, how.size)


_known_plan = cache(_plan)


def _from_front(dims: tuple[int, ...], limit: float) -> tuple[int, ...]:
    out: list[int] = []
    run = 1
    for d in dims:
        if run * d <= limit:
            run *= d
        elif run > 1:
            out.append(run)
            run = d
        else:
            out.append(d)
    return (*out, run) if run > 1 or not out else tuple(out)


def _from_back(dims: tuple[int, ...], limit: float, target: int) -> tuple[int, ...]:
    kept = [d for d in dims if d > 1] or [1]
    out = [kept.pop()]
    while kept:
        enough = len(out) + len(kept) > target
        if enough and out[-1] * kept[-1] <= limit:
            out[-1] *= kept.pop()
        else:
            out.append(kept.pop())
    return tuple(reversed(out))
