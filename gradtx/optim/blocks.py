"""Leaves whose states are in blocks, of which ranks have some each: nothing need be sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from ..codecs import Codec
from ..core.chain import Chain
from ..core.protocol import GradientTransformation
from ..core.select import masked, partition
from ..fuse import Rows

Replace = Callable[[Codec], Codec | None]


class Blocks(NamedTuple):
    """A chain that keeps blocks of consecutive elements.

    Attributes:
        own: the chain for the blocks that this rank has.
        dense: a chain that does the same to elements, and keeps them as they are.
    """

    own: GradientTransformation
    dense: GradientTransformation


def blocks_of(tx: GradientTransformation, rows: Rows) -> Blocks | None:
    """The chain for a part of a leaf; None where it keeps no blocks, or the part cuts one.

    Parts must be equal, so that what is kept of them is cut as the leaf is.

    Args:
        tx: the chain.
        rows: what this rank has of the leaf.

    >>> import torch, gradtx as gx
    >>> from gradtx.fuse import Rows
    >>> from gradtx.optim.blocks import blocks_of
    >>> half = Rows(torch.empty(4, 1024, device="meta"), (0, 2048, 4096), own=0)
    >>> blocks_of(gx.chain(gx.trace(0.9, codec=gx.codecs.blockwise(8))), half).own
    chain(trace(decay=0.9, codec=blockwise(min_size=0)))
    """
    sizes: list[int] = []

    def of_part(codec: Codec) -> Codec:
        found = codec.of_blocks(rows.leaf.numel())
        if found is None:
            return codec
        sizes.append(found[0])
        return found[1]

    parts = {stop - start for start, stop in pairwise(rows.bounds)}
    own = _with_codecs(tx, of_part)
    if not sizes or len(parts) > 1 or any(part % size for part in parts for size in sizes):
        return None
    numel = rows.leaf.numel()
    dense = _with_codecs(tx, lambda codec: codec if codec.of_blocks(numel) is None else None)
    return Blocks(own, dense)


def _with_codecs(tx: GradientTransformation, fn: Replace) -> GradientTransformation:
    """The chain with other codecs."""
    if isinstance(tx, Chain):
        return Chain(tuple((name, _with_codecs(member, fn)) for name, member in tx))
    if isinstance(tx, partition):
        inside = {label: _with_codecs(inner, fn) for label, inner in tx.transforms.items()}
        return dataclasses.replace(tx, transforms=inside)
    if isinstance(tx, masked):
        return dataclasses.replace(tx, transform=_with_codecs(tx.transform, fn))
    if not dataclasses.is_dataclass(tx):
        return tx
    found = {name: fn(x) for name, x in vars(tx).items() if isinstance(x, Codec)}
    return dataclasses.replace(tx, **found) if found else tx
