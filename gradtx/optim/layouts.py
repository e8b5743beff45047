"""Where the leaves of a chain are updated: on their shards, or whole at an owner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.execution import holds
from ..core.protocol import GradientTransformation, members
from ..distributed.owners import assign_owners, cost_of
from ..distributed.records import check_placements, is_sharded
from .migration import Bucket
from .pointwise import elementwise


@dataclass(frozen=True)
class Layout:
    """Where leaves are updated.

    Attributes:
        owned: leaves that are updated whole, with what they cost; all others on their shards.
        units: leaves that must have one owner, as lists.
        joined: chains whose members sum over all leaves.
    """

    owned: Mapping[Tensor, int]
    units: Sequence[Sequence[Tensor]]
    joined: Sequence[GradientTransformation]

    def owners(self, names: Mapping[Tensor, str], ranks: int) -> dict[Tensor, int]:
        """An owner for every owned leaf, the same on all ranks."""
        together = {p: unit for unit in self.units for p in unit}
        costs: dict[str, int] = {}
        of: dict[str, Iterable[Tensor]] = {}
        for p in self.owned:
            unit = together.get(p, (p,))
            if unit[0] is p:
                costs[names[p]] = sum(self.owned[q] for q in unit)
                of[names[p]] = unit
        found = assign_owners(costs, ranks)
        return {p: rank for name, rank in found.items() for p in of[name]}


def layout_of(who: str, chains: Sequence[Bucket], names: Mapping[Tensor, str]) -> Layout:
    """The layout of some chains, from shapes and placements alone: the same on all ranks.

    Raises:
        ValueError: a parameter is Partial.
    """
    owned: dict[Tensor, int] = {}
    units, joined = [], []
    for tx, groups in chains:
        there = list(groups)
        if not any(map(is_sharded, there)):
            continue
        for p in there:
            if is_sharded(p):
                check_placements(who, names[p], p)
        matrix = any(m.execution.matrix_view is not None for _, m in members(tx))
        if _independent(tx):
            some = [p for p in there if is_sharded(p) and not _in_place(tx, p, names[p])]
        else:
            some = there
            if all(map(_sums, (member for _, member in members(tx)))):
                joined.append(tx)
            else:
                units.append(some)
        owned.update({p: cost_of(p.shape, matrix) for p in some})
    return Layout(owned, units, joined)


def _independent(tx: GradientTransformation) -> bool:
    return all(_alone(member) for _, member in members(tx))


def _alone(member: GradientTransformation) -> bool:
    return holds(member, "leaves_independent") and member.execution.next_shared is None


def _sums(member: GradientTransformation) -> bool:
    return _alone(member) or holds(member, "reduces")


def _in_place(tx: GradientTransformation, p: Any, name: str) -> bool:
    """Whether a leaf's elements are treated one by one, whatever the shape of the shard."""
    part = list(p.shape)
    for size, place in zip(p.device_mesh.mesh.shape, p.placements, strict=True):
        if not place.is_replicate() and part:
            part[place.dim] = math.ceil(part[place.dim] / size)
    return elementwise(tx, name, tuple(p.shape), tuple(part), p.dtype) is None
