"""Leaves of which every rank has some rows: what their chains keep, and how it lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.agreed import Agreed
from ..distributed.records import is_distributed, is_sharded, local_part
from ..fuse import CannotFuseError, NestedEngine, Rows
from ..fuse.frontend.specialize import choices
from .checkpoint import wanted
from .leaves import Leaves, Nested, from_nested, map_paths, to_nested
from .shard_states import CutStates, full
from .skeletons import Skeleton, Skeletons

Path = tuple[str, ...]


def rows_of(p: Any, least: int = 2, axes: int = 1) -> Rows | None:
    """Which rows of a parameter this rank has; None if it is cut in another way.

    Tensors that axes of a mesh cut along their first dimension are meant, several in equal parts.

    Args:
        p: the parameter.
        least: elements that it must have.
        axes: how many may cut it.
    """
    if not is_sharded(p) or p.numel() < least:
        return None
    cut = [(i, place) for i, place in enumerate(p.placements) if not place.is_replicate()]
    if len(cut) > axes or any(getattr(place, "dim", None) != 0 for _, place in cut):
        return None
    sizes = [p.device_mesh.size(axis) for axis, _ in cut]
    at = [p.device_mesh.get_local_rank(axis) for axis, _ in cut]
    ranks = math.prod(sizes)
    if len(cut) == 2 and getattr(cut[0][1], "split_factor", None) == sizes[1]:
        cut, sizes, at = cut[::-1], sizes[::-1], at[::-1]  # the second one has cut it first
        cut[1] = cut[0]
    if any(type(place).__name__ != "Shard" for _, place in cut):
        return None
    if len(cut) > 1 and p.shape[0] % ranks:
        return None
    own = 0
    for size, i in zip(sizes, at, strict=True):
        own = own * size + i
    leaf = torch.empty(p.shape, dtype=p.dtype, device="meta")
    return Rows(leaf, _bounds(p.shape[0], ranks, p.numel()), own)


def _bounds(length: int, ranks: int, numel: int) -> tuple[int, ...]:
    """Where the parts of a tensor begin that is cut along its first dimension, in elements."""
    each = -(-length // ranks)
    return (*(min(i * each, length) * (numel // length) for i in range(ranks)), numel)


@dataclass(frozen=True)
class RowStates(CutStates):
    """How the state of a leaf lies of which this rank has some rows; all ranks have all else.

    Attributes:
        rows: what this rank has of it.
    """

    rows: Rows

    def local(self, nested: Nested) -> Nested:
        """A state of DTensors or of whole tensors as what this rank has of it.

        All ranks may have to do it together.
        """

        def part(path: Path, x: Tensor) -> Tensor:
            if is_distributed(x):
                own = x.placements == self.p.placements and x.device_mesh == self.p.device_mesh  # type: ignore[attr-defined]
                if path in self.cut and own:
                    return local_part(x)
                x = full(x)
            return self.rows.of(x).clone() if path in self.cut else x

        return map_paths(part, nested)


class RowSkeletons(Skeletons):
    """Structures of states of which there are some rows here.

    Args:
        states: by this rank's part of a leaf.
    """

    def __init__(self, states: Mapping[Tensor, RowStates]) -> None:
        super().__init__()
        self._states = states
        self._cut: dict[Any, Skeleton] = {}

    def of(self, tx: GradientTransformation, p: Tensor, name: str) -> Skeleton:
        """The structure for one parameter."""
        if (tx, p) not in self._cut:
            states = self._states[p]
            skeleton, members, _ = super().of(tx, states.rows.leaf, name)
            nested = states.local(to_nested(skeleton, name))
            own = from_nested({name: skeleton}, {name: nested}, nested)
            self._cut[tx, p] = own, members, wanted(own, name)
        return self._cut[tx, p]

    def fresh(self, tx: GradientTransformation, params: Mapping[str, Tensor]) -> dict[str, Nested]:
        """New states of parameters: those of whole leaves, which need not be known, cut."""
        out = {}
        for name, p in params.items():
            leaf = torch.zeros_like(self._states[p].rows.leaf, device=p.device)
            out[name] = self._states[p].local(to_nested(tx.init(Leaves({name: leaf})), name))
        return out


class ByRows:
    """Runs a chain on the rows that this rank has of leaves.

    Args:
        tx: the chain.
        reduce: sums over the ranks that have a leaf between them.
        leaves: parameters with names, and what this rank has of them.
    """

    def __init__(
        self, tx: GradientTransformation, reduce: Agreed, leaves: Mapping[Any, tuple[str, Rows]]
    ) -> None:
        own = {local_part(p): rows for p, (_, rows) in leaves.items()}
        self.engine = NestedEngine(tx, reduce, own)
        self.reduce = reduce
        self.states: dict[Any, RowStates] = {}
        known: dict[Any, Any] = {}  # leaves that the chain treats alike need not be looked at again
        for p, (name, rows) in leaves.items():
            tree = Leaves({name: rows.leaf})
            key = (*choices(tx, tree, tree), p.shape, p.dtype, rows.bounds)
            if key not in known:
                known[key] = self._shapes(p, name, rows)
            if known[key] is not None:
                self.states[p] = RowStates(p, known[key], rows)

    def _shapes(self, p: Any, name: str, rows: Rows) -> Mapping[Path, tuple[int, ...]] | None:
        """The tensors of a leaf's state that are cut; None if the chain does not run on rows."""
        try:
            shapes = self.engine.cut_states(local_part(p), Leaves({name: local_part(p)}))
        except CannotFuseError:
            return None
        ranks = len(rows.bounds) - 1
        alike = all(_bounds(n[0], ranks, p.numel()) == rows.bounds for n in shapes.values())
        return shapes if alike else None

    def begin(self, grads: Mapping[Any, Tensor | None]) -> None:
        """A step begins, for which this rank has these gradients; all ranks do it together."""
        self.reduce.begin([grads[p] is not None for p in self.states])

    def failed(self) -> None:
        """Let the others know that this rank does not go on, if they do not know what it does."""
        self.reduce.failed()

    def agree(self, grads: Mapping[Any, Tensor | None]) -> dict[Any, Tensor | None]:
        """Gradients of the leaves, zeros where only other ranks have one; all ranks do it.

        Raises:
            OtherRankError: another rank cannot do the step.
        """
        flags = self.reduce.any_of()
        if any(flags):  # kernels run, unless one of the ranks fails before
            self.reduce.begin()
        out: dict[Any, Tensor | None] = {}
        for p, some in zip(self.states, flags, strict=True):
            g = grads[p]
            out[p] = torch.zeros_like(local_part(p).detach()) if some and g is None else g
        return out
