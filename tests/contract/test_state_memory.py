"""The state between steps: what it is made of and which memory it lies in (contract 12, 14, 16)."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import gradtx as gx

from .cases import assert_equal, assert_same_state, copies, leaves, parameters, run, snapshot


class Keeps(gx.LeafTransform):
    """Stores the very tensors it is given, as a pure transform may."""

    def init_leaf(self, p: Any, info: Any) -> Any:
        return gx.TraceState(p)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u + s.trace, gx.TraceState(u)


def test_state_shares_no_memory_with_parameters_or_gradients():
    """A transform may keep what it was given; the adapter writes in place and must not leak."""
    p = torch.nn.Parameter(torch.full((2,), 3.0))
    opt = gx.optim.from_transform(Keeps(), [p], lr=1.0)
    p.grad = torch.ones(2)
    opt.step()  # 3 - (1 + 3)
    assert p.tolist() == [-1.0, -1.0]
    opt.zero_grad(set_to_none=False)
    opt.step()  # -1 - (0 + 1): the gradient of the first step, not the zeroed one
    assert p.tolist() == [-2.0, -2.0]


def test_initial_state_is_a_snapshot_of_the_parameters():
    p = torch.nn.Parameter(torch.full((2,), 3.0))
    opt = gx.optim.from_transform(Keeps(), [p], lr=1.0)
    opt.init_state()
    with torch.no_grad():
        p.fill_(10.0)
    p.grad = torch.zeros(2)
    opt.step()
    assert p.tolist() == [7.0, 7.0]


class PairState(NamedTuple):
    now: torch.Tensor
    before: torch.Tensor


class Remembers(gx.LeafTransform):
    """Hands the older of two entries on: in-place writes must not overtake it."""

    def init_leaf(self, p: Any, info: Any) -> PairState:
        zeros = torch.zeros_like(p)
        return PairState(zeros, zeros)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u + s.before, PairState(u, s.now)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_entries_of_a_state_share_no_memory(capturable, early):
    p = torch.nn.Parameter(torch.zeros(1))
    opt = gx.optim.from_transform(Remembers(), [p], lr=1.0, capturable=capturable)
    if early:
        opt.init_state()
    seen = []
    for t in range(5):
        p.grad = torch.full((1,), 10.0**t)
        before = p.detach().clone()
        opt.step()
        seen.append((before - p).item())
    assert seen == [1.0, 10.0, 101.0, 1010.0, 10100.0]


@pytest.mark.parametrize("capturable", [False, True])
def test_init_state_makes_state_without_a_step(case, capturable):
    mine, theirs = parameters(), parameters()
    eager, lazy = case.make(mine, capturable=capturable), case.make(theirs)
    before = copies(mine)
    eager.init_state()
    assert set(eager.state) == set(mine)
    assert_equal(mine, before)
    run(eager, mine, range(3))
    run(lazy, theirs, range(3))
    assert_equal(mine, theirs)
    state = snapshot(eager)
    eager.init_state()
    assert_same_state(state, snapshot(eager))


def test_capturable_keeps_the_storage_of_the_state(case):
    """A captured graph writes where it wrote at capture."""
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine, capturable=True), case.make(theirs)
    run(opt, mine, range(2))
    where = {k: v.data_ptr() for k, v in leaves(opt.state_dict()["state"])}
    run(opt, mine, range(2, 4))
    assert where == {k: v.data_ptr() for k, v in leaves(opt.state_dict()["state"])}
    run(plain, theirs, range(4))
    assert_equal(mine, theirs)


def test_state_is_a_nested_dict_of_tensors_and_numbers(case):
    params = parameters()
    opt = case.make(params)
    run(opt, params, range(1))
    for p in params:
        assert opt.state[p]
        for key, value in leaves(opt.state[p]):
            assert isinstance(value, (torch.Tensor, int, float)), (key, type(value))
            assert type(value) in (torch.Tensor, int, float), key
