"""Averages of moments over workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import tree
from ..core.leaf_states import map_fields, map_leaf_states
from ..core.roles import FIRST, SECOND, roles
from ..core.tree import PyTree, accumulator
from .local_steps import Meeting, Sync, check_period
from .rounds import Mean, Rounds


@dataclass(frozen=True)
class average_moments(Sync):
    """Replace moments by their means over workers, each kind with a period of its own.

    Moments are the fields of states that are annotated as ``gx.FirstMoment`` and
    ``gx.SecondMoment``, in whatever chain. They should be seldom averaged where they remember long.

    Args:
        first: steps between averages of first moments, >= 1; a tuple has one for each that a leaf
            has, in the order of the chain.
        second: the same of second moments.

    Raises:
        ValueError: a period below 1; from ``sync``, a moment that is not kept as numbers, or more
            of them than periods (names the leaf).

    Source: arXiv 2505.22549.

    >>> import torch, gradtx as gx
    >>> gd = gx.distributed
    >>> method = gd.LocalSteps(gx.sgd(0.1, 0.9), (gd.average_moments(first=2),))
    >>> [step for step in range(1, 7) if method.due(step)]
    [2, 4, 6]
    """

    first: int | tuple[int, ...] = 32
    second: int | tuple[int, ...] = 32

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            value = getattr(self, name)
            for one in value if isinstance(value, tuple) else (value,):
                check_period(self.name, name, one)

    def _periods(self, role: str) -> tuple[int, ...]:
        given = self.first if role == FIRST else self.second
        return given if isinstance(given, tuple) else (given,)

    def due(self, step: int) -> bool:
        return any(step % k == 0 for role in (FIRST, SECOND) for k in self._periods(role))

    def rounds(self, now: Meeting, own: Any, step: int) -> Rounds:
        due: list[Tensor] = []

        def ask(x: Tensor) -> Tensor:
            due.append(x)
            return x

        self._map(ask, now, step)
        # In float16 a share of a small second moment would be zero, in bfloat16 sums are coarse.
        means = iter((yield [Mean(accumulator(x)) for x in due]))
        return now._replace(local=self._map(lambda x: next(means).to(x.dtype), now, step)), own

    def _map(self, fn: Callable[[Tensor], Tensor], now: Meeting, step: int) -> PyTree:
        """Apply ``fn`` to the moments that are due, always in the same order."""
        _, spec = tree.flatten(now.params)
        names, seen = tree.names(spec), Counter[tuple[int, str]]()

        def at_leaf(i: int, state: Any) -> Any:
            _refuse_encoded(self.name, names[i], state)

            def at(field: str, role: str, x: Tensor) -> Tensor:
                if not role:
                    return x
                k = self._period(names[i], role, seen[i, role])
                seen[i, role] += 1
                return fn(x) if step % k == 0 else x

            return map_fields(at, state)

        return map_leaf_states(at_leaf, now.local, spec)

    def _period(self, leaf: str, role: str, place: int) -> int:
        periods = self._periods(role)
        if len(periods) == 1:
            return periods[0]
        if place >= len(periods):
            raise ValueError(
                f"{self.name}: leaf {leaf!r} has more than {len(periods)} moments of the kind "
                f"{role!r}; give as many periods, or one for all"
            )
        return periods[place]


def _refuse_encoded(who: str, leaf: str, state: Any) -> None:
    """Raise where a moment is kept as codes, whose mean has no meaning."""
    own = roles(state)
    for key, child in tree.children(state) or ():
        if own.get(key) and not isinstance(child, Tensor) and child != ():
            raise ValueError(
                f"{who}: leaf {leaf!r} keeps its {key!r} as {type(child).__name__}; "
                "only numbers can be averaged, leave its codec out"
            )
        if not isinstance(child, Tensor):
            _refuse_encoded(who, leaf, child)
