"""What Accelerate does to an optimizer; the pattern without it, the real thing where installed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import gradtx as gx

from ..contract.cases import CASES, IDS, assert_equal, copies, parameters, run

case_ = pytest.mark.parametrize("case", CASES, ids=IDS)


def move_to_device(data: Any) -> Any:
    """A recursive copy that rebuilds containers by their type."""
    if isinstance(data, (tuple, list)):
        return type(data)([move_to_device(x) for x in data])
    if isinstance(data, dict):
        return type(data)({k: move_to_device(v) for k, v in data.items()})
    return data.to("cpu") if isinstance(data, torch.Tensor) else data


@case_
@pytest.mark.parametrize("steps", [0, 2])
def test_own_state_moved_and_loaded(case, steps):
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine), case.make(theirs)
    run(opt, mine, range(steps))
    run(plain, theirs, range(steps))
    opt.load_state_dict(move_to_device(opt.state_dict()))
    run(opt, mine, range(steps, steps + 3))
    run(plain, theirs, range(steps, steps + 3))
    assert_equal(mine, theirs)


@case_
def test_parameters_replaced_in_the_groups(case):
    """State lives under the tensors that are in the groups now."""
    old, plain_params = parameters(), parameters()
    opt, plain = case.make(old), case.make(plain_params)
    new = [torch.nn.Parameter(p.detach().clone()) for p in old]
    mapping = dict(zip(old, new, strict=True))
    for group in opt.param_groups:
        group["params"] = [mapping[p] for p in group["params"]]
    before = copies(old)
    run(opt, new, range(3))
    run(plain, plain_params, range(3))
    assert_equal(new, plain_params)
    assert_equal(old, before)
    assert set(opt.state) == set(new)


@case_
def test_parameters_and_state_replaced_after_steps(case):
    old, plain_params = parameters(), parameters()
    opt, plain = case.make(old), case.make(plain_params)
    run(opt, old, range(2))
    run(plain, plain_params, range(2))
    new = [torch.nn.Parameter(p.detach().clone()) for p in old]
    for a, b in zip(old, new, strict=True):
        opt.state[b] = opt.state.pop(a)
    opt.param_groups[0]["params"] = new
    run(opt, new, range(2, 5))
    run(plain, plain_params, range(2, 5))
    assert_equal(new, plain_params)


@case_
def test_attributes_may_be_assigned(case):
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine), case.make(theirs)
    run(opt, mine, range(2))
    run(plain, theirs, range(2))
    opt.param_groups = opt.param_groups
    opt.state = copy.copy(opt.state)
    opt.defaults = dict(opt.defaults)
    run(opt, mine, range(2, 4))
    run(plain, theirs, range(2, 4))
    assert_equal(mine, theirs)


def test_prepare():
    accelerate = pytest.importorskip("accelerate")
    model = torch.nn.Linear(3, 1)
    opt = gx.optim.AdamW(model.parameters(), lr=0.1)
    model, opt = accelerate.Accelerator(cpu=True).prepare(model, opt)
    before = copies(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    opt.step()
    assert not torch.equal(before[0], next(iter(model.parameters())))
