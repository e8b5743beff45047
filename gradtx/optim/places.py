"""States of members that stand elsewhere once an option has changed.

An option may put a member inside another one, or give it another number or name. Where the chain
before has a member of a class that the chain now has too, with its state in another place, that
state goes with it: of one form on both sides, with equal codecs and projectors, whole wrappers
before what they wrap. Of several of one class the first goes to the first, if there are as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..codecs import Codec
from ..core.dicts import kind
from ..core.protocol import GradientTransformation, Wrapper, members
from ..subspace import Projector
from .leaves import Nested, flattened

Path = tuple[str, ...]


class Place(NamedTuple):
    """A member and what it keeps of one parameter.

    Attributes:
        path: where that is in the nested dicts.
        member: the member.
        form: paths inside it, and what is there.
    """

    path: Path
    member: GradientTransformation
    form: dict[Path, str]

    def is_like(self, other: Place) -> bool:
        """Whether another member may go on with what this one has kept."""
        same = type(self.member) is type(other.member) and self.form == other.form
        return same and formats(self.member) == formats(other.member)


def formats(tx: GradientTransformation) -> dict[str, Any]:
    """Codecs and projectors of a transform and of all inside it, by path."""
    return {
        f"{path}.{name}": value
        for path, member in members(tx)
        for name, value in vars(member).items()
        if isinstance(value, (Codec, Projector))
    }


def moved(
    before: GradientTransformation, now: GradientTransformation, stored: Nested, fresh: Nested
) -> Nested:
    """A stored state with what its members keep where they stand now.

    Args:
        before: the chain that it was made by.
        now: the chain that there is.
        stored: nested dicts of one parameter.
        fresh: those of a new state.
    """
    gone = _only_in(before, stored, {path for path, _ in flattened(fresh)})
    new = _only_in(now, fresh, {path for path, _ in flattened(stored)})
    while gone:
        place = gone[0]
        alike = [other for other in gone if other.is_like(place)]
        targets = [other for other in new if other.is_like(place)]
        if len(alike) != len(targets):
            gone = gone[1:]
            continue
        for old, target in zip(alike, targets, strict=True):
            stored = _put(_without(stored, old.path), target.path, _at(stored, old.path))
            gone = [other for other in gone if not _is_inside(other.path, old.path)]
            new = [other for other in new if not _is_inside(other.path, target.path)]
    return stored


def _only_in(tx: GradientTransformation, nested: Nested, others: set[Path]) -> list[Place]:
    """The places of which nothing is among the paths of another state."""
    return [
        place
        for place in _places(tx, nested, ())
        if place.path and not any((*place.path, *path) in others for path in place.form)
    ]


def _places(tx: GradientTransformation, node: Any, path: Path) -> Iterator[Place]:
    """Everything that keeps something, wrappers before what they wrap."""
    if not isinstance(node, dict) or not node:
        return
    yield Place(path, tx, {inside: kind(value) for inside, value in flattened(node)})
    for name, member in tx.inner.items():
        if name in node:
            yield from _places(member, node[name], (*path, name))
        elif "inner_state" in node:
            yield from _places(member, node["inner_state"], (*path, "inner_state"))
        elif isinstance(tx, Wrapper):  # its state is that of what it wraps
            yield from _places(member, node, path)


def _is_inside(path: Path, outer: Path) -> bool:
    return path[: len(outer)] == outer


def _at(nested: Any, path: Path) -> Any:
    for key in path:
        nested = nested[key]
    return nested


def _without(nested: Nested, path: Path) -> Nested:
    """The same without one entry, and without dicts that are empty then."""
    first, *rest = path
    below = _without(nested[first], tuple(rest)) if rest else {}
    return {k: below if k == first else v for k, v in nested.items() if k != first or below}


def _put(nested: Nested, path: Path, value: Any) -> Nested:
    first, *rest = path
    inside = nested.get(first, {})
    return {**nested, first: _put(inside, tuple(rest), value) if rest else value}
