"""Where nothing can be compiled: pointwise chains as multi-tensor operations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import gradtx as gx
from gradtx.fuse import CannotFuseError
from gradtx.fuse.cpp import kernel
from gradtx.fuse.runtime import multi_tensor
from gradtx.testing.fused import in_place_is_pure
from tests.fuse.helpers import SHAPES, assert_same, copy, counted, run_both, tensors
from tests.fuse.test_table import CHAINS
from tests.table import ROWS, Row


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def library(*_: Any) -> None:
        raise CannotFuseError("", "nothing compiles here")

    monkeypatch.setattr(kernel, "library", library)
    monkeypatch.setattr(kernel, "_kernels", {})


@pytest.fixture
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of few elements: leaves are cut, and others joined."""
    monkeypatch.setattr(multi_tensor, "RUN", 11)


WHOLE = {
    *("adagrad", "adamax", "adamw", "adan", "ademamix", "adopt", "lion", "nadam", "radam"),
    *("rmsprop", "rprop", "scale_by_belief", "schedule_free_adamw", "sgd", "signum", "yogi"),
}
SAMPLE = [row for row in ROWS if row.id in WHOLE] + [r for r in ROWS[::6] if r.id not in WHOLE]


@pytest.mark.parametrize("row", SAMPLE, ids=lambda row: row.id)
def test_it_is_pure(row: Row) -> None:
    step = gx.fuse(row.make())
    in_place_is_pure(row.make(), step)
    if row.id in WHOLE:
        assert step.report() == "whole chain: nothing compiles here"


@pytest.mark.usefixtures("_short_runs")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["scheduled", "accumulating", "low moments"])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    fused, pure, _ = run_both(CHAINS[name](), dtype=dtype)
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-9}[dtype]
    if name == "low moments":
        tolerance = 2e-2  # a moment may round the other way
    assert_same(fused, pure, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("run", [3, 32768])
@pytest.mark.parametrize("name", ["scheduled", "clipped adamw"])
def test_shapes(name: str, run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_tensor, "RUN", run)
    shapes = {**{"scalar": (), "empty": (0,), "one": (1,), "odd": (31,)}, **SHAPES}
    shapes["large"] = (101, 700) if run > 3 else (20, 3)
    fused, pure, _ = run_both(CHAINS[name](), shapes)
    assert_same(fused, pure)


class Two(NamedTuple):
    a: Tensor
    b: Tensor
    seen: Tensor


@dataclass(frozen=True)
class exchange(gx.LeafTransform):
    """A transform that needs all of its old state when it has written half of it."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> Two:
        return Two(torch.zeros_like(p), torch.ones_like(p), torch.zeros_like(p, dtype=torch.bool))

    def update_leaf(self, u: Tensor, s: Two, p: Any, h: Any) -> tuple[Tensor, Two]:
        seen = (u > 0.5) | s.seen
        small = torch.where(seen, u, 0.25) - 3 * s.a
        out = small * s.b - s.a / (s.b.abs() + 1) * 0.5 + seen * torch.pow(u.abs(), 1.5)
        return out + s.b.clamp(-1, 1) * u.sign(), Two(
            s.b, s.a + 0.5 * u * u, torch.logical_xor(~seen, s.seen)
        )


@pytest.mark.usefixtures("_short_runs")
def test_what_is_still_read_is_not_overwritten() -> None:
    fused, pure, step = run_both(gx.chain(exchange(), gx.scale(-0.01)))
    assert_same(fused, pure)
    assert step.engine.lacks == "nothing compiles here"
    assert "exchange" not in step.report()


@pytest.mark.usefixtures("_short_runs")
@pytest.mark.parametrize("name", ["AdamW", "Lion", "Adan"])
def test_groups_counters_and_missing_gradients(name: str) -> None:
    def run(**options: Any) -> list[Any]:
        params = [Parameter(x) for x in tensors({**SHAPES, "more": (40,)}, 0).values()]
        optimizer = getattr(gx.optim, name)(
            [{"params": params[::2], "lr": 0.1, "weight_decay": 0.1}, {"params": params[1::2]}],
            lr=0.01,
            **options,
        )
        for t in range(5):
            for i, p in enumerate(params):
                p.grad = tensors({"g": tuple(p.shape)}, 10 * t + i)["g"]
            if t in (1, 2):
                params[t].grad = None
            optimizer.param_groups[1]["lr"] = 0.01 / (t + 1)
            optimizer.step()
        return [params, optimizer.state_dict()["state"]]

    assert_same(run(), run(fused=False))


def test_leaves_of_one_chain_may_have_counted_differently() -> None:
    tx = gx.adamw(0.1)
    params = tensors(SHAPES, 0)
    state = counted(tx.init(params), 7)
    pure, pure_state, step = copy(params), copy(state), gx.fuse(tx)
    for t in range(3):
        grads = tensors(SHAPES, t + 1) | ({"w": None} if t == 1 else {})
        hyper = {"b1": {"b": 0.9, "deep": 0.8, "w": 0.7 + 0.1 * t}}
        params, state = step(params, grads, state, hyper=hyper)
        updates, pure_state = tx.update(grads, pure_state, pure, hyper=hyper)
        pure = gx.apply_updates(pure, updates)
    assert_same((params, state), (pure, pure_state))


def test_a_step_in_inference_mode_and_one_after_it() -> None:
    step, params = gx.fuse(gx.sgd(0.5)), {"w": torch.ones(3)}
    state = step.transform.init(params)
    with torch.inference_mode():
        step(params, {"w": torch.ones(3)}, state)
    step(params, {"w": torch.ones(3)}, state)
    assert params["w"].eq(0).all()


def test_fused_true_means_compiled_passes() -> None:
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = gx.optim.AdamW([p], fused=True)
    with pytest.raises(RuntimeError, match="fused=True, but nothing compiles here"):
        optimizer.step()
    assert p.eq(1).all()


def test_adamw_is_few_operations() -> None:
    """As many as of torch's own multi-tensor AdamW, about: that decides how long it takes."""
    _, _, step = run_both(gx.adamw(0.1))
    (kernels,) = step.engine._plan.kernels.values()
    for compiled in kernels.values():
        assert len(compiled.program.operations) <= 10
        assert len(compiled.program.registers) <= 2


def test_small_leaves_take_one_thread_and_large_ones_are_not_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[multi_tensor.Run] = []

    class Seen(multi_tensor.Run):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            runs.append(self)

    monkeypatch.setattr(multi_tensor, "RUN", 100)
    monkeypatch.setattr(multi_tensor, "Run", Seen)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    sizes = dict.fromkeys("abcdefgh", 30) | {"half": 60, "large": 1000}
    fused, pure, _ = run_both(gx.adamw(0.1), {name: (n,) for name, n in sizes.items()})
    assert_same(fused, pure)
    found = [(r.joined, r.size) for r in runs][-7:]  # others are of a trial
    large = [(False, 60), (False, 333), (False, 333), (False, 334)]
    assert found == [(True, 90), (True, 90), *large, (True, 60)]


def test_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.trace(0.9), gx.scale(-0.1))
    text = gx.explain(tx, {"w": torch.ones(8)})
    assert "torch operations" in text.splitlines()[1]
    assert "multi-tensor, 1 pass" in text.splitlines()[2]
    assert text.splitlines()[-1] == "not compiled: nothing compiles here"
    with caplog.at_level(logging.INFO, logger="gradtx"):
        run_both(gx.sgd(0.1))
    (said,) = [r.getMessage() for r in caplog.records if "gradtx.fuse" in r.getMessage()]
    assert said.endswith("runs as multi-tensor operations: nothing compiles here")
