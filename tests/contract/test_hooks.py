"""Hooks around step, state_dict and load_state_dict (contract 20)."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .cases import assert_equal, copies, parameters, run, set_gradients


def test_order_of_step_hooks(case):
    params = parameters()
    opt = case.make(params)
    seen: list[int] = []
    handles = [
        opt.register_step_pre_hook(lambda *_: seen.append(1)),
        register_optimizer_step_pre_hook(lambda *_: seen.append(0)),
        opt.register_step_post_hook(lambda *_: seen.append(2)),
        register_optimizer_step_post_hook(lambda *_: seen.append(5)),
    ]
    try:
        set_gradients(params, 0)
        opt.step()
        assert seen == [0, 1, 2, 5]
    finally:
        for handle in handles:
            handle.remove()
    opt.step()
    assert seen == [0, 1, 2, 5]


def test_step_hooks_see_the_values_before_and_after(case):
    params = parameters()
    opt = case.make(params)
    start, seen = copies(params), []
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append(copies(params)))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append(copies(params)))
    run(opt, params, range(1))
    assert_equal(seen[0], start)
    assert_equal(seen[1], params)
    assert len(seen) == 2


def test_step_pre_hook_may_replace_the_arguments(case):
    opt = case.make(parameters())
    opt.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 7.0), {}))
    assert opt.step(lambda: 3.0) == 7.0


def test_state_dict_hooks(case):
    opt = case.make(parameters())
    seen: list[str] = []
    opt.register_state_dict_pre_hook(lambda o: seen.append("pre"))
    opt.register_state_dict_pre_hook(lambda o: seen.append("first"), prepend=True)

    def mark(o: Any, state_dict: dict[str, Any]) -> None:
        seen.append("post")
        state_dict["marked"] = True

    opt.register_state_dict_post_hook(mark)
    assert opt.state_dict()["marked"] is True
    assert seen == ["first", "pre", "post"]


def test_state_dict_post_hook_may_replace_the_dict(case):
    opt = case.make(parameters())
    replacement = {"state": {}, "param_groups": [], "mine": 1}
    opt.register_state_dict_post_hook(lambda o, d: replacement)
    opt.register_state_dict_post_hook(lambda o, d: None)
    assert opt.state_dict() is replacement
    assert replacement.keys() == {"state", "param_groups", "mine"}


def test_state_dict_post_hook_sees_the_whole_dict(case):
    opt = case.make(parameters())
    seen: list[set[str]] = []
    opt.register_state_dict_post_hook(lambda o, d: seen.append(set(d)))
    keys = opt.state_dict().keys()
    assert seen == [set(keys)]


def test_load_pre_hook_may_change_or_replace(case):
    params = parameters()
    opt = case.make(params)
    run(opt, params, range(1))
    given = opt.state_dict()
    order: list[str] = []

    def replace(o: Any, d: dict[str, Any]) -> dict[str, Any]:
        order.append("replace")
        return {**d, "param_groups": [{**g, "lr": 0.75} for g in d["param_groups"]]}

    def change(o: Any, d: dict[str, Any]) -> None:
        order.append("change")
        d["param_groups"] = [{**g, "lr": 0.5} for g in d["param_groups"]]

    other = case.make(parameters())
    other.register_load_state_dict_pre_hook(replace)
    other.load_state_dict(given)
    assert other.param_groups[0]["lr"] == 0.75
    other.register_load_state_dict_pre_hook(change)
    other.load_state_dict(given)
    assert other.param_groups[0]["lr"] == 0.5
    other.register_load_state_dict_pre_hook(lambda o, d: order.append("front"), prepend=True)
    order.clear()
    other.load_state_dict(given)
    assert order == ["front", "replace", "change"]
    assert given["param_groups"][0]["lr"] == 1e-2


def test_load_post_hook_comes_last(case):
    params = parameters()
    opt = case.make(params)
    run(opt, params, range(1))
    other = case.make(parameters())
    seen: list[Any] = []

    def after(o: Any) -> None:
        seen.append((len(o.state), o.param_groups[0]["lr"]))
        o.param_groups[0]["lr"] = 0.5

    other.register_load_state_dict_post_hook(after)
    other.register_load_state_dict_post_hook(lambda o: seen.append("first"), prepend=True)
    other.load_state_dict(opt.state_dict())
    assert seen == ["first", (4, 1e-2)]
    assert other.param_groups[0]["lr"] == 0.5


def test_hooks_are_removable(case):
    opt = case.make(parameters())
    calls: list[int] = []
    handle = opt.register_state_dict_pre_hook(lambda o: calls.append(1))
    opt.state_dict()
    handle.remove()
    opt.state_dict()
    assert calls == [1]
    assert isinstance(opt, torch.optim.Optimizer)
