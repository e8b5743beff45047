"""Dynamic hyperparameters: overrides by name, per member, leaf and entry; schedules."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import optree
import torch

from ..core import tree
from ..core.declared import ScheduledState
from ..core.hyper import is_per_entry
from ..core.transform import TreeTransform
from .claims import require, require_close
from .members import Dynamic, reached, with_value
from .subject import Subject, holds_for_all
from .trees import number, run, some_params, with_hyper


@holds_for_all
def override_by_name(s: Subject) -> None:
    """A plain name reaches every member that has it; floats and tensors of any dtype do."""
    for name in {d.name for d in s.dynamics}:
        same = [d for d in s.dynamics if d.name == name]
        value = max((d.other_value() for d in same), key=abs)
        want = s.rebuilt([(d.member, name, value) for d in same])
        require_close(s.overridden(name, value), want, f"with {name} overridden", rtol=1e-6)

        def tensor(step: int, _: Any, name: str = name, value: float = value) -> Any:
            return {"hyper": {name: number(value, (torch.float64, torch.float32)[step % 2])}}

        require_close(run(s.tx, extra=tensor), want, f"with {name} as a tensor", rtol=1e-4)


@holds_for_all
def override_by_member(s: Subject) -> None:
    """``"member.name"`` reaches that member and those inside it, and wins over the plain name."""
    for d in s.dynamics:
        value = d.other_value()
        here = [(member, d.name, value) for member in reached(s.dynamics, d)]
        if d.path or len(here) != len([e for e in s.dynamics if e.name == d.name]):
            what = f"with {d.key} overridden"
            require_close(s.overridden(d.key, value), s.rebuilt(here), what, rtol=1e-6)
        if d.path:
            rest = [
                (e.member, e.name, d.value)
                for e in s.dynamics
                if e.name == d.name and not any(e.member is member for member, _, _ in here)
            ]
            hyper = {d.name: d.value, d.key: value}
            got = run(s.tx, extra=with_hyper(hyper))
            require_close(got, s.rebuilt(here + rest), f"with hyper={hyper}", rtol=1e-4)


@holds_for_all
def override_has_an_effect(s: Subject) -> None:
    """Every dynamic hyperparameter changes something within a few steps."""
    for d in s.dynamics:
        changed = s.overridden(d.key, d.other_value())
        pairs = zip(tree.leaves(s.plain), tree.leaves(changed), strict=True)
        require(any(not torch.equal(a, b) for a, b in pairs), f"{d.key} changes nothing")


@holds_for_all
def constructor_takes_tensors(s: Subject) -> None:
    """A 0-d tensor as a hyperparameter is as good as the number."""
    for d in s.dynamics:
        if not callable(d.value):
            value = number(float(d.value), torch.float64)
            got = run(with_value(s.tx, [d.member], d.name, value))
            require_close(got, s.plain, f"with {d.key} as a tensor")


@holds_for_all
def override_per_leaf(s: Subject) -> None:
    """A tree of values gives every leaf its own; None keeps the leaf's value."""
    for d in s.dynamics:
        low, high = d.other_value(0.25), d.other_value()
        if isinstance(d.member, TreeTransform):
            low = high  # one value for all leaves
        values = {"b": low, "deep": {"s": number(high)}, "w": high}
        got, _ = run(s.tx, extra=with_hyper({d.key: values}))
        what = f"with a value of {d.key} for each leaf"
        if not any(isinstance(e.member, TreeTransform) for e in s.dynamics):
            ends = [s.overridden(d.key, v)[0] for v in (low, high)]
            want = [lo | {k: hi[k] for k in ("deep", "w")} for lo, hi in zip(*ends, strict=True)]
            require_close(got, want, what, rtol=1e-4)
        elif low == high:
            require_close(got, s.overridden(d.key, high)[0], what, rtol=1e-4)
        if not isinstance(d.member, TreeTransform):
            gaps = {"b": None, "deep": {"s": None}, "w": None}
            kept = run(s.tx, extra=with_hyper({d.key: gaps}))
            require_close(kept, s.plain, f"with None for {d.key} of every leaf")


@holds_for_all
def override_per_entry(s: Subject) -> None:
    """Where one value an entry may be given, the same one everywhere is as good as a number."""
    for d in s.dynamics:
        if is_per_entry(d.member, d.name):
            value = d.other_value()
            entries = tree.map(lambda p, v=value: torch.full_like(p, v), some_params())
            got = run(s.tx, extra=with_hyper({d.key: entries}))
            what = f"with one value of {d.key} an entry"
            require_close(got, s.overridden(d.key, value), what, rtol=1e-4)


@holds_for_all
def override_of_any_numeric_type(s: Subject) -> None:
    """Numbers of NumPy, fractions and decimals are numbers."""
    for d in s.dynamics[:2]:
        value = d.other_value()
        want = run(s.tx, extra=with_hyper({d.key: value}), steps=1)
        for kind in (np.float64, np.array, Fraction, Decimal):
            got = run(s.tx, extra=with_hyper({d.key: kind(value)}), steps=1)
            require_close(got, want, f"with {d.key} as a {kind.__name__}")
        rebuilt = with_value(s.tx, reached(s.dynamics, d), d.name, np.float32(value))
        require_close(run(rebuilt, steps=1), want, f"made with a float32 {d.key}", rtol=1e-4)


@dataclass(frozen=True)
class Ramp:
    """A schedule that moves from one value towards another."""

    start: float
    end: float

    def __call__(self, count: Any) -> Any:
        return self.start + (self.end - self.start) * (count + 1) / 8


def count_of(state: Any) -> torch.Tensor:
    """The count of the one scheduled member."""
    nodes = optree.tree_leaves(
        state,
        is_leaf=lambda x: isinstance(x, ScheduledState),
        none_is_leaf=True,
        namespace=tree.NAMESPACE,
    )
    return next(x.step for x in nodes if isinstance(x, ScheduledState))


@holds_for_all
def schedule(s: Subject) -> None:
    """A schedule is an override per call, at the member's own count of updates."""
    for d in s.dynamics:
        start = 0.5 if callable(d.value) else float(d.value)
        ramp = Ramp(start, d.other_value())
        scheduled = with_value(s.tx, reached(s.dynamics, d), d.name, ramp)
        counts: list[torch.Tensor] = []

        def watch(step: int, state: Any, counts: list[torch.Tensor] = counts) -> Any:
            counts.append(count_of(state))
            return {}

        def overridden(step: int, _: Any, d: Dynamic = d, ramp: Ramp = ramp) -> Any:
            return {"hyper": {d.key: ramp(counts[step])}}  # noqa: B023

        got = run(scheduled, extra=watch)[0]
        require_close(got, run(s.tx, extra=overridden)[0], f"with {d.key} scheduled", rtol=1e-4)
