from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx
from gradtx.core.declared import ScheduledState
from gradtx.core.hyper import contains, one_minus_power, scoped
from gradtx.core.protocol import declared_hyper, members


@given(st.floats(-2, 2), st.sampled_from("[("), st.sampled_from("])"))
def test_intervals(value: float, left: str, right: str) -> None:
    inside = -1 < value < 1 or (value == -1 and left == "[") or (value == 1 and right == "]")
    assert contains(f"{left}-1, 1{right}", value) == inside


def test_interval_ends() -> None:
    assert contains("[0, inf)", 1e300)
    assert not contains("[0, inf)", math.inf)
    assert not contains("(-inf, inf)", math.nan)
    assert not contains("(0, 1]", 0.0)
    assert contains("(0, 1]", 1.0)


@dataclass(frozen=True)
class blend(gx.LeafTransform):
    share: gx.Hyper = gx.dynamic(0.5, within="(0, 1]")
    label: str = gx.static("x")

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u * h.share, s


@pytest.mark.parametrize("bad", [0.0, 1.0001, math.nan, math.inf, -1, 2])
def test_messages(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^blend: share must be in \(0, 1\], got {bad}$"):
        blend(bad)
    with pytest.raises(ValueError, match=rf"^blend: share must be in \(0, 1\], got {bad}$"):
        blend().update({"w": torch.ones(1)}, (), hyper={"share": bad})


def test_types() -> None:
    for bad in ("0.5", None, True, [0.5], 1j):
        with pytest.raises(TypeError, match=r"^blend: share must be a number, a 0-d tensor or a"):
            blend(bad)
    with pytest.raises(ValueError, match=r"^blend: share must be .* tensor of shape \(1,\)$"):
        blend(torch.ones(1))


def test_names_of_other_transforms_are_passed_by() -> None:
    hyper = {"max_norm": 0.0, "share": 0.5}
    want, _ = blend().update({"w": torch.ones(1)}, (), hyper={"share": 0.5})
    assert blend().update({"w": torch.ones(1)}, (), hyper=hyper)[0] == want
    with pytest.raises(ValueError, match=r"'clip\.max_norm'"):
        blend().update({"w": torch.ones(1)}, (), hyper={"clip.max_norm": 0.0})


def test_static_hyperparameters_are_not_overridden() -> None:
    for name in ("label", "unknown"):
        with pytest.raises(ValueError, match=f"blend: hyper has '{name}'"):
            blend(label="y").update({"w": torch.ones(1)}, (), hyper={name: 3.0})


def test_a_value_for_a_leaf_of_another_tree() -> None:
    with pytest.raises(gx.TreeMismatchError, match=r"blend: .*hyper"):
        blend().update({"w": torch.ones(1)}, (), hyper={"share": {"v": 0.1}})


def test_scope() -> None:
    hyper = {"lr": 1, "a.lr": 2, "a.b.lr": 3, "c.lr": 4}
    assert scoped(hyper, "a") == {"lr": 2, "b.lr": 3}
    assert scoped(hyper, "c") == {"lr": 4}
    assert scoped({"a.lr": 1}, "b") is None
    assert scoped(None, "a") is None


def test_declared_hyper_lists_names_that_work() -> None:
    tx = gx.chain(
        gx.multi_steps(gx.chain(gx.scale(2.0), gx.scale(3.0)), every_k=1),
        gx.partition({"x": gx.masked(gx.scale(5.0), lambda info: True)}, by=lambda info: "x"),
        gx.parallel(gx.scale(7.0), gx.scale(0.0)),
    )
    grads = {"w": torch.ones(1)}
    state = tx.init(grads)
    found = declared_hyper(tx)
    assert list(found.values()) == [2.0, 3.0, 5.0, 7.0, 0.0]
    for name, value in found.items():
        out, _ = tx.update(grads, state, grads, hyper={name: value + 1.0})
        others = [v + (n == name) for n, v in found.items()]
        assert out["w"].item() == math.prod(others[:3]) * sum(others[3:]), name
    assert next(path for path, _ in members(tx)) == ""


def test_schedule_counts_updates_of_the_tree() -> None:
    tx = gx.scale(lambda count: count + 1.0)
    grads = {"a": torch.ones(1), "b": torch.ones(1)}
    state = tx.init(grads)
    assert isinstance(state, ScheduledState)
    outs = []
    for _ in range(3):
        out, state = tx.update(grads | {"b": None}, state)
        outs.append(out["a"].item())
    assert outs == [1.0, 2.0, 3.0]
    assert state.step.dtype == torch.int32


def test_schedule_needs_its_state() -> None:
    with pytest.raises(gx.TreeMismatchError, match="scale: has a scheduled hyperparameter"):
        gx.scale(lambda count: 1.0).update({"w": torch.ones(1)}, ())


@given(st.floats(0.0, 0.99999), st.integers(1, 100_000))
def test_one_minus_power(decay: float, count: int) -> None:
    want = -math.expm1(count * math.log(decay)) if decay > 0 else 1.0
    n = torch.tensor(count, dtype=torch.int32)
    for dtype, rtol in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        got = one_minus_power(decay, n, dtype)
        assert got.dtype == dtype
        assert got.item() == pytest.approx(want, rel=rtol)
    wide = torch.tensor(decay, dtype=torch.float64)
    assert one_minus_power(wide, n, torch.float64).item() == pytest.approx(want, rel=1e-12)


def test_bias_correction_of_a_float64_tensor_is_exact_enough() -> None:
    """A float64 decay must not be cut to float32 before the logarithm."""
    n = torch.tensor(1, dtype=torch.int32)
    got = one_minus_power(torch.tensor(0.999, dtype=torch.float64), n, torch.float32)
    assert got.item() == pytest.approx(0.001, rel=1e-6)


def _even(who: str, name: str, value: Any) -> None:
    if value % 2:
        raise ValueError(f"{who}: {name} must be even, got {value}")


@dataclass(frozen=True)
class fixed(gx.LeafTransform):
    kind: str | None = gx.static("a", choices=("a", "b", None))
    size: int = gx.static(2, at_least=1, check=_even)
    steps: int | None = gx.static(None, at_least=0)
    share: float = gx.static(0.5, within="[0, 1)")
    every: int = gx.static(1, at_least=1, steps=True)
    rest: float = 0.5

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u, s


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "c"}, "fixed: kind must be 'a', 'b' or None, got 'c'"),
        ({"size": 0}, "fixed: size must be an integer >= 1, got 0"),
        ({"size": 2.5}, "fixed: size must be an integer >= 1, got 2.5"),
        ({"size": None}, "fixed: size must be an integer >= 1, got None"),
        ({"size": True}, "fixed: size must be an integer >= 1, got True"),
        ({"size": 3}, "fixed: size must be even, got 3"),
        ({"steps": -1}, "fixed: steps must be an integer >= 0 or None, got -1"),
        ({"share": 1.0}, r"fixed: share must be in \[0, 1\), got 1.0"),
        ({"share": math.nan}, r"fixed: share must be in \[0, 1\), got nan"),
        ({"share": torch.tensor(math.nan)}, r"fixed: share must be in \[0, 1\), got nan"),
        ({"share": torch.tensor(-1.0)}, r"fixed: share must be in \[0, 1\), got -1.0"),
        ({"every": 2**31}, "fixed: every must be at most 2147483647 steps, got 2147483648"),
    ],
)
def test_static_fields_say_what_they_must_be(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fixed(**wrong)


def test_static_fields_that_fit() -> None:
    assert fixed(None, 4, 3, 0.0).steps == 3
    assert fixed(share=torch.tensor(0.25)).share == 0.25
    with pytest.raises(TypeError, match="fixed: share must be a number, got 'half'"):
        fixed(share="half")  # type: ignore[arg-type]
    for name in ("share", "rest"):
        with pytest.raises(TypeError, match=f"fixed: {name} must be a number, got"):
            fixed(**{name: torch.ones(2)})
    with pytest.raises(TypeError, match="fixed: rest must be a number, got"):
        fixed(rest=torch.tensor(math.nan))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array])
def test_numbers_of_numpy_are_compiled(kind: Any) -> None:
    """As tensors: no graph is made for one value."""
    params, tx = {"w": torch.ones(3)}, gx.sgd(0.1)
    step = torch.compile(
        lambda hyper: tx.update(params, tx.init(params), params, hyper=hyper)[0],
        backend="eager",
        fullgraph=True,
    )
    for value in (0.5, 0.25):
        assert torch.equal(step({"lr": kind(value)})["w"], torch.full((3,), -value))
