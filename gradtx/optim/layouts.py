"""Where the leaves of a chain are updated: on their shards, or whole at an owner."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from ..core.numbered import draws, of_parts, without_draws
from ..core.protocol import GradientTransformation, members
from ..core.random import Numbers
from ..core.tree import accumulator_dtype
from ..distributed.agreed import Agreed
from ..distributed.buckets import buckets_of
from ..distributed.owners import assign_owners
from ..distributed.records import Record, check_placements, is_sharded, local_part
from ..fuse import Rows
from .asking import begins_with, choices_for, cost, in_place, part_of, reads
from .blocks import blocks_of
from .cutting import Cut, cuts
from .declared_layouts import Declared, check_stacked
from .joining import check_purely, independent, sums, sums_of_all
from .migration import Bucket
from .numbering import numbers_in
from .rows import ByRows, RowStates, rows_of
from .stacks import PartStates, for_parts, like_leaf, local_states, part_states, without_stacks

Key = TypeVar("Key")


@dataclass(frozen=True)
class Layout:
    """Where leaves are updated.

    Attributes:
        owned: leaves that are updated whole, with what they cost; all others on their shards.
        units: leaves that must have one owner, as lists.
        joined: chains whose members sum over all leaves, which owners have.
        purely: of these, what no rank runs in kernels.
        summed: chains whose members sum over all leaves, on their shards: the ranks that have all
            of every leaf between them.
        cuts: of owned leaves those whose chain ends on their shards, and how it is cut.
        by_rows: chains that run on rows of some of their leaves.
        stacked: leaves that go through another chain: ranks have whole parts or blocks of them, or
            elements have numbers.
        numbers: of leaves whose elements have numbers, those on this rank.
        parts: how the states lie of these, and of leaves whose shards are leaves of their own.
        replicated: leaves that all ranks update whole.
        said: by name, what has been declared.
    """

    owned: Mapping[Tensor, int]
    units: Sequence[Sequence[Tensor]]
    joined: Sequence[GradientTransformation]
    purely: Container[GradientTransformation]
    summed: Mapping[GradientTransformation, Any]
    cuts: Mapping[Tensor, Cut]
    by_rows: Mapping[GradientTransformation, ByRows]
    stacked: Mapping[Tensor, GradientTransformation]
    numbers: Mapping[Tensor, Numbers]
    parts: Mapping[Tensor, PartStates]
    replicated: Container[Tensor]
    said: Mapping[str, str]

    @property
    def rows(self) -> dict[Tensor, RowStates]:
        """How the states lie of leaves that are updated by rows."""
        return {p: states for run in self.by_rows.values() for p, states in run.states.items()}

    def owners(
        self,
        names: Mapping[Tensor, str],
        ranks: int,
        records: Mapping[Tensor, Record] = MappingProxyType({}),
        buckets: Sequence[Sequence[Tensor]] | None = None,
    ) -> dict[Tensor, int | None]:
        """An owner for every owned leaf, the same on all ranks; None for those of all of them.

        Args:
            names: of all parameters.
            ranks: how many there are.
            records: of the leaves that lie in parts, which one rank may have all of.
            buckets: of the owned leaves, in each of which all ranks should have something to do.
        """
        together = {p: unit for unit in self.units for p in unit}
        costs: dict[str, int] = {}
        of: dict[str, Iterable[Tensor]] = {}
        alone = ((p, r.holder) for p, r in records.items() if p not in together)
        held: dict[Tensor, int | None] = {p: rank for p, rank in alone if rank is not None}
        held |= {p: None for p in self.owned if p in self.replicated}
        for p in self.owned:
            if p in held:
                continue
            unit = together.get(p, (p,))
            if unit[0] is p:
                costs[names[p]] = sum(self.owned[q] for q in unit)
                of[names[p]] = unit
        turns = [list(self.owned)] if buckets is None else buckets
        named = [[names[p] for p in turn if names[p] in costs] for turn in turns]
        found = assign_owners(costs, ranks, named)
        return held | {p: rank for name, rank in found.items() for p in of[name]}

    def buckets(
        self, chains: Mapping[Tensor, GradientTransformation], bound: int
    ) -> list[list[Tensor]]:
        """Owned leaves in lists of at most so many bytes; what sums over leaves needs them in one.

        Args:
            chains: of all parameters, in their order.
            bound: bytes.
        """
        summed = [[p for p in self.owned if chains[p] == tx] for tx in self.joined]
        sizes = {p: p.numel() * p.element_size() for p in chains if p in self.owned}
        return buckets_of(sizes, bound, [*self.units, *summed])

    def by_cut(self, params: Iterable[Tensor]) -> Iterator[tuple[Cut | None, list[Tensor]]]:
        """Parameters by the cut of their chain."""
        yield from _by(self.cuts.get, params)

    def by_chain(
        self, tx: GradientTransformation, params: Iterable[Tensor]
    ) -> Iterator[tuple[GradientTransformation, Numbers | None, list[Tensor]]]:
        """Parameters by the chain that they go through in place of ``tx``, and by their numbers."""
        for (chain, numbers), some in _by(
            lambda p: (self.stacked.get(p, tx), self.numbers.get(p)), params
        ):
            yield chain, numbers, some


def _by(
    key: Callable[[Tensor], Key], params: Iterable[Tensor]
) -> Iterable[tuple[Key, list[Tensor]]]:
    of: dict[Key, list[Tensor]] = {}
    for p in params:
        of.setdefault(key(p), []).append(p)
    return of.items()


def layout_of(
    who: str,
    chains: Sequence[Bucket],
    names: Mapping[Tensor, str],
    whole: Container[Tensor] = (),
    declared: Declared = Declared(),  # noqa: B008
    kernels: bool = True,
) -> Layout:
    """The layout of some chains, from shapes and placements alone: the same on all ranks.

    Args:
        who: for errors.
        chains: with their parameters.
        names: of all parameters.
        whole: parameters that are not to be updated by rows.
        declared: what has been said about them.
        kernels: whether what joins ranks may run in kernels.

    Raises:
        ValueError: a parameter is Partial, or cannot be updated as has been said.
    """
    owned: dict[Tensor, int] = {}
    units, joined, purely, summed = [], [], [], {}
    found: dict[Tensor, Cut | None] = {}
    by_rows: dict[GradientTransformation, ByRows] = {}
    stacked: dict[Tensor, GradientTransformation] = {}
    parts: dict[Tensor, PartStates] = {}
    numbers: dict[Tensor, Numbers] = {}
    said: dict[Tensor, str] = {}
    for tx, groups in chains:
        there = list(groups)
        if not any(map(is_sharded, there)):
            continue
        for p in there:
            if is_sharded(p):
                check_placements(who, names[p], p)
                if (layout := declared.of(who, p, names[p])) is not None:
                    said[p] = layout
        fixed = {p for p in there if said.get(p) in ("owned", "replicate")}
        # What it is for shards, and what it does besides numbering elements.
        own, dense = (of_parts(tx), without_draws(tx)) if draws(tx) else (tx, tx)
        found_numbers = {p: numbers_in(who, names[p], p) for p in there if own is not tx}
        known = {p: found for p, found in found_numbers.items() if found is not None}
        free = {p: groups[p] for p in there if p not in whole}
        if independent(tx):
            local = {p: rows_of(p) for p in there if said.get(p) == "local"}
            for p, rows in local.items():
                stacked[p] = own if p in known else tx
                parts[p] = local_states(who, tx, stacked[p], rows, p, names[p], part_of(p))
            some = [
                p
                for p in there
                if p in fixed
                or (is_sharded(p) and p not in local and not in_place(tx, p, names[p]))
            ]
            for p in some:
                if p in fixed:
                    continue
                chain, rest = (own, dense) if p in known else (tx, tx)
                if p in known and in_place(dense, p, names[p]):
                    stacked[p], parts[p] = own, like_leaf(own, p, names[p], part_of(p))
                elif (rows := _of_parts(rest, p, names[p])) is not None:
                    stacked[p] = for_parts(chain, rows)
                    parts[p] = part_states(chain, rows, p, names[p])
                elif p in free and (blocks := _of_blocks(chain, rest, p, names[p])):
                    stacked[p], parts[p] = blocks
            some = [p for p in some if p not in parts]
            check_stacked(who, [names[p] for p in some if said.get(p) == "stacked"])
            free = {p: groups[p] for p in some if p in free and p not in fixed}
            if kernels and (run := _by_rows(own, free, names, who=who)):
                by_rows[own] = run
                stacked.update(dict.fromkeys(run.states, own))
                some = [p for p in some if p not in run.states]
            found.update((p, _cut_for(tx, [p], names)) for p in some)
        elif alone := [p for p in there if said.get(p) not in (None, "owned")]:
            raise ValueError(
                f"{who}: leaf {names[alone[0]]!r} cannot be {said[alone[0]]!r}: its chain "
                f"{list(tx.inner)} looks at all leaves together; say 'owned' or nothing of it"
            )
        elif not fixed and _sums_in_place(tx, there, names):
            some, summed[tx] = [], _axis_of(there)
            if not kernels:
                check_purely(who, tx, groups.values())
                purely.append(tx)
        elif not fixed and len(known) == len(there) and _sums_in_place(dense, there, names):
            some, summed[own] = [], _axis_of(there)
            if not kernels:
                check_purely(who, own, groups.values())
                purely.append(own)
            parts.update((p, like_leaf(own, p, names[p], part_of(p))) for p in there)
            stacked.update(dict.fromkeys(there, own))
        elif (
            kernels
            and not fixed
            and sums(tx)
            and (run := _by_rows(own, free, names, there, who=who))
        ):
            some, by_rows[own] = [], run
            stacked.update(dict.fromkeys(run.states, own))
        else:
            some = there
            if sums_of_all(tx):
                joined.append(tx)
                if not _alike(who, tx, groups, names, kernels):
                    purely.append(tx)
            else:
                units.append(some)
            found.update(dict.fromkeys(some, _cut_for(tx, some, names)))
        numbers.update((p, x) for p, x in known.items() if stacked.get(p, tx) is not tx)
        owned.update({p: cost(tx, p, names[p]) for p in some})
    found_cuts = {p: cut for p, cut in found.items() if cut is not None}
    replicated = {p for p, layout in said.items() if layout == "replicate"}
    named = {names[p]: layout for p, layout in said.items()}
    return Layout(
        owned,
        units,
        joined,
        purely,
        summed,
        found_cuts,
        by_rows,
        stacked,
        numbers,
        parts,
        replicated,
        named,
    )


def _of_parts(tx: GradientTransformation, p: Tensor, name: str) -> Rows | None:
    """What this rank has of a leaf that is a stack of parts; None where it has less of some.

    What does not treat parts one by one must treat elements so.
    """
    rows = rows_of(p, least=1, axes=2)
    if rows is None or all(member.execution.stacked is None for _, member in members(tx)):
        return None
    return rows if in_place(without_stacks(tx, rows), p, name) else None


def _of_blocks(
    tx: GradientTransformation, dense: GradientTransformation, p: Tensor, name: str
) -> tuple[GradientTransformation, PartStates] | None:
    """The chain for the blocks that this rank has, and its states; None where blocks are cut.

    Args:
        tx: the chain for shards.
        dense: what it does besides numbering elements.
        p: the leaf.
        name: its name.
    """
    rows = rows_of(p, axes=2)
    found, rest = (None, None) if rows is None else (blocks_of(tx, rows), blocks_of(dense, rows))
    if found is None or rest is None or not in_place(rest.dense, p, name):
        return None
    try:
        return found.own, local_states("", tx, found.own, rows, p, name, part_of(p))
    except ValueError:  # something else is kept that is not cut as the leaf is
        return None


def _by_rows(
    tx: GradientTransformation,
    leaves: Mapping[Tensor, Mapping[str, Any]],
    names: Mapping[Tensor, str],
    every: Sequence[Tensor] = (),
    who: str = "",
) -> ByRows | None:
    """What runs a chain on rows of leaves; None where it does not.

    Args:
        tx: the chain.
        leaves: with their groups.
        names: of the leaves.
        every: leaves of which none may be missing.
        who: for errors.
    """
    if any(getattr(m, "needs_extra", ()) or getattr(m, "takes_extra", ()) for _, m in members(tx)):
        return None
    fit = [
        p
        for p, group in leaves.items()
        if local_part(p).device.type == "cpu"
        and group["fused"] is not False
        and not begins_with(tx, p, names[p])
    ]
    cut = {p: rows for p in fit if (rows := rows_of(p))}
    axis = _axis_of([next(iter(cut))]) if cut else None
    some = {p: (names[p], rows) for p, rows in cut.items() if _axis_of([p]) == axis}
    if axis is None or len(some) < len(every):
        return None
    mesh, dim = axis
    run = ByRows(tx, Agreed(mesh.get_group(dim), who), some)
    return run if len(run.states) >= max(len(every), 1) else None


def whole_leaves(who: str, chains: Sequence[Bucket], names: Mapping[Tensor, str]) -> Layout:
    """A layout where every leaf is updated whole, from shapes alone: the same on all ranks."""
    owned: dict[Tensor, int] = {}
    units, joined, purely = [], [], []
    for tx, groups in chains:
        owned.update({p: cost(tx, p, names[p]) for p in groups})
        if not independent(tx):
            if sums_of_all(tx):
                joined.append(tx)
                if not _alike(who, tx, groups, names):
                    purely.append(tx)
            else:
                units.append(list(groups))
    return Layout(owned, units, joined, purely, {}, {}, {}, {}, {}, {}, (), {})


def _alike(
    who: str,
    tx: GradientTransformation,
    groups: Mapping[Tensor, Mapping[str, Any]],
    names: Mapping[Tensor, str],
    kernels: bool = True,
) -> bool:
    """Whether kernels do all leaves alike, so that all ranks run them whatever they own.

    Kernels send other sums than members do: of a chain that is summed over ranks, either all ranks
    run it in kernels or none does.
    """
    kinds = {(p.dtype, *choices_for(tx, p, names[p])) for p in groups}
    alike = (
        kernels
        and len(kinds) == 1
        and all(g["fused"] is not False for g in groups.values())
        and all(in_place(tx, p, names[p], sums=True) for p in groups)
    )
    if not alike:
        check_purely(who, tx, groups.values())
    return alike


def _sums_in_place(
    tx: GradientTransformation, leaves: Sequence[Tensor], names: Mapping[Tensor, str]
) -> bool:
    """Whether all that leaves need of each other is sums, which shards can add up."""
    if not sums(tx) or _axis_of(leaves) is None:
        return False
    return all(in_place(tx, p, names[p], sums=True) for p in leaves)


def _axis_of(leaves: Sequence[Any]) -> Any:
    """The mesh and the one axis of it along which all leaves are sharded; None if there is none."""
    axes = set()
    for p in leaves:
        if not is_sharded(p):
            return None
        cut = [i for i, place in enumerate(p.placements) if not place.is_replicate()]
        axes.add((p.device_mesh, *cut))
    axis = axes.pop()
    return None if axes or len(axis) != 2 else axis


def _cut_for(
    tx: GradientTransformation, leaves: Sequence[Tensor], names: Mapping[Tensor, str]
) -> Cut | None:
    """The cut of a chain after the last member that must see these leaves whole.

    None where there is nothing to cut off, or where what comes before reads parameters: those
    would have to be sent to it. So it is on an accelerator where those are narrow: members iterate
    in their dtype there, and they are no longer than the wide updates that come back.
    """
    best = None
    if any(p.device.type != "cpu" and accumulator_dtype(p.dtype) != p.dtype for p in leaves):
        return None
    for cut in _cuts(tx):
        alone = independent(cut.rest)
        if not alone or not all(in_place(cut.rest, p, names[p], rest=True) for p in leaves):
            break
        best = cut
    if best is None or any(reads(best.head, p, names[p]) for p in leaves):
        return None
    return best


_cuts = functools.lru_cache(maxsize=64)(lambda tx: tuple(cuts(tx)))
