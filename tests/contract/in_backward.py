"""What the tests of ``gx.optim.step_in_backward`` share: cases, and the two ways to step."""

from __future__ import annotations

import pytest
from torch import Tensor

import gradtx as gx

from .cases import (
    BY_NAME,
    Case,
    _chain,
    _class,
    assert_close,
    assert_equal,
    assert_same_state,
    parameters,
    set_gradients,
)
from .cases import snapshot as ordered_snapshot


def split() -> gx.GradientTransformation:
    """Two chains by shape, each with a count that all leaves share."""
    return gx.partition(
        {
            "matrix": gx.chain(gx.scale_by_adam(), gx.scale(gx.schedules.linear(1.0, 0.1, 5))),
            "other": gx.trace(gx.schedules.linear(0.5, 0.9, 4)),
        },
        by=lambda info: "matrix" if info.ndim > 1 else "other",
    )


MORE = [
    Case("split", _chain(split)),
    Case("lookahead", _chain(lambda: gx.lookahead(gx.adamw(1e-2), sync_period=2))),
    Case("masked", _chain(lambda: gx.masked(gx.scale_by_adam(), lambda info: info.ndim > 0))),
    Case("eager", _class("AdamW", fused=False)),
    Case("capturable", _class("Lion", capturable=True)),
    Case("capturable_eager", _class("Adam", capturable=True, fused=False)),
    Case("maximize", _class("AdamW", maximize=True)),
    Case("schedule_free", _class("ScheduleFreeAdamW")),
    Case("factored", _class("AdamAdv")),
]
ALONE = [case for case in BY_NAME.values() if not case.couples and case.name != "apply_if_finite"]
CASES = ALONE + MORE
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def backward(params: list[Tensor], t: int, order: list[int] | None = None, more=0.0) -> None:
    """A backward pass that gives the gradients of ``set_gradients``, in any order."""
    given = parameters()
    set_gradients(given, t)
    chosen = range(len(params)) if order is None else order
    (sum((params[i] * given[i].grad).sum() for i in chosen) + more).backward()


def pair(case: Case, **options) -> tuple[list[Tensor], list[Tensor], object, object]:
    """Parameters and optimizers twice: those that step in backward come first."""
    hooked, plain = parameters(), parameters()
    return hooked, plain, case.make(hooked, **options), case.make(plain, **options)


def snapshot(opt) -> dict:
    """The state by name; its order is that in which leaves had their first gradients."""
    return dict(sorted(ordered_snapshot(opt).items()))


def assert_same(case: Case, opt, hooked, reference, plain) -> None:
    """Parameters and states bit for bit.

    A leaf by itself may be fused where it is not beside others: Adafactor's vectors beside its
    matrices. Then both agree to rounding.
    """
    mine, theirs = snapshot(opt), snapshot(reference)
    if case.name != "Adafactor":
        assert_equal(hooked, plain)
        assert_same_state(mine, theirs)
        return
    assert list(mine) == list(theirs)
    assert_close(hooked, plain)
    assert_close(mine.values(), theirs.values())


def plain_step(opt, params, t, order=None) -> None:
    backward(params, t, order)
    opt.step()
    opt.zero_grad()
