"""Saving and loading (contract 14, 15, 16, 18, 19, 21, 23)."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

import gradtx as gx

from .cases import (
    BY_NAME,
    assert_equal,
    assert_same_state,
    copies,
    leaves,
    parameters,
    run,
    set_gradients,
    snapshot,
)


def saved_and_loaded(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def trained(case: Any, steps: int = 3, **options: Any) -> tuple[list[Any], torch.optim.Optimizer]:
    params = parameters()
    opt = case.make(params, **options)
    run(opt, params, range(steps))
    return params, opt


def like(params: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def test_layout(case):  # 14
    params, opt = trained(case)
    found = opt.state_dict()
    assert {"state", "param_groups"} <= set(found)
    assert set(found["state"]) == set(range(len(params)))
    for group in found["param_groups"]:
        assert group["params"] == list(range(len(params)))
    for key, value in leaves(found["state"]):
        assert type(value) in (torch.Tensor, int, float), key
    assert all(isinstance(k, torch.Tensor) for k in opt.state)
    assert isinstance(found["gradtx"]["version"], str)


def test_state_dict_is_deterministic(case):  # 14
    params, opt = trained(case)
    first, second = opt.state_dict(), opt.state_dict()
    assert [k for k, _ in leaves(first["state"])] == [k for k, _ in leaves(second["state"])]
    assert first["param_groups"] == second["param_groups"]
    again, other = trained(case)
    assert_same_state(snapshot(opt), snapshot(other))
    assert_equal(params, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_and_bits_survive(case, dtype):  # 15
    params = parameters(dtype)
    opt = case.make(params)
    run(opt, params, range(3))
    fresh = case.make(like(params))
    fresh.load_state_dict(saved_and_loaded(opt.state_dict()))
    assert_same_state(snapshot(opt), snapshot(fresh))


def test_the_table_has_the_dtypes_that_torch_would_cast():  # 15
    params = parameters(torch.bfloat16)
    opt = BY_NAME["odd_dtypes"].make(params)
    run(opt, params, range(1))
    got = {v.dtype for v in snapshot(opt).values()}
    assert {torch.uint8, torch.int16, torch.bool, torch.float32, torch.int32} <= got


def test_loading_moves_to_the_device_of_the_parameter(case):  # 16
    _, opt = trained(case)
    meta = [torch.nn.Parameter(torch.empty(p.shape, device="meta")) for p in parameters()]
    other = case.make(meta)
    other.load_state_dict(opt.state_dict())
    assert {v.device.type for _, v in leaves(other.state_dict()["state"])} == {"meta"}


def test_the_given_dict_is_left_alone(case):  # 16
    params, opt = trained(case)
    given = copy.deepcopy(opt.state_dict())
    kept = copy.deepcopy(given)
    fresh_params = like(params)
    fresh = case.make(fresh_params)
    fresh.load_state_dict(given)
    run(fresh, fresh_params, range(3, 6))
    with torch.no_grad():
        for _, value in leaves(fresh.state_dict()["state"]):
            value.zero_()
    fresh.param_groups[0]["lr"] = 9.0
    assert given.keys() == kept.keys()
    assert given["param_groups"] == kept["param_groups"]
    assert_same_state(dict(leaves(kept["state"])), dict(leaves(given["state"])))


def test_loading_its_own_dict_changes_nothing(case):  # 16
    params, opt = trained(case)
    before = snapshot(opt)
    opt.load_state_dict(opt.state_dict())
    assert_same_state(before, snapshot(opt))
    other_params, other = trained(case)
    run(opt, params, range(3, 5))
    run(other, other_params, range(3, 5))
    assert_equal(params, other_params)


def test_other_number_of_groups_or_parameters(case):  # 18
    _, opt = trained(case)
    a, b = parameters()[:2], parameters()[2:]
    with pytest.raises(ValueError, match="different number of parameter groups"):
        case.make([{"params": a}, {"params": b}]).load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        case.make(a).load_state_dict(opt.state_dict())


@pytest.mark.parametrize("marked", [True, False])
def test_state_of_another_chain_is_refused_with_names(marked):  # 18
    params = parameters()
    adam = gx.optim.from_transform(gx.scale_by_adam(), params, lr=0.1)
    run(adam, params, range(2))
    given = adam.state_dict()
    if not marked:  # as distributed checkpoints pass it on
        given = {k: given[k] for k in ("state", "param_groups")}
    momentum = gx.optim.from_transform(gx.trace(0.9), like(params), lr=0.1)
    with pytest.raises(ValueError, match=r"(?s)scale_by_adam.*trace|trace.*scale_by_adam"):
        momentum.load_state_dict(given)
    assert momentum.state_dict()["state"] == {}


def test_state_of_another_class_of_torchs_is_refused():  # 18
    params = parameters()
    theirs = torch.optim.Adagrad(params)
    run(theirs, params, range(1))
    ours = gx.optim.AdamW(like(params))
    with pytest.raises(ValueError, match=r"(?s)scale_by_adam.*sum"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict()["state"] == {}


def test_refused_loads_change_nothing(case):  # 18
    _, opt = trained(case)
    before, groups = snapshot(opt), copy.deepcopy(opt.state_dict()["param_groups"])
    bad = copy.deepcopy(opt.state_dict())
    bad["param_groups"][0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be in"):
        opt.load_state_dict(bad)
    bad = copy.deepcopy(opt.state_dict())
    bad["state"][3] = {"nobody": torch.ones(())}
    with pytest.raises(ValueError, match="nobody"):
        opt.load_state_dict(bad)
    assert_same_state(before, snapshot(opt))
    assert opt.state_dict()["param_groups"] == groups


@pytest.mark.parametrize("shape", [(7,), (4, 1), ()])
def test_state_tensor_of_another_shape_is_found_before_anything_changes(shape):  # 18
    params = parameters()
    opt = gx.optim.from_transform(gx.trace(0.9), params, lr=0.1)
    run(opt, params, range(1))
    bad = copy.deepcopy(opt.state_dict())
    bad["state"][0]["trace"]["trace"] = torch.ones(shape)
    values = copies(params)

    def load_and_step() -> None:
        opt.load_state_dict(bad)
        run(opt, params, range(1, 2))

    with pytest.raises((ValueError, RuntimeError), match=r"size|shape"):
        load_and_step()
    assert_equal(params, values)


def test_load_before_the_first_step_and_later(case):  # 19
    params, opt = trained(case)
    given = copy.deepcopy(opt.state_dict())
    for done in (0, 2):
        fresh_params = like(params)
        fresh = case.make(fresh_params)
        run(fresh, fresh_params, range(done))
        fresh.load_state_dict(given)
        assert_same_state(snapshot(opt), snapshot(fresh))


def test_missing_state_of_some_parameters(case):  # 19
    params = parameters()
    opt = case.make(params)
    for t in range(2):
        set_gradients(params, t)
        params[2].grad = None
        opt.step()
    fresh_params = like(params)
    fresh = case.make(fresh_params)
    fresh.load_state_dict(saved_and_loaded(opt.state_dict()))
    assert set(fresh.state_dict()["state"]) == {0, 1, 3}
    run(opt, params, range(2, 5))
    run(fresh, fresh_params, range(2, 5))
    assert_equal(params, fresh_params)


def test_older_dict_without_new_options(case):  # 19
    params, opt = trained(case)
    old = copy.deepcopy(opt.state_dict())
    for key in ("maximize", "foreach", "capturable", "differentiable", "fused"):
        del old["param_groups"][0][key]
    del old["gradtx"]
    fresh_params = like(params)
    fresh = case.make(fresh_params)
    fresh.load_state_dict(old)
    run(opt, params, range(3, 5))
    run(fresh, fresh_params, range(3, 5))
    assert_equal(params, fresh_params)


def test_unknown_group_entries_survive(case):  # 19
    params, opt = trained(case)
    opt.param_groups[0]["note"] = "mine"
    fresh = case.make(like(params))
    fresh.load_state_dict(opt.state_dict())
    assert fresh.param_groups[0]["note"] == "mine"


@pytest.mark.parametrize("saved_named", [False, True])
@pytest.mark.parametrize("live_named", [False, True])
def test_named_and_unnamed(case, saved_named, live_named):  # 19
    def make(params: list[Any], named: bool, prefix: str) -> torch.optim.Optimizer:
        return case.make([(f"{prefix}{i}", p) for i, p in enumerate(params)] if named else params)

    params = parameters()
    opt = make(params, saved_named, "old")
    run(opt, params, range(2))
    fresh_params = like(params)
    fresh = make(fresh_params, live_named, "new")
    fresh.load_state_dict(saved_and_loaded(opt.state_dict()))
    names = fresh.param_groups[0].get("param_names")
    if saved_named:
        assert names == [f"old{i}" for i in range(4)]
    elif live_named:
        assert names == [f"new{i}" for i in range(4)]
    else:
        assert names is None
    run(opt, params, range(2, 4))
    run(fresh, fresh_params, range(2, 4))
    assert_equal(params, fresh_params)


@pytest.mark.parametrize("grouped", [False, True])
def test_resume_is_bit_exact(case, grouped):  # 21
    def make(params: list[Any]) -> torch.optim.Optimizer:
        if not grouped:
            return case.make(params)
        return case.make([{"params": params[:1], "lr": 0.3}, {"params": params[1:]}])

    params = parameters()
    opt = make(params)
    run(opt, params, range(5))
    resumed_params = like(params)
    checkpoint = saved_and_loaded(opt.state_dict())
    run(opt, params, range(5, 9))
    torch.manual_seed(123)  # no global generator takes part
    resumed = make(resumed_params)
    resumed.load_state_dict(checkpoint)
    run(resumed, resumed_params, range(5, 9))
    assert_equal(params, resumed_params)
    assert_same_state(snapshot(opt), snapshot(resumed))


def test_group_options_are_restored(case):  # 21
    params, opt = trained(case)
    opt.param_groups[0]["lr"] = 0.125
    opt.param_groups[0]["maximize"] = True
    fresh_params = like(params)
    fresh = case.make(fresh_params)
    fresh.load_state_dict(saved_and_loaded(opt.state_dict()))
    assert fresh.param_groups[0]["lr"] == 0.125
    run(opt, params, range(3, 5))
    run(fresh, fresh_params, range(3, 5))
    assert_equal(params, fresh_params)


def test_tensor_lr_is_restored(case):  # 21
    params, opt = trained(case, lr=torch.tensor(0.03))
    fresh = case.make(like(params), lr=torch.tensor(0.5))
    given = opt.state_dict()
    fresh.load_state_dict(given)
    assert fresh.param_groups[0]["lr"].item() == pytest.approx(0.03)
    fresh.param_groups[0]["lr"].fill_(7.0)
    assert given["param_groups"][0]["lr"].item() == pytest.approx(0.03)


def test_swapped_in_parameters_and_state(case):  # 23
    params, opt = trained(case)
    expected_params, expected = trained(case)
    others = {str(i): p for i, p in enumerate(like(params))}
    given = copy.deepcopy(opt.state_dict())
    given = {k: given[k] for k in ("state", "param_groups")}
    before, values = snapshot(opt), copies(params)
    stateless = pytest.importorskip("torch.optim._stateless", reason="newer than this torch")
    with stateless.swap_in_optimizer_params_and_state(opt, others, given):
        run(opt, list(others.values()), range(3, 4))
    assert_same_state(before, snapshot(opt))
    assert_equal(params, values)
    run(expected, expected_params, range(3, 4))
    assert_equal(others.values(), expected_params)
