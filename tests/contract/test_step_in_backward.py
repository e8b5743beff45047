"""``step_in_backward``: the numbers of ``step()``, and the memory of one gradient."""

from __future__ import annotations

import gc
import random
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.fuse.runtime.engine import Engine

from .cases import BY_NAME, Case, _chain, assert_close, assert_equal, parameters, run
from .in_backward import assert_same, backward, every_case, pair, plain_step, snapshot


@every_case
def test_numbers_and_state_are_those_of_step(case):
    hooked, plain, opt, reference = pair(case)
    shuffled = random.Random(0)
    gx.optim.step_in_backward(opt)
    for t in range(5):
        order = shuffled.sample(range(len(hooked)), len(hooked))
        backward(hooked, t, order)
        assert all(p.grad is None for p in hooked)
        plain_step(reference, plain, t)
        assert_same(case, opt, hooked, reference, plain)


@every_case
def test_leaves_without_a_gradient(case):
    """One joins late, one is missing in the middle."""
    hooked, plain, opt, reference = pair(case)
    gx.optim.step_in_backward(opt)
    for t, order in enumerate([[1, 2], [0, 1], [3, 1], [2], [0, 1, 2, 3], [3]]):
        backward(hooked, t, order)
        plain_step(reference, plain, t, order)
    assert_same(case, opt, hooked, reference, plain)


@every_case
def test_steps_of_both_kinds_may_follow_each_other(case):
    hooked, plain, opt, reference = pair(case)
    for t in range(0, 6, 2):
        plain_step(opt, hooked, t)
        with gx.optim.step_in_backward(opt):
            backward(hooked, t + 1)
        run(reference, plain, range(t, t + 2))
    assert_same(case, opt, hooked, reference, plain)


@every_case
def test_load_state_dict_between_passes(case):
    hooked, plain, opt, reference = pair(case)
    run(reference, plain, range(3))
    reference.zero_grad()
    gx.optim.step_in_backward(opt)
    backward(hooked, 9)
    with torch.no_grad():
        for p, q in zip(hooked, plain, strict=True):
            p.copy_(q)
    opt.load_state_dict(reference.state_dict())
    for t in range(3, 5):
        backward(hooked, t)
        plain_step(reference, plain, t)
    assert_same(case, opt, hooked, reference, plain)


@pytest.mark.parametrize("options", [{}, {"slice_p": 1, "growth_rate": 1.3}], ids=str)
def test_a_member_that_sums_over_leaves(options):
    """Prodigy: leaves use the last estimate, the next one follows when all are done."""
    tx = gx.prodigy_adv(d0=1e-2, stochastic_rounding=False, **options)
    hooked, plain = parameters(), parameters()
    opt, reference = (gx.optim.from_transform(tx, ps) for ps in (hooked, plain))
    gx.optim.step_in_backward(opt)
    estimates = []
    for t in range(6):
        backward(hooked, t, [2, 0, 3, 1])
        plain_step(reference, plain, t)
        assert_close(hooked, plain, rtol=1e-5)
        held = [opt.state[p]["scale_by_prodigy"]["shared"] for p in hooked]
        estimates.append(held[0]["d"].item())
        want = reference.state[plain[0]]["scale_by_prodigy"]["shared"]
        for name, value in want.items():
            for shared in held:
                torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=0)
    assert estimates[-1] > estimates[0] == 1e-2


def test_sums_with_a_learning_rate_that_is_zero_for_some():
    def make(params):
        groups = [{"params": params[:2], "lr": 0.0}, {"params": params[2:], "lr": 0.5}]
        tx = gx.prodigy_adv(d0=1e-2, stochastic_rounding=False, slice_p=1)
        return gx.optim.from_transform(tx, groups)

    hooked, plain = parameters(), parameters()
    opt, reference = make(hooked), make(plain)
    gx.optim.step_in_backward(opt)
    for t in range(4):
        backward(hooked, t)
        plain_step(reference, plain, t)
    assert_close(hooked, plain, rtol=1e-5)
    assert_equal(hooked[:2], parameters()[:2])


class SizeState(NamedTuple):
    size: Tensor


@dataclass(frozen=True)
class divide_by_last_size(gx.TreeTransform):
    """Updates over the (decaying) sum of squares of those of the step before, plus one."""

    execution = gx.Execution(
        leaves_independent=True,
        next_shared=gx.NextShared(
            gx.TreeState, "shared", lambda tx, *given: tx.next_shared(*given)
        ),
    )
    decay: gx.Hyper = gx.dynamic(0.5, within="[0, 1)")

    def init_tree(self, ps, infos):
        return None, SizeState(torch.zeros(()))

    def update_tree(self, us, leaves, shared, ps, h, reduce):
        total = reduce.sum(sum(u.square().sum() for u in us))
        out = [u / (1 + shared.size) for u in us]
        return out, None, SizeState(h.decay * shared.size + total)

    def next_shared(self, shared, sums, hyper, count):
        (decay,) = set(hyper["decay"]) if "decay" in hyper else (self.decay(count),)
        return SizeState(decay * shared.size + sums[0])


@pytest.mark.parametrize(
    "decay", [0.5, gx.schedules.linear(0.1, 0.9, 4)], ids=["number", "schedule"]
)
def test_a_summing_member_of_ones_own(decay):
    case = Case("own", _chain(lambda: gx.chain(gx.trace(0.9), divide_by_last_size(decay))))
    hooked, plain, opt, reference = pair(case)
    gx.optim.step_in_backward(opt)
    for t in range(5):
        backward(hooked, t)
        plain_step(reference, plain, t)
    assert_close(hooked, plain, rtol=1e-5)
    got, want = snapshot(opt), snapshot(reference)
    assert list(got) == list(want)
    assert any(name.endswith("shared.size") for name in got)
    assert any(name.endswith("divide_by_last_size.step") for name in got) is callable(decay)
    assert_close(got.values(), want.values(), rtol=1e-5)


def test_groups_with_their_own_values_and_chains():
    def make(params):
        groups = [
            {"params": params[:1], "lr": 0.5},
            {"params": params[1:3], "weight_decay": 0.3, "momentum": 0.0},
            {"params": params[3:], "maximize": True},
        ]
        return gx.optim.SGD(groups, lr=0.1, momentum=0.9)

    hooked, plain = parameters(), parameters()
    opt, reference = make(hooked), make(plain)
    gx.optim.step_in_backward(opt)
    for t in range(3):
        backward(hooked, t)
        plain_step(reference, plain, t)
    assert_close(hooked, plain)  # several chains are not fused in step()


# -- memory and time ---------------------------------------------------------------------------


def test_gradients_are_freed_at_once():
    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(6)])
    params = list(model.parameters())
    held, grads = [], []

    def look(p: Tensor) -> None:
        grads.append(weakref.ref(p.grad))
        held.append(sum(q.grad is not None for q in params))

    for p in params:
        p.register_post_accumulate_grad_hook(look)
    gx.optim.step_in_backward(gx.optim.AdamW(params))
    for _ in range(3):
        model(torch.ones(2, 8)).sum().backward()
        gc.collect()
        assert all(grad() is None for grad in grads)
    assert set(held) == {1}
    assert len(grads) == 3 * len(params)


def test_a_step_frees_gradients_too():
    """The fused engine must not keep what ``zero_grad`` frees."""
    params = parameters()
    opt = gx.optim.AdamW(params)
    run(opt, params, range(2))
    grads = [weakref.ref(p.grad) for p in params]
    opt.zero_grad()
    assert all(grad() is None for grad in grads)


def test_tables_are_kept_between_steps(monkeypatch):
    bound = []
    bind = Engine.bind
    monkeypatch.setattr(Engine, "bind", lambda self, batch: bound.append(1) or bind(self, batch))
    for case in (BY_NAME["AdamW"], BY_NAME["scheduled_momentum"]):
        bound.clear()
        params = parameters()
        gx.optim.step_in_backward(case.make(params))
        for t in range(5):
            backward(params, t)
        assert len(bound) == len(params), case.name
