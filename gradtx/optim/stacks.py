"""Leaves that are stacks of parts, of which ranks have some each: nothing need be sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.chain import Chain
from ..core.functions import identity
from ..core.protocol import GradientTransformation
from ..core.select import masked, partition
from ..distributed.records import is_distributed, local_part
from ..fuse import Rows
from ..transforms import as_matrices
from .leaves import Leaves, Nested, flattened, map_paths, to_nested
from .shard_states import CutStates, full, of_shards

Path = tuple[str, ...]
Replace = Callable[[GradientTransformation, int, int], GradientTransformation]


def without_stacks(tx: GradientTransformation, rows: Rows) -> GradientTransformation:
    """A chain without the members that treat parts of a leaf one by one, if ranks have whole parts.

    >>> import torch, gradtx as gx
    >>> from gradtx.fuse import Rows
    >>> from gradtx.optim.stacks import without_stacks
    >>> experts = Rows(torch.empty(4, 3, 2, device="meta"), (0, 12, 24), own=0)
    >>> without_stacks(gx.chain(gx.trace(0.9), gx.orthogonalize()), experts)
    named_chain(('trace', trace(decay=0.9)), ('orthogonalize', identity()))
    """
    return _replaced(tx, rows, lambda member, first, own: identity())


def for_parts(tx: GradientTransformation, rows: Rows) -> GradientTransformation:
    """The chain for the parts that this rank has."""
    return _replaced(tx, rows, _share)


def _share(member: GradientTransformation, first: int, own: int) -> GradientTransformation:
    assert member.execution.stacked is not None
    share: GradientTransformation = member.execution.stacked.share(member, first, own)
    return share


@dataclass(frozen=True)
class PartStates(CutStates):
    """How the state of a leaf lies of which this rank has some parts.

    Attributes:
        name: of the parameter.
        rows: what this rank has of it, where ranks have rows.
        parts: paths of those that are of one part each, and lie with it.
        here: which of these are here.
    """

    name: str
    rows: Rows | None
    parts: frozenset[Path] = frozenset()
    here: frozenset[Path] = frozenset()

    def local(self, nested: Nested) -> Nested:
        """A state of DTensors or of whole tensors as what this rank has of it.

        All ranks may have to do it together.
        """

        def own(path: Path, x: Tensor) -> Tensor | None:
            if path in self.cut and self.cut[path] == self.p.shape:
                return of_shards("optimizer", self.name, self.p, {"": x})[""]
            if path in self.cut and is_distributed(x) and x.placements == self.p.placements:  # type: ignore[attr-defined]
                return local_part(x)
            x = full(x) if is_distributed(x) else x
            if path in self.cut and self.rows is not None:
                return self.rows.of(x).clone()
            return None if path in self.parts - self.here else x

        out: Nested = map_paths(own, nested)
        return out

    def of_parts(self, nested: Nested) -> Nested:
        """What is kept of the parts of this rank alone."""
        out: Nested = map_paths(lambda path, x: x if path in self.here else None, nested)
        return out


def part_states(tx: GradientTransformation, rows: Rows, p: Any, name: str) -> PartStates:
    """How the state of a leaf lies that a chain of ``for_parts`` updates.

    Args:
        tx: the whole chain.
        rows: what this rank has of the leaf.
        p: the leaf.
        name: of it.
    """
    nothing = _replaced(tx, rows, lambda member, first, own: _share(member, 0, 0))
    here = Leaves({name: torch.empty(local_part(p).shape, dtype=p.dtype, device="meta")})
    leaf = Leaves({name: rows.leaf})
    with torch.no_grad():
        every, common = _paths(tx.init(leaf), name), _paths(nothing.init(leaf), name)
        own = _paths(for_parts(tx, rows).init(here), name)
    parts = frozenset(every.keys() - common.keys())
    shapes = tuple(p.shape), tuple(local_part(p).shape)
    cut = {path: every[path] for path in common if (every[path], own.get(path)) == shapes}
    return PartStates(p, cut, name, rows, parts, parts & own.keys())


def like_leaf(tx: GradientTransformation, p: Any, name: str, part: Sequence[int]) -> PartStates:
    """How the state of a leaf lies whose elements are updated one by one where they are.

    Args:
        tx: the chain.
        p: the leaf.
        name: of it.
        part: the shape of a shard.
    """
    shapes = tuple(p.shape), tuple(part)
    with torch.no_grad():
        every, here = (
            _paths(tx.init(Leaves({name: torch.empty(x, dtype=p.dtype, device="meta")})), name)
            for x in shapes
        )
    cut = {path: x for path, x in every.items() if (x, here.get(path)) == shapes}
    return PartStates(p, cut, name, None)


def local_states(
    who: str,
    tx: GradientTransformation,
    own: GradientTransformation,
    rows: Rows | None,
    p: Any,
    name: str,
    part: Sequence[int],
) -> PartStates:
    """How the state of a leaf lies whose shards are updated as leaves of their own.

    Args:
        who: for errors.
        tx: the chain.
        own: the chain for shards.
        rows: what this rank has of the leaf, where ranks have rows.
        p: the leaf.
        name: of it.
        part: the shape of a shard.

    Raises:
        ValueError: something in it does not lie as the leaf, so that no checkpoint could have it.
    """
    leaf = torch.empty(p.shape, dtype=p.dtype, device="meta")
    shard = torch.empty(tuple(part), dtype=p.dtype, device="meta")
    with torch.no_grad():
        state = tx.init(Leaves({name: leaf}))
        every, here = _paths(state, name), _paths(own.init(Leaves({name: shard})), name)
    shared = {path for path, _ in flattened(to_nested(state, None))}
    kept = list(_kept(state, name).items())
    counters = {path for path, x in kept if not x.ndim and not x.is_floating_point()}
    if own is not tx:  # its random numbers are those of whole leaves: keys are the same everywhere
        counters |= {path for path, x in kept if x.dtype == torch.int64 and x.shape == (2,)}
    cut = {}
    for path in sorted(every.keys() | here.keys()):
        whole, some = every.get(path, ()), here.get(path, ())
        if path in shared or path in counters:
            continue
        as_leaf = whole == p.shape and some == shard.shape
        if not (as_leaf or (rows is not None and _lies(rows, whole, some))):
            raise ValueError(
                f"{who}: leaf {name!r} of shape {tuple(p.shape)} cannot be 'local': of it the "
                f"chain keeps {'.'.join(path)} of shape {whole}, of a shard {some}, which do not "
                "lie as the leaf does and would be lost in checkpoints; say 'owned'"
            )
        cut[path] = whole
    return PartStates(p, cut, name, rows)


def _lies(rows: Rows, whole: tuple[int, ...], some: tuple[int, ...]) -> bool:
    """Whether a tensor is cut along its first dimension as the rows of a leaf are.

    Args:
        rows: of the leaf.
        whole: shape of the tensor.
        some: that of the first part.
    """
    if not whole or whole[1:] != some[1:]:
        return False
    each, ranks = -(-whole[0] // (len(rows.bounds) - 1)), range(len(rows.bounds) - 1)
    bounds = [min(i * each, whole[0]) * rows.leaf.numel() for i in (*ranks, len(ranks))]
    return some[0] == each and bounds == [bound * whole[0] for bound in rows.bounds]


def _paths(state: Any, name: str) -> dict[Path, tuple[int, ...]]:
    """The shapes of the tensors that are kept of a leaf."""
    return {path: tuple(x.shape) for path, x in _kept(state, name).items()}


def _kept(state: Any, name: str) -> dict[Path, Tensor]:
    """The tensors that are kept of a leaf."""
    out: dict[Path, Tensor] = {}
    map_paths(out.setdefault, to_nested(state, name))
    return out


def _replaced(tx: GradientTransformation, rows: Rows, fn: Replace) -> GradientTransformation:
    """The chain with other members where the leaf is a stack to them and ranks have whole parts."""
    hint, shape = tx.execution.stacked, tuple(rows.leaf.shape)
    count = None if hint is None else hint.count(tx, shape)
    if count and shape[0] % count == 0 and _fits(tx, rows.leaf):
        each = rows.leaf.numel() // count
        if all(bound % each == 0 for bound in rows.bounds):
            start, stop = rows.bounds[rows.own : rows.own + 2]
            return fn(tx, start // each, (stop - start) // each)
    if isinstance(tx, Chain):
        return Chain(tuple((name, _replaced(member, rows, fn)) for name, member in tx))
    if isinstance(tx, partition):
        inside = {label: _replaced(inner, rows, fn) for label, inner in tx.transforms.items()}
        return dataclasses.replace(tx, transforms=inside)
    if isinstance(tx, masked) or (isinstance(tx, as_matrices) and rows.leaf.ndim < tx.at_least):
        return dataclasses.replace(tx, transform=_replaced(tx.transform, rows, fn))
    return tx


def _fits(tx: GradientTransformation, leaf: Tensor) -> bool:
    """Whether the leaf is one for this transform: a partition shows it to others."""
    try:
        with torch.no_grad():
            tx.init(Leaves({"leaf": leaf}))
    except ValueError:
        return False
    return True
