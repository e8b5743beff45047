"""What ranks say to each other of their leaves before they update them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.records import Record, group_of, is_distributed, ranks_of, records_of
from ..fuse.cpp.kernel import can_compile
from .declared_layouts import Declared
from .layouts import Layout


def agree(
    who: str,
    names: Mapping[Tensor, str],
    groups: Iterable[Mapping[str, Any]],
    chains: Mapping[Tensor, GradientTransformation],
    declared: Declared,
    find: Callable[[bool], Layout],
) -> tuple[Layout, Any, dict[Tensor, Record]]:
    """Where leaves are updated, once all ranks that have them know that they do the same.

    Leaves that some of the ranks have alone, as stages of a pipeline and experts may be, are
    compared where others are needed for them.

    Args:
        who: for errors.
        names: of all parameters.
        groups: with their options.
        chains: of all parameters.
        declared: what has been said about them.
        find: gives the layout; with False that of ranks of which some run no kernels.

    Returns:
        The layout, the ranks, and the records of leaves that owners update.

    Raises:
        ValueError: on all ranks, where one of them has other leaves or other options, or has none
            to give (says what to do).
    """
    layout, error = _found(find, True)
    try:
        group = group_of(who, {name: p for p, name in names.items()})
    except ValueError:  # what needs no other rank may lie on any meshes
        if error is not None:
            raise error from None
        assert layout is not None
        if layout.owned or layout.rows:
            raise
        return layout, None, {}
    if not _all_run_kernels(group, layout, names):
        layout, error = _found(find, False)
    rows = {} if layout is None else layout.rows
    owned = {} if layout is None else layout.owned
    needed = {name: p for p, name in names.items() if p in owned or p in rows}
    everybody = frozenset(dist.get_process_group_ranks(group))
    compared = {
        p: name
        for p, name in names.items()
        if name in needed or (is_distributed(p) and ranks_of(p.device_mesh) == everybody)  # type: ignore[attr-defined]
    }
    ways = {p: "by rows" if p in rows else "owned" for p in needed.values()}
    said = {} if layout is None else layout.said
    layouts = {p: said.get(name, ways.get(p, "in place")) for p, name in compared.items()}
    common = {"bucket_bytes": declared.bucket_bytes}
    plans = plans_of(compared, groups, chains, layouts, common)
    records = records_of(who, group, needed, plans, error)
    assert layout is not None
    each = zip(needed.values(), records, strict=True)
    return layout, group, {p: record for p, record in each if p in owned}


def _found(find: Callable[[bool], Layout], kernels: bool) -> tuple[Layout | None, Exception | None]:
    """The layout, or the error that others are to know of: they would wait for this rank."""
    try:
        return find(kernels), None
    except Exception as error:
        return None, error


def _all_run_kernels(group: Any, layout: Layout | None, names: Mapping[Tensor, str]) -> bool:
    """Whether kernels that join ranks run on all of them, for the same leaves by rows.

    A rank with an error says the same as others; these hear of it later.
    """
    said: tuple[bool, list[str]] | None = None
    if layout is not None:
        joins = any(tx not in layout.purely for tx in (*layout.joined, *layout.summed))
        said = not joins or can_compile(), [names[p] for p in layout.rows]
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, said, group=group)
    found = [x for x in every if x is not None]
    return all(runs for runs, _ in found) and all(rows == found[0][1] for _, rows in found)


def plans_of(
    names: Mapping[Tensor, str],
    groups: Iterable[Mapping[str, Any]],
    chains: Mapping[Tensor, GradientTransformation],
    layouts: Mapping[Tensor, str],
    common: Mapping[str, Any],
) -> dict[str, dict[str, str]]:
    """What is to be the same on all ranks, by leaf.

    Args:
        names: of the leaves of which it is said.
        groups: with the options of all parameters.
        chains: of all parameters.
        layouts: how leaves are updated.
        common: what holds for all leaves alike.
    """
    chain = {tx: repr(tx) for tx in dict.fromkeys(chains.values())}  # equal texts are sent once
    said = {what: repr(value) for what, value in common.items()}
    of = {p: group for group in groups for p in group["params"]}
    options = {
        id(group): {
            f"option {name!r}": _said(value)
            for name, value in sorted(group.items())
            if name not in ("params", "param_names")
        }
        for group in of.values()
    }
    return {
        name: {
            "shape": str(tuple(p.shape)),
            "dtype": str(p.dtype),
            "placements": str(p.placements) if is_distributed(p) else "none",  # type: ignore[attr-defined]
            **options[id(of[p])],
            **said,
            "chain": chain[chains[p]],
            "layout": layouts[p],
        }
        for p, name in names.items()
    }


def _said(value: Any) -> str:
    """An option; what tensors hold is not read."""
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, (tuple, list)):
        return str([_said(x) for x in value])
    return repr(value)
