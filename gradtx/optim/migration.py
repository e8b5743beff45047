"""States that follow when an option changes what a chain keeps.

Options of a group may change at any time, also those that choose the members of its chain. What is
kept then follows at the next step: what both forms have goes on, and new parts begin as at the
first step, and what stands elsewhere in the chain takes its state with it (``places``). A member
that is switched off keeps its state until it is switched on again; parts that a member no longer
needs are dropped. Where that would mix what does not belong together (another
encoding, another shape, a counter that has not seen what it counts) the whole state of the
parameter starts anew, and a warning in the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.dicts import kind
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree, children
from . import places
from .leaves import Leaves, Nested, flattened, merge_into, part_of, to_nested

logger = logging.getLogger("gradtx")

Path = tuple[str, ...]
# A chain with the parameters that it updates, and their groups.
Bucket = tuple[GradientTransformation, dict[Tensor, dict[str, Any]]]

Undo = Callable[[], None]


class Form(NamedTuple):
    """What the state of a parameter was made by: a chain, and the options that chose it."""

    chain: GradientTransformation
    options: Mapping[str, Any]


class Forms:
    """The form in which the state of every parameter is."""

    def __init__(self) -> None:
        self._forms: dict[Tensor, Form] = {}

    def all(self) -> Mapping[Tensor, Form]:
        """What the states of parameters were made by, as far as that is known."""
        return dict(self._forms)

    def put(self, forms: Mapping[Tensor, Form]) -> None:
        """Say what the states of parameters were made by."""
        self._forms = dict(forms)

    def follow(
        self,
        who: str,
        buckets: Sequence[Bucket],
        structural: Sequence[str],
        names: Mapping[Tensor, str],
        states: MutableMapping[Tensor, Nested],
    ) -> Undo:
        """Put every state into the form that its chain has now.

        Args:
            who: name for the log.
            buckets: the chains as they are now.
            structural: names of the options that choose the members of a chain.
            names: of the parameters.
            states: by parameter; entries are replaced, never written to.

        Returns:
            A function that undoes it.
        """
        before, replaced, now = self._forms, {}, {}
        for tx, groups in buckets:
            distinct = {id(group): group for group in groups.values()}
            forms = {
                key: Form(tx, {name: group[name] for name in structural})
                for key, group in distinct.items()
            }
            now.update({p: forms[id(group)] for p, group in groups.items()})
            held = {p: states[p] for p in groups if states.get(p)}
            old = {p: before[p] for p in held if p in before}
            moved = {p: was for p, was in old.items() if was.chain is not tx and was.chain != tx}
            if moved:
                new, anew = _migrated(tx, moved, names, held)
                replaced.update({p: states[p] for p in new})
                states.update(new)
                if anew:
                    _warn(who, before[anew[0]], now[anew[0]], [names[p] for p in anew])
        self._forms = now

        def undo() -> None:
            states.update(replaced)
            self._forms = before

        return undo


def _warn(who: str, before: Form, now: Form, names: Sequence[str]) -> None:
    """Say which options have changed, and whose state starts anew."""
    changes = [
        f"{name} from {before.options[name]!r} to {value!r}"
        for name, value in now.options.items()
        if repr(before.options.get(name)) != repr(value)
    ]
    logger.warning(
        "%s: %s changes what is kept for parameters %s: their state starts anew",
        who,
        " and ".join(changes),
        ", ".join(names),
    )


def _migrated(
    tx: GradientTransformation,
    moved: Mapping[Tensor, Form],
    names: Mapping[Tensor, str],
    held: Mapping[Tensor, Nested],
) -> tuple[dict[Tensor, Nested], list[Tensor]]:
    """New states of the parameters whose chain has changed, and those that start anew."""
    with torch.no_grad():
        fresh = tx.init(Leaves({names[p]: p for p in moved}))
    new = {p: to_nested(fresh, names[p]) for p in moved}
    kept = {p: places.moved(was.chain, tx, held[p], new[p]) for p, was in moved.items()}
    anew = [
        p
        for p, was in moved.items()
        if not (_same_formats(was.chain, tx) and _goes_on(fresh, names[p], kept[p], p.ndim))
    ]
    shared = to_nested(fresh, None)
    if anew and shared:  # what all share cannot go on for some of them
        anew = list(moved)
    for p in moved.keys() - set(anew):
        switched_off = {key: value for key, value in kept[p].items() if key not in new[p]}
        new[p] = _filled(new[p], kept[p]) | switched_off
    stays = next((state for p, state in held.items() if p not in moved), None)
    if shared and stays is not None:
        for nested in new.values():
            merge_into(nested, part_of(stays, shared), in_place=False)
    return new, anew


def _same_formats(old: GradientTransformation, new: GradientTransformation) -> bool:
    """Whether codecs and projectors are the same wherever both chains have one."""
    before = places.formats(old)
    return all(before.get(path, value) == value for path, value in places.formats(new).items())


def _goes_on(fresh: PyTree, name: str, stored: Nested, ndim: int) -> bool:
    """Whether a stored state means the same in its new form, what is added or left out apart.

    Members that are switched off do not matter. A scalar that is added beside older entries, or
    alone, counts what it has not seen.
    """
    want = {path: (unit, value) for path, unit, value in _entries(fresh, name)}
    members_now = {path[0] for path in want}
    have = {path: value for path, value in flattened(stored) if path[0] in members_now}
    common, added = want.keys() & have.keys(), want.keys() - have.keys()
    if any(kind(have[path]) != kind(want[path][1]) for path in common):
        return False
    if added and have.keys() - want.keys():
        return False
    older = {want[path][0] for path in common}
    with_buffers = {unit for unit, value in want.values() if _is_buffer(value, ndim)}
    return not any(
        unit not in with_buffers or (unit in older and getattr(value, "ndim", 0) == 0)
        for unit, value in (want[path] for path in added)
    )


def _is_buffer(value: Any, ndim: int) -> bool:
    """Whether a value holds what has been gathered; what a parameter of no dimensions has, too."""
    if not isinstance(value, Tensor):
        return False
    return value.ndim > 0 or (ndim == 0 and value.is_floating_point())


def _entries(
    node: PyTree, name: str, path: Path = (), unit: Path = ()
) -> Iterator[tuple[Path, Path, Any]]:
    """The values of one parameter's state: path, the path of the state they belong to, value."""
    if isinstance(node, Leaves):
        node = node[name]
    inside = children(node)
    if inside is None:
        yield path, unit, node
        return
    apart = isinstance(node, Mapping)  # of members; all else is the state of one of them
    for key, child in inside:
        here = (*path, key)
        yield from _entries(child, name, here, here if apart or isinstance(child, Leaves) else unit)


def _filled(fresh: Nested, stored: Nested) -> Nested:
    """The entries of ``fresh``, with stored values where there are some."""
    return {
        key: _filled(value, stored.get(key, {}))
        if isinstance(value, dict)
        else stored.get(key, value)
        for key, value in fresh.items()
    }
