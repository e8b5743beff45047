"""A chain as two: what must see whole leaves, and the elementwise rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from ..core.chain import Chain
from ..core.execution import chain_kernels
from ..core.protocol import GradientTransformation, members
from ..core.select import partition
from .leaves import Nested


class Cut(NamedTuple):
    """A chain in two.

    Attributes:
        head: what comes first.
        rest: what the updates of ``head`` go through; members have the names that they had, and
            their states the places.
    """

    head: GradientTransformation
    rest: GradientTransformation


def cuts(tx: GradientTransformation) -> Iterator[Cut]:
    """The ways to cut a chain, beginning with the shortest rest.

    A partition at the end is cut too, the chains of all its labels as far from their ends. Chains
    that have an operator of their own are not, nor those to whose state something happens between
    steps.

    >>> import gradtx as gx
    >>> from gradtx.optim.cutting import cuts
    >>> [rest for _, rest in cuts(gx.chain(gx.trace(0.9), gx.scale(2.0), gx.clip(1.0)))]
    [chain(clip(max_delta=1.0)), chain(scale(step_size=2.0), clip(max_delta=1.0))]
    """
    if any(not isinstance(k.match(tx), (str, type(None))) for k in chain_kernels()):
        return
    if any(m.execution.events is not None for _, m in members(tx)):
        return
    for last in range(1, _steps(tx)):
        yield _cut(tx, last)


def _steps(tx: GradientTransformation) -> int:
    """How many members stand one after the other."""
    if isinstance(tx, Chain):
        return sum(_steps(member) if _is_open(member) else 1 for _, member in tx)
    return max(map(_steps, tx.inner.values())) if _is_open(tx) else 1


def _is_open(member: GradientTransformation) -> bool:
    return isinstance(member, partition) and len(member.transforms) > 0


def _cut(tx: GradientTransformation, last: int) -> Cut:
    """A chain before its ``last`` members, and those; nothing before them if it has no more."""
    if isinstance(tx, partition):
        both = {label: _cut(inner, last) for label, inner in tx.transforms.items()}
        heads = {label: cut.head for label, cut in both.items()}
        rests = {label: cut.rest for label, cut in both.items()}
        return Cut(
            dataclasses.replace(tx, transforms=heads), dataclasses.replace(tx, transforms=rests)
        )
    steps = list(tx) if isinstance(tx, Chain) else []
    for i in reversed(range(len(steps))):
        name, member = steps[i]
        size = _steps(member) if _is_open(member) else 1
        if not last:
            return Cut(Chain(tuple(steps[: i + 1])), Chain(tuple(steps[i + 1 :])))
        if last < size:
            head, rest = _cut(member, last)
            return Cut(Chain((*steps[:i], (name, head))), Chain(((name, rest), *steps[i + 1 :])))
        last -= size
    return Cut(Chain(()), tx)


def apart(nested: Nested, rest: GradientTransformation) -> tuple[Nested, Nested]:
    """A state as that of a head, with whatever else there is, and that of a rest.

    Args:
        nested: by name of member, as in ``optimizer.state``.
        rest: of a cut.
    """
    first: Nested = {}
    last: Nested = {}
    for name, value in nested.items():
        member = rest.inner.get(name)
        if member is None:
            first[name] = value
        elif isinstance(member, (Chain, partition)) and isinstance(value, dict):
            inside = apart(value, member)
            first |= {name: inside[0]} if inside[0] or not value else {}
            last |= {name: inside[1]} if inside[1] else {}
        else:
            last[name] = value
    return first, last


def together(first: Nested, last: Nested) -> Nested:
    """The inverse of ``apart``."""
    out = dict(first)
    for name, value in last.items():
        before = out.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            value = together(before, value)
        out[name] = value
    return out
