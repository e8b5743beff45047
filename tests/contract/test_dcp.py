"""Distributed checkpoints on one process (contract 22)."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import gradtx as gx

from .cases import assert_equal, assert_same_state, copies, leaves, run, snapshot

flat = pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))


def make(case: Any, net: torch.nn.Module, grouped: bool = False) -> torch.optim.Optimizer:
    if not grouped:
        return case.make(net.parameters())
    return case.make(
        [{"params": net[0].parameters(), "lr": 0.3}, {"params": [*net[1:].parameters()]}]
    )


def twin(net: torch.nn.Module) -> torch.nn.Module:
    other = model()
    other.load_state_dict(net.state_dict())
    return other


@flat
@pytest.mark.parametrize("grouped", [False, True])
def test_round_trip_into_a_fresh_optimizer(case, flat, grouped):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    net = model()
    opt = make(case, net, grouped)
    run(opt, list(net.parameters()), range(3))
    saved = copy.deepcopy(get_optimizer_state_dict(net, opt, options=options))
    if flat:
        values = [v for k, v in saved.items() if k.startswith("state.")]
        assert values
        assert all(type(v) in (torch.Tensor, int, float) for v in values)
    other = twin(net)
    fresh = make(case, other, grouped)
    values = copies(other.parameters())
    set_optimizer_state_dict(other, fresh, optim_state_dict=saved, options=options)
    assert_equal(other.parameters(), values)
    assert_same_state(snapshot(opt), snapshot(fresh))
    assert [g["lr"] for g in fresh.param_groups] == [g["lr"] for g in opt.param_groups]
    run(opt, list(net.parameters()), range(3, 6))
    run(fresh, list(other.parameters()), range(3, 6))
    assert_equal(net.parameters(), other.parameters())


@flat
def test_priming_does_not_move_parameters(case, flat):
    """A fresh optimizer is stepped once with zero gradients and lr 0 to make its state."""
    net = model()
    opt = make(case, net)
    values = copies(net.parameters())
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    saved = get_optimizer_state_dict(net, opt, options=options)
    assert_equal(net.parameters(), values)
    assert opt.param_groups[0]["lr"] == 1e-2
    assert all(torch.isfinite(v).all() for _, v in leaves(opt.state_dict()["state"]))
    assert saved


def test_equals_the_plain_round_trip(case):
    net = model()
    opt = make(case, net)
    run(opt, list(net.parameters()), range(3))
    one, two = twin(net), twin(net)
    first, second = make(case, one), make(case, two)
    first.load_state_dict(opt.state_dict())
    set_optimizer_state_dict(two, second, optim_state_dict=get_optimizer_state_dict(net, opt))
    assert_same_state(snapshot(first), snapshot(second))


@flat
def test_through_files(case, flat, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    net = model()
    opt = make(case, net)
    run(opt, list(net.parameters()), range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no process group": that is meant here
        dcp.save(
            {"optim": get_optimizer_state_dict(net, opt, options=options)},
            checkpoint_id=tmp_path,
            no_dist=True,
        )
        other = twin(net)
        fresh = make(case, other)
        loaded = {"optim": get_optimizer_state_dict(other, fresh, options=options)}
        dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, fresh, optim_state_dict=loaded["optim"], options=options)
    assert_same_state(snapshot(opt), snapshot(fresh))
    run(opt, list(net.parameters()), range(3, 5))
    run(fresh, list(other.parameters()), range(3, 5))
    assert_equal(net.parameters(), other.parameters())


def test_frozen_parameters(case):
    net = model()
    net[0].requires_grad_(False)
    trainable = [p for p in net.parameters() if p.requires_grad]
    opt = case.make(trainable)
    run(opt, trainable, range(2))
    saved = copy.deepcopy(get_optimizer_state_dict(net, opt))
    other = twin(net)
    other[0].requires_grad_(False)
    fresh = case.make([p for p in other.parameters() if p.requires_grad])
    set_optimizer_state_dict(other, fresh, optim_state_dict=saved)
    assert_same_state(snapshot(opt), snapshot(fresh))


COUNTED = gx.scale_by_schedule(lambda count: 1.0 / (1 + count))
SOME = gx.partition(
    {"matrix": gx.identity(), "vector": gx.trace(0.9)},
    by=lambda info: "matrix" if info.ndim > 1 else "vector",
)


@flat
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda ps: torch.optim.SGD(ps, lr=0.1),
        lambda ps: gx.optim.SGD(ps, lr=0.1),
        lambda ps: gx.optim.Fromage(ps, lr=0.1),
        lambda ps: gx.optim.from_transform(COUNTED, ps, lr=0.1),
        lambda ps: gx.optim.from_transform(SOME, ps, lr=0.1),
    ],
    ids=["torch", "SGD", "Fromage", "counted", "some"],
)
def test_leaves_of_which_nothing_is_kept(build, flat, offload):
    options = StateDictOptions(flatten_optimizer_state_dict=flat, cpu_offload=offload)
    net, other = model(), model()
    opt, fresh = build(list(net.named_parameters())), build(list(other.named_parameters()))
    for t in range(4):
        for n, p in net.named_parameters():
            late = n == "0.weight" and t < 2  # one that keeps nothing has not done a step
            p.grad = None if late else torch.full_like(p, t + 1.0)
        if t == 2:
            saved = copy.deepcopy(get_optimizer_state_dict(net, opt, options=options))
            other.load_state_dict(net.state_dict())
            set_optimizer_state_dict(other, fresh, optim_state_dict=saved, options=options)
        opt.step()
        if t > 1:
            for p, q in zip(other.parameters(), net.parameters(), strict=True):
                p.grad = q.grad
            fresh.step()
    assert_equal(net.parameters(), other.parameters())


def test_cpu_offload_and_full_state_dict(case):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    net = model()
    opt = make(case, net)
    run(opt, list(net.parameters()), range(2))
    saved = get_optimizer_state_dict(net, opt, options=options)
    other = twin(net)
    fresh = make(case, other)
    set_optimizer_state_dict(other, fresh, optim_state_dict=saved, options=options)
    assert_same_state(snapshot(opt), snapshot(fresh))
