"""Dynamic hyperparameters: overrides by name, per member and per leaf; schedules; intervals."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import optree
import pytest
import torch

import gradtx as gx
from gradtx.core.declared import ScheduledState
from gradtx.core.hyper import is_per_entry
from tests.table import Row

from .helpers import (
    SHAPES,
    Dynamic,
    Snapshot,
    assert_close,
    call,
    dynamics,
    grads_,
    params_,
    reached,
    run,
    with_value,
    with_values,
)


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A schedule that moves from one value towards another."""

    start: float
    end: float

    def __call__(self, count: Any) -> Any:
        return self.start + (self.end - self.start) * (count + 1) / 8


def agree(tx: Any, rebuilt: Any, hyper: Any, rtol: float) -> None:
    got = run(tx, extra=lambda step, state: {"hyper": hyper})
    want = run(rebuilt)
    assert_close(got[0], want[0], rtol=rtol)
    assert_close(got[1], want[1], rtol=rtol)


def test_override_by_name(row: Row) -> None:
    """A plain name reaches every member that has it; floats and tensors of any dtype do."""
    tx = row.make()
    ds = dynamics(tx)
    for name in {d.name for d in ds}:
        same = [d for d in ds if d.name == name]
        value = max((d.other_value() for d in same), key=lambda v: abs(v))
        rebuilt = with_value(tx, [d.member for d in same], name, value)
        agree(tx, rebuilt, {name: value}, rtol=1e-6)
        agree(tx, rebuilt, {name: torch.tensor(value, dtype=torch.float64)}, rtol=1e-4)
        agree(tx, rebuilt, {name: torch.tensor(value)}, rtol=1e-4)


def test_override_by_member(row: Row) -> None:
    """``"member.name"`` reaches that member and those inside it, and wins over the plain name."""
    tx = row.make()
    ds = dynamics(tx)
    for d in ds:
        value = d.other_value()
        here = [(member, d.name, value) for member in reached(ds, d)]
        agree(tx, with_values(tx, here), {d.key: value}, rtol=1e-6)
        if d.path:
            rest = [
                (e.member, e.name, d.value)
                for e in ds
                if e.name == d.name and not any(e.member is member for member, _, _ in here)
            ]
            agree(tx, with_values(tx, here + rest), {d.name: d.value, d.key: value}, rtol=1e-6)


def test_override_has_an_effect(row: Row) -> None:
    """Otherwise the tests above could not fail."""
    tx = row.make()
    plain = run(tx)
    for d in dynamics(tx):
        changed = run(tx, extra=lambda step, state, d=d: {"hyper": {d.key: d.other_value()}})
        pairs = zip(gx.tree.leaves(plain), gx.tree.leaves(changed), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs), f"{d.key} changes nothing"


def test_constructor_takes_tensors(row: Row) -> None:
    tx = row.make()
    want = run(tx)
    for d in dynamics(tx):
        if callable(d.value):
            continue
        value = torch.tensor(float(d.value), dtype=torch.float64)
        got = run(with_value(tx, [d.member], d.name, value))
        assert_close(got[0], want[0], rtol=2e-6)
        assert_close(got[1], want[1], rtol=2e-6)


def test_override_per_leaf(row: Row) -> None:
    """A tree of values gives every leaf its own; None keeps the leaf's value."""
    tx = row.make()
    for d in dynamics(tx):
        low, high = d.other_value(0.25), d.other_value(0.75)
        if isinstance(d.member, gx.TreeTransform):
            low = high  # one value for all leaves
        tree = {"b": low, "deep": {"s": torch.tensor(high)}, "w": high}
        got, _ = run(tx, extra=lambda s, _, tree=tree, d=d: {"hyper": {d.key: tree}})
        ends = [run(tx, extra=lambda s, _, v=v, d=d: {"hyper": {d.key: v}})[0] for v in (low, high)]
        if not any(isinstance(e.member, gx.TreeTransform) for e in dynamics(tx)):
            want = [lo | {k: hi[k] for k in ("deep", "w")} for lo, hi in zip(*ends, strict=True)]
            assert_close(got, want, rtol=1e-4)
        elif low == high:
            assert_close(got, ends[1], rtol=1e-4)
        if not isinstance(d.member, gx.TreeTransform):
            gaps = {"b": None, "deep": {"s": None}, "w": None}
            assert_close(
                run(tx, extra=lambda s, _, d=d, gaps=gaps: {"hyper": {d.key: gaps}}), run(tx)
            )


def test_override_per_entry(row: Row) -> None:
    """Where one value an entry may be given, the same one everywhere is as good as a number."""
    tx, params = row.make(), params_()
    for d in dynamics(tx):
        if is_per_entry(d.member, d.name):
            value = d.other_value()
            tree = gx.tree.map(lambda p, v=value: torch.full_like(p, v), params)
            mine, theirs = (lambda s, _, d=d, v=v: {"hyper": {d.key: v}} for v in (tree, value))
            assert_close(run(tx, extra=mine), run(tx, extra=theirs), rtol=1e-4)


def test_override_of_any_numeric_type(row: Row) -> None:
    tx = row.make()
    for d in dynamics(tx)[:2]:
        value = d.other_value()
        want = run(tx, extra=lambda s, _, d=d, v=value: {"hyper": {d.key: v}}, steps=1)
        for kind in (np.float64, np.array, Fraction, Decimal):
            given = kind(value)
            got = run(tx, extra=lambda s, _, d=d, v=given: {"hyper": {d.key: v}}, steps=1)
            assert_close(got, want)
        rebuilt = with_value(tx, reached(dynamics(tx), d), d.name, np.float32(value))
        assert_close(run(rebuilt, steps=1), want, rtol=1e-4)


def test_override_of_what_nothing_has(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init(params)
    before = Snapshot(params, state)
    for d in dynamics(tx):
        misspelt = d.key + d.key[-1]
        with pytest.raises(ValueError, match=f"{misspelt!r}.*did you mean"):
            call(tx, grads_(0), state, params, hyper={misspelt: d.value})
    with pytest.raises(ValueError, match="'nothing_like_it'"):
        call(tx, grads_(0), state, params, hyper={"nothing_like_it": 1.0})
    before.check()


def count_of(state: Any) -> torch.Tensor:
    """The count of the one scheduled member."""
    nodes = optree.tree_leaves(
        state,
        is_leaf=lambda x: isinstance(x, ScheduledState),
        none_is_leaf=True,
        namespace=gx.tree.NAMESPACE,
    )
    return next(x.step for x in nodes if isinstance(x, ScheduledState))


def test_schedule(row: Row) -> None:
    """A schedule is an override per call, at the member's own count of updates."""
    tx = row.make()
    for d in dynamics(tx):
        start = 0.5 if callable(d.value) else float(d.value)
        ramp = Ramp(start, d.other_value())
        scheduled = with_value(tx, reached(dynamics(tx), d), d.name, ramp)

        counts: list[torch.Tensor] = []

        def watch(step: int, state: Any, counts: list[torch.Tensor] = counts) -> Any:
            counts.append(count_of(state))
            return {}

        got = run(scheduled, extra=watch)[0]
        want = run(tx, extra=lambda step, _, d=d, r=ramp, n=counts: {"hyper": {d.key: r(n[step])}})[
            0
        ]
        assert_close(got, want, rtol=1e-4)


def who(d: Dynamic) -> str:
    return f"{d.member.name}: {d.name} "


def test_value_outside_its_interval(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init(params)
    for d in dynamics(tx):
        for bad in d.outside():
            with pytest.raises(ValueError, match=who(d)):
                dataclasses.replace(d.member, **{d.name: bad})
            before = Snapshot(params, state)
            with pytest.raises(ValueError, match=who(d)):
                call(tx, grads_(0), state, params, hyper={d.key: bad})
            before.check()


def test_leaf_value_outside_its_interval(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init(params)
    for d in dynamics(tx):
        for bad in d.outside():
            with pytest.raises(ValueError, match=who(d)):
                call(tx, grads_(0), state, params, hyper={d.key: per_leaf(bad)})


def per_leaf(value: Any) -> Any:
    return optree.tree_map(lambda _: value, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize("bad", ["0.5", None, True, [0.5]], ids=repr)
def test_value_of_another_type(row: Row, bad: Any) -> None:
    for d in dynamics(row.make()):
        with pytest.raises(TypeError, match=who(d)):
            dataclasses.replace(d.member, **{d.name: bad})


def test_override_of_another_type(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init(params)
    for d in dynamics(tx):
        with pytest.raises((TypeError, ValueError), match=d.member.name):
            call(tx, grads_(0), state, params, hyper={d.key: "0.5"})
        with pytest.raises(TypeError, match=who(d)):
            call(tx, grads_(0), state, params, hyper={d.key: True})


def test_value_of_another_shape(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init(params)
    for d in dynamics(tx):
        bad, make = torch.full((5,), d.other_value()), dataclasses.replace
        if is_per_entry(d.member, d.name):  # which shapes fit is known with the leaves
            make = lambda m, tx=tx, **new: run(with_value(tx, [m], *new.popitem()))  # noqa: E731
        with pytest.raises(ValueError, match=who(d)):
            make(d.member, **{d.name: bad})
        with pytest.raises(ValueError, match=who(d)):
            call(tx, grads_(0), state, params, hyper={d.key: bad})
