"""deepcopy and pickle (contract 17)."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from .cases import assert_equal, assert_same_state, parameters, run, snapshot


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


copied = pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


def own(opt: torch.optim.Optimizer) -> list[Any]:
    return [p for group in opt.param_groups for p in group["params"]]


@copied
def test_the_copy_continues_by_itself(case, copied):
    params = parameters()
    opt = case.make([{"params": params[:2], "lr": 0.2}, {"params": params[2:]}])
    run(opt, params, range(3))
    other = copied(opt)
    assert type(other) is type(opt)
    assert other.defaults == opt.defaults
    assert_same_state(snapshot(opt), snapshot(other))
    before = snapshot(opt)
    run(other, own(other), range(3, 6))
    assert_same_state(before, snapshot(opt))
    run(opt, params, range(3, 6))
    assert_equal(params, own(other))
    assert repr(other) == repr(opt)


@copied
def test_copy_before_the_first_step(case, copied):
    params = parameters()
    opt = case.make(params)
    other = copied(opt)
    run(opt, params, range(2))
    run(other, own(other), range(2))
    assert_equal(params, own(other))
    other.add_param_group({"params": parameters(seed=2)})
    assert len(opt.param_groups) == 1


@copied
def test_public_attributes_are_copied(case, copied):
    opt = case.make(parameters())
    opt.tag = {"any": "thing"}
    other = copied(opt)
    assert other.tag == {"any": "thing"}
    public = {k for k in vars(opt) if not k.startswith("_")}
    assert public <= set(vars(other))


@copied
def test_hooks_are_dropped(case, copied):
    params = parameters()
    opt = case.make(params)
    calls = []
    opt.register_step_post_hook(Recorder(calls))
    opt.register_load_state_dict_pre_hook(Recorder(calls))
    other = copied(opt)
    run(other, own(other), range(1))
    other.load_state_dict(other.state_dict())
    assert calls == []
    run(opt, params, range(1))
    assert calls == ["called"]
    other.register_step_post_hook(Recorder(calls))
    other.step()
    assert calls == ["called", "called"]


class Recorder:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __call__(self, *args: Any) -> None:
        self.calls.append("called")


@copied
def test_copy_with_a_scheduler_attached(case, copied):
    params = parameters()
    opt = case.make(params)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    run(opt, params, range(2))
    scheduler.step()
    other = copied(opt)
    assert other.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
    run(other, own(other), range(2, 3))
    second = torch.optim.lr_scheduler.ExponentialLR(other, 0.5)
    run(other, own(other), range(3, 4))
    second.step()
    run(opt, params, range(2, 4))
    assert_equal(params, own(other))


def test_optimizer_and_scheduler_copied_together(case):
    params = parameters()
    opt = case.make(params)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    run(opt, params, range(1))
    scheduler.step()
    other, second = copy.deepcopy((opt, scheduler))
    assert second.optimizer is other
    for o, s in ((opt, scheduler), (other, second)):
        run(o, own(o), range(1, 3))
        s.step()
    assert_equal(params, own(other))
    assert opt.param_groups[0]["lr"] == other.param_groups[0]["lr"]
