"""The step function: what it keeps between calls, what it takes, what it refuses."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import gradtx as gx
from gradtx.fuse.frontend import trace as tracing
from gradtx.fuse.runtime import engine
from tests.fuse.helpers import assert_same, copy, run_both, tensors


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The signatures that were traced; nothing is known at first."""
    engine._first.cache_clear()
    seen: list[Any] = []
    run = tracing._run

    def counted(tx: Any, skeleton: Any, signature: Any, *rest: Any) -> Any:
        seen.append(signature)
        return run(tx, skeleton, signature, *rest)

    monkeypatch.setattr(tracing, "_run", counted)
    return seen


def test_no_trace_after_the_first_step(traces: list[Any]) -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    step = gx.fuse(tx)
    for n in range(2, 102):
        shapes = {str(i): (n + i, 2) for i in range(1 + n % 4)}
        params = tensors(shapes, 0)
        hyper = {"lr": 1.0 / n, "b1": 0.9 - 1e-3 * n, "max_norm": float(n)}
        step(params, tensors(shapes, n), tx.init(params), hyper=hyper)
    assert len(traces) == 2  # one signature, two sizes
    assert step.report() == "everything is fused"


def step_once(tx: gx.GradientTransformation, dtype: torch.dtype = torch.float32) -> Any:
    step = gx.fuse(tx)
    params = {"w": torch.ones(4, 3, dtype=dtype)}
    step(params, {"w": torch.ones(4, 3, dtype=dtype)}, tx.init(params))
    return step


def test_an_equal_chain_is_not_traced_again(traces: list[Any]) -> None:
    for _ in range(3):
        step_once(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)))
    assert len(traces) == 2
    step_once(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1, nesterov=True)))
    assert len(traces) == 4


def test_of_an_equal_chain_only_ones_own_leaves_are_reported() -> None:
    @dataclass(frozen=True)
    class single(gx.LeafTransform):
        def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Any) -> Any:
            return (u.cumsum(0) if u.dtype == torch.float64 else 2 * u), s

    tx = gx.chain(single(), gx.sgd(0.1))
    assert "single" in step_once(tx, torch.float64).report()
    assert step_once(tx).report() == "everything is fused"


def test_what_a_chain_holds_is_not_kept_alive() -> None:
    def step() -> weakref.ref[torch.nn.Module]:
        model = torch.nn.Linear(2, 2)
        step_once(
            gx.chain(gx.masked(gx.scale(2.0), lambda leaf: leaf.name in dir(model)), gx.sgd(1.0))
        )
        return weakref.ref(model)

    there = step()
    gc.collect()
    assert there() is None


def test_values_and_tensors_are_updated_in_place() -> None:
    tx = gx.adamw(0.1)
    params = tensors({"w": (4, 3)}, 0)
    state = tx.init(params)
    leaf, mu, count = params["w"], state["scale_by_adam"]["w"].mu, state["scale_by_adam"]["w"].step
    before = leaf.clone()
    new_params, new_state = gx.fuse(tx)(params, tensors({"w": (4, 3)}, 1), state)
    assert new_params["w"] is leaf
    assert new_state["scale_by_adam"]["w"].mu is mu
    assert count.item() == 1
    assert not torch.equal(leaf, before)


def test_autograd_sees_the_change() -> None:
    p = torch.ones(3, requires_grad=True)
    loss = (p * p).sum()
    gx.fuse(gx.scale(-1.0))({"p": p}, {"p": torch.ones(3)}, ())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "hyper",
    [
        {"lr": 0.5},
        {"scale_by_learning_rate.lr": 0.25, "lr": 7.0},
        {"lr": torch.tensor(0.5), "b2": torch.tensor(0.9, dtype=torch.float64)},
        {"lr": {"a": 0.5, "b": 0.1}},
        {"lr": {"a": None, "b": 0.1}, "eps": 1e-3},
    ],
)
def test_hyper(hyper: dict[str, Any]) -> None:
    fused, pure, step = run_both(gx.adamw(0.1), {"a": (5,), "b": (4, 2)}, hyper=hyper)
    assert_same(fused, pure)
    assert step.report() == "everything is fused"


def test_hyper_overrides_a_schedule() -> None:
    tx = gx.sgd(gx.schedules.linear(1.0, 0.0, 10))
    fused, pure, _ = run_both(tx, hyper={"lr": 0.125})
    assert_same(fused, pure)


@pytest.mark.parametrize("fused", [False, True])
def test_hyper_of_a_tree_transform_is_the_same_for_all_leaves(fused: bool) -> None:
    tx, params = gx.clip_by_global_norm(1.0), tensors({"a": (5,), "b": (4,)}, 0)
    hyper = {"max_norm": {"a": 0.1, "b": 100.0}}
    update = gx.fuse(tx) if fused else tx.update
    trees = (params, copy(params), tx.init(params))
    with pytest.raises(ValueError, match="max_norm must be the same for all leaves"):
        update(*(trees if fused else (*trees[1:], params)), hyper=hyper)


def test_a_value_outside_its_interval_changes_nothing() -> None:
    params = tensors({"w": (3,)}, 0)
    tx = gx.adamw(0.1)
    state, before = tx.init(params), copy(params)
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.5"):
        gx.fuse(tx)(params, params, state, hyper={"b1": 1.5})
    assert_same((params, state), (before, tx.init(before)))


def test_leaves_without_gradient_keep_their_state() -> None:
    tx = gx.adamw(0.1)
    params = tensors({"a": (3,), "b": (4,)}, 0)
    before, state, step = copy(params), tx.init(params), gx.fuse(tx)
    step(params, {"a": torch.ones(3), "b": None}, state)
    step(params, {"a": None, "b": torch.ones(4)}, state)
    step(params, {"a": torch.ones(3), "b": None}, state)
    assert state["scale_by_adam"]["a"].step == 2
    assert state["scale_by_adam"]["b"].step == 1
    assert not torch.equal(params["b"], before["b"])


@pytest.mark.parametrize("view", ["grad", "param", "both", "slice", "channels_last"])
def test_memory_layouts(view: str) -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1))
    p, g = torch.randn(4, 3, 6, 5), torch.randn(4, 3, 6, 5)
    if view in ("param", "both"):
        p = torch.randn(5, 6, 3, 4).permute(3, 2, 1, 0)
    if view in ("grad", "both"):
        g = torch.randn(5, 6, 3, 4).permute(3, 2, 1, 0)
    if view == "slice":
        p = torch.randn(4, 3, 6, 10)[..., ::2]
    if view == "channels_last":
        p = p.to(memory_format=torch.channels_last)
    state, want = tx.init({"p": p}), {"p": p.clone()}
    pure_state = tx.init(want)
    step = gx.fuse(tx)
    for _ in range(2):
        step({"p": p}, {"p": g}, state)
        updates, pure_state = tx.update({"p": g}, pure_state, want)
        want = gx.apply_updates(want, updates)
    torch.testing.assert_close(p, want["p"], rtol=1e-5, atol=1e-6)
    assert step.report() == "everything is fused"


def test_gradients_that_move_between_steps() -> None:
    tx = gx.sgd(1.0)
    p, step = torch.zeros(6), gx.fuse(tx)
    state = tx.init({"p": p})
    for g in (torch.ones(6), torch.ones(12)[::2], torch.ones(6), torch.ones(12)[::2]):
        step({"p": p}, {"p": g}, state)
    assert p.tolist() == [-4.0] * 6


def test_other_gradient_dtype_at_a_later_step() -> None:
    tx, p = gx.sgd(1.0), torch.zeros(4)
    step, state = gx.fuse(tx), tx.init({"p": p})
    step({"p": p}, {"p": torch.ones(4)}, state)
    step({"p": p}, {"p": torch.ones(4, dtype=torch.bfloat16)}, state)
    assert p.tolist() == [-2.0] * 4


@pytest.mark.parametrize("case", ["twice", "overlap"])
def test_parameters_that_share_memory_are_refused(case: str) -> None:
    base = torch.arange(8.0)
    params = {"a": base[:4], "b": base[:4] if case == "twice" else base[2:6]}
    step = gx.fuse(gx.sgd(0.5))
    with pytest.raises(ValueError, match="parameters 'a' and 'b' share memory"):
        step(params, {"a": torch.ones(4), "b": torch.ones(4)}, step.transform.init(params))
    assert base.tolist() == list(range(8))


def test_gradients_in_the_memory_of_parameters_run_as_torch_operations() -> None:
    base = torch.arange(8.0)
    tx = gx.sgd(0.5)
    params = {"a": base[:4], "b": base[4:].clone()}
    grads = {"a": torch.ones(4), "b": base[1:5]}
    step = gx.fuse(tx)
    want = gx.apply_updates(params, tx.update(grads, tx.init(params), params)[0])
    want = copy(want)
    got, _ = step(params, grads, tx.init(params))
    assert "memory" in step.report()
    assert_same(got, want)


def test_threads_do_not_change_the_numbers() -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(), gx.cautious_mask())
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        fused, _, _ = run_both(tx, {"a": (200_000,), "b": (300, 77)}, steps=2)
        results.append(fused)
    torch.set_num_threads(1)
    for x, y in zip(gx.tree.leaves(results[0]), gx.tree.leaves(results[1]), strict=True):
        assert torch.equal(x, y)


# -- what cannot be fused -----------------------------------------------------------------------


def _in_place(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    return gx.tree.map(lambda u: u.clone().mul_(2.0), updates), state


def _branches(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    return gx.tree.map(lambda u: u * 2 if bool(u.sum() > 0) else u, updates), state


def _mixes_leaves(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    norm = gx.tree.global_norm(updates)
    return gx.tree.map(lambda u: u / norm, updates), state


def _reads_sizes(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    return gx.tree.map(lambda u: u * u.shape[-1] ** 0.5, updates), state


def _reads_names(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    return gx.tree.map_with_name(lambda n, u: u * (2.0 if n == "b" else 1.0), updates), state


def _sorts(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
    return gx.tree.map(lambda u: torch.sort(u.reshape(-1))[0].reshape(u.shape), updates), state


@dataclass(frozen=True)
class separable(gx.transformation):
    """A function that says it treats leaves one by one."""

    execution: ClassVar[gx.Execution] = gx.Execution(leaves_independent=True)


REFUSED = {
    "in place": (_in_place, "in place"),
    "branches": (_branches, "value"),
    "mixes leaves": (_mixes_leaves, "different numbers"),
    "reads sizes": (_reads_sizes, "size"),
    "reads names": (_reads_names, "names"),
    "sorts": (_sorts, "no fused form"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_members_run_between_fused_parts(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    update, word = REFUSED[name]
    odd = separable(lambda params: (), update, label="odd")
    tx = gx.chain(gx.trace(0.9), odd, gx.scale_by_adam(), gx.scale(-0.1))
    with caplog.at_level(logging.INFO, logger="gradtx"):
        fused, pure, step = run_both(tx, steps=5)
    assert_same(fused, pure)
    assert step.report().startswith("odd: ")
    assert word in step.report()
    assert sum("odd" in r.getMessage() for r in caplog.records) == 1


def test_functions_of_whole_trees_are_not_fused() -> None:
    def by_count(updates: Any, params: Any) -> Any:  # the same on every small leaf
        large = sum((u > 5).sum() for u in gx.tree.leaves(updates))
        return gx.tree.map(lambda u: u / (1 + large), updates)

    fused, pure, step = run_both(gx.chain(gx.scale(100.0), gx.stateless(by_count)))
    assert_same(fused, pure)
    assert "several leaves" in step.report()


def test_small_learning_rates_hide_nothing() -> None:
    odd = separable(lambda params: (), _mixes_leaves, label="odd")
    tx = gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(1e-6), odd, gx.scale(1e-5))
    _, _, step = run_both(tx)
    assert step.report() == "odd: fused and pure give different numbers on a test leaf"


def test_the_number_of_elements_may_be_used() -> None:
    scaled = gx.stateless_with_tree_map(lambda x, p: x / x.numel())
    fused, pure, step = run_both(gx.chain(scaled, gx.trace(0.5)))
    assert_same(fused, pure)
    assert step.report() == "everything is fused"


def test_nothing_is_written_when_a_member_raises() -> None:
    calls = []

    def fails_later(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        calls.append(isinstance(updates, dict))
        if sum(calls) > 1:
            raise RuntimeError("out of luck")
        return gx.tree.map(lambda u: u.clone().neg_(), updates), state

    tx = gx.chain(gx.trace(0.9), separable(lambda p: (), fails_later), gx.scale_by_adam())
    params = tensors({"w": (5,)}, 0)
    state, step = tx.init(params), gx.fuse(tx)
    params, state = step(params, tensors({"w": (5,)}, 1), state)
    before = copy((params, state))
    with pytest.raises(RuntimeError, match="out of luck"):
        step(params, tensors({"w": (5,)}, 2), state)
    assert_same((params, state), before, rtol=0, atol=0)


def test_structured_updates_run_unfused() -> None:
    def sparse(u: Tensor) -> gx.SparseUpdate:
        return gx.SparseUpdate(torch.tensor([0]), u.reshape(-1)[:1], tuple(u.shape))

    tx = gx.chain(
        gx.trace(0.5),
        gx.stateless_with_tree_map(lambda u, p: sparse(u)),
        gx.scale(-1.0),
        gx.densify(),
    )
    fused, pure, step = run_both(tx, {"w": (4,)})
    assert_same(fused, pure)
    assert "SparseUpdate" in step.report()


def test_extra_arguments() -> None:
    def by_loss(updates: Any, state: Any, params: Any, value: Tensor, **_: Any) -> Any:
        return gx.tree.map(lambda u: u * value, updates), state

    tx = gx.chain(gx.trace(0.9), separable(lambda p: (), by_loss))
    fused, pure, step = run_both(tx, value=torch.tensor(0.25))
    assert_same(fused, pure)
    assert step.report() == "everything is fused"
    fused, pure, step = run_both(tx, value=torch.tensor(0.25), grad_fn=abs)
    assert_same(fused, pure)
    assert "grad_fn" in step.report()


def test_user_transform_is_fused() -> None:
    from tests.fuse.user import scale_by_softsign

    fused, pure, step = run_both(gx.chain(scale_by_softsign(), gx.scale(-1.0)))
    assert_same(fused, pure)
    assert step.report() == "everything is fused"


def test_explain_of_a_lone_partition() -> None:
    tx = gx.partition(
        {"m": gx.scale(-1.0), "o": gx.trace(0.9)}, by=lambda info: "mo"[info.ndim < 2]
    )
    text = gx.explain(tx, {"w": torch.ones(4, 4), "b": torch.ones(4)})
    assert "partition                 fused, 1 pass" in text


def test_a_class_that_declares_no_fields_is_what_its_instances_hold() -> None:
    class times(gx.LeafTransform):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Any) -> Any:
            return u * self.factor, s

    assert times(2.0) == times(2.0) != times(3.0)
    for factor in (2.0, 3.0):
        params = {"w": torch.zeros(3)}
        gx.fuse(times(factor))(params, {"w": torch.ones(3)}, ())
        assert params["w"].tolist() == [factor] * 3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("what", ["parameter", "gradient", "state", "hyperparameter"])
def test_derivatives_forwards_are_refused(what: str) -> None:
    """A step in place would drop them; nothing has changed."""
    tx = gx.sgd(0.1, momentum=0.9)
    step, params = gx.fuse(tx), {"w": torch.ones(3)}
    grads, state = {"w": torch.ones(3)}, tx.init(params)
    step(params, grads, state)
    before = params["w"].clone()
    with forward_ad.dual_level():
        given = {"parameter": params, "gradient": grads, "state": state, "hyperparameter": {}}
        dual = gx.tree.map(lambda x: forward_ad.make_dual(x, torch.ones_like(x)), given[what])
        if what == "hyperparameter":
            dual = {"lr": forward_ad.make_dual(torch.tensor(0.1), torch.tensor(1.0))}
        p, g, s, hyper = (dual if name == what else x for name, x in given.items())
        with pytest.raises(ValueError, match=f"cannot be differentiated, but a {what} has a tan"):
            step(p, g, s, hyper=hyper)
        torch.testing.assert_close(params["w"], before, rtol=0, atol=0)
        step(params, grads, state)  # what has none goes on
    assert not torch.equal(params["w"], before)
