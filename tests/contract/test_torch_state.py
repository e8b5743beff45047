"""State dicts of torch.optim's classes, read and written."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
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
from gradtx.optim.torch_names import of_torch

from .cases import assert_close, assert_equal, assert_same_state, leaves, run, snapshot

SHAPES = ((4, 3), (5,), (), (2, 3, 2))
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("SGD", {"lr": 0.1}),
    ("Adam", {"betas": (0.8, 0.99), "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "decoupled_weight_decay": True, "eps": 1e-6}),
    ("AdamW", {"weight_decay": 0.2}),
    ("AdamW", {"amsgrad": True, "lr": torch.tensor(0.01)}),
    ("NAdam", {"momentum_decay": 0.1}),
    ("RAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("Adamax", {}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("Adadelta", {"rho": 0.8}),
    ("RMSprop", {"alpha": 0.9}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adafactor", {"weight_decay": 0.1}),
    ("Muon", {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
]
each = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)]
)


def params_(name: str = "", dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = SHAPES[:1] if name == "Muon" else SHAPES
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def like(params: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def trained(room: Any, name: str, options: Any, steps: int = 3) -> tuple[list[Any], Any]:
    params = params_(name)
    opt = getattr(room, name)(params, **options)
    run(opt, params, range(steps))
    return params, opt


def same(a: Any, b: Any) -> bool:
    return bool((torch.as_tensor(a) == torch.as_tensor(b)).all()) if a is not None else b is None


@each
def test_from_torch_and_back(name: str, options: dict[str, Any]) -> None:
    """Values of states and groups survive; counters that torch does not use count from one."""
    params, theirs = trained(torch.optim, name, options)
    given = through_a_file(theirs.state_dict())
    kept = copy.deepcopy(given)
    ours = getattr(gx.optim, name)(q := like(params))
    ours.load_state_dict(given)
    assert_same_state(dict(leaves(kept["state"])), dict(leaves(given["state"])))
    back = gx.optim.to_torch_state_dict(ours)
    unused = of_torch()[name].unused
    for i, want in kept["state"].items():
        assert list(back["state"][i])[:1] == list(want)[:1]
        assert set(back["state"][i]) == set(want)
        for key, value in want.items():
            got = back["state"][i][key]
            assert (got.dtype, got.shape) == (value.dtype, value.shape)
            assert torch.equal(got, value) or key in unused
    (group,), (other,) = back["param_groups"], kept["param_groups"]
    assert group.keys() == other.keys()
    for key in group.keys() - {"foreach", "fused"}:
        assert group[key] == other[key] or same(group[key], other[key]), key
    again = getattr(torch.optim, name)(r := like(params))
    again.load_state_dict(through_a_file(back))
    run(theirs, params, range(3, 6))
    run(again, r, range(3, 6))
    assert_equal(params, r)
    run(ours, q, range(3, 6))
    assert_close(q, params, 1e-2 if name == "Muon" else 2e-5)  # torch iterates in bfloat16


@each
def test_to_torch_and_back(name: str, options: dict[str, Any]) -> None:
    params, ours = trained(gx.optim, name, options)
    saved = through_a_file(gx.optim.to_torch_state_dict(ours))
    theirs = getattr(torch.optim, name)(q := like(params))
    theirs.load_state_dict(saved)
    back = getattr(gx.optim, name)(r := like(params))
    back.load_state_dict(through_a_file(theirs.state_dict()))
    counters = {k for k in snapshot(ours) if k.endswith("damped_trace.step")}
    mine = {k: v for k, v in snapshot(ours).items() if k not in counters}
    assert_same_state(mine, {k: v for k, v in snapshot(back).items() if k not in counters})
    for opt, p in ((ours, params), (theirs, q), (back, r)):
        run(opt, p, range(3, 6))
    assert_equal(params, r)
    assert_close(q, params, 1e-2 if name == "Muon" else 2e-5)


def test_every_class_of_torch_that_is_here_has_names() -> None:
    both = {name for name in torch.optim.__dict__ if hasattr(gx.optim, name)}
    classes = {n for n in both if isinstance(getattr(torch.optim, n), type)}
    classes -= {"Optimizer", "LBFGS"}  # torch keeps pairs of all parameters under the first one
    assert classes == set(of_torch())
    assert {name for name, _ in CASES} == set(of_torch())


def test_half_precision_moments_widen() -> None:
    params = params_(dtype=torch.bfloat16)
    theirs = torch.optim.AdamW(params)
    run(theirs, params, range(2))
    ours = gx.optim.AdamW(q := like(params))
    ours.load_state_dict(theirs.state_dict())
    assert ours.state[q[0]]["scale_by_adam"]["mu"].dtype == torch.float32
    assert torch.equal(
        ours.state[q[0]]["scale_by_adam"]["mu"].bfloat16(), theirs.state[params[0]]["exp_avg"]
    )


def test_counters_may_be_numbers_and_states_may_be_missing() -> None:
    params, theirs = trained(torch.optim, "Adam", {})
    given = copy.deepcopy(theirs.state_dict())
    given["state"][0]["step"] = 3
    del given["state"][2]
    ours = gx.optim.Adam(q := like(params))
    ours.load_state_dict(given)
    assert ours.state[q[0]]["scale_by_adam"]["step"].dtype == torch.int32
    assert q[2] not in ours.state
    fresh, never = gx.optim.SGD(params_(), momentum=0.9), torch.optim.SGD(params_(), momentum=0.5)
    fresh.load_state_dict(never.state_dict())
    assert fresh.param_groups[0]["momentum"] == 0.5


def test_how_a_step_runs_is_not_taken_over() -> None:
    params = params_()
    theirs = torch.optim.AdamW(params, fused=True)
    run(theirs, params, range(1))
    ours = gx.optim.AdamW(like(params))
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["fused"] is None
    assert "decoupled_weight_decay" not in ours.param_groups[0]


def test_entries_of_schedulers_and_names_go_along() -> None:
    params = params_()
    ours = gx.optim.AdamW([("a", params[0]), ("b", params[1])])
    torch.optim.lr_scheduler.StepLR(ours, 3)
    (group,) = gx.optim.to_torch_state_dict(ours)["param_groups"]
    assert group["param_names"] == ["a", "b"]
    assert group["initial_lr"] == 1e-3
    assert "fallback" not in group


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: gx.optim.Lion(p), TypeError, "torch.optim has no Lion"),
        (lambda p: gx.optim.Muon(p, average=False), ValueError, "no option 'average'"),
        (lambda p: gx.optim.Muon(p, ns_coefficients="svd"), ValueError, "three ns_coefficients"),
        (lambda p: gx.optim.Muon(p), ValueError, r"keeps nothing like partition\.other\..*\(5,\)"),
    ],
)
def test_what_torch_does_not_have(
    make: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    params = params_()
    opt = make(params)
    run(opt, params, range(1))
    with pytest.raises(error, match=words):
        gx.optim.to_torch_state_dict(opt)


def linear(room: Any, name: str, like: Any = None) -> tuple[torch.nn.Module, Any]:
    """A layer, a copy of another one, and its optimizer."""
    torch.manual_seed(0)
    net = torch.nn.Linear(5, 3)
    if like is not None:
        net.load_state_dict(like.state_dict())
    options = {"momentum": 0.9} if name == "SGD" else {}
    return net, getattr(room, name)(net.parameters(), lr=0.05, **options)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_distributed_checkpoints_go_both_ways(name: str, tmp_path: Path) -> None:
    net, opt = linear(torch.optim, name)
    run(opt, list(net.parameters()), range(3))
    saved = {"optim": get_optimizer_state_dict(net, opt)}
    dcp.save(saved, checkpoint_id=tmp_path / "torch", no_dist=True)
    other, ours = linear(gx.optim, name, net)
    read = {"optim": get_optimizer_state_dict(*linear(torch.optim, name, net))}
    dcp.load(read, checkpoint_id=tmp_path / "torch", no_dist=True)
    set_optimizer_state_dict(other, ours, read["optim"])
    for room, params in ((opt, net.parameters()), (ours, other.parameters())):
        run(room, list(params), range(3, 6))
    assert_close(other.parameters(), net.parameters())

    exported = {"optim": gx.optim.to_torch_state_dict(ours)}
    dcp.save(exported, checkpoint_id=tmp_path / "gx", no_dist=True)
    last, theirs = linear(torch.optim, name, other)
    emptied = gx.tree.map(torch.zeros_like, exported["optim"]["state"])
    into = {"optim": {**exported["optim"], "state": emptied}}
    dcp.load(into, checkpoint_id=tmp_path / "gx", no_dist=True)
    theirs.load_state_dict(into["optim"])
    for room, params in ((ours, other.parameters()), (theirs, last.parameters())):
        run(room, list(params), range(6, 9))
    assert_close(last.parameters(), other.parameters())


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_flat_state_dicts_of_torch(name: str) -> None:
    net, opt = linear(torch.optim, name)
    opt.param_groups[0]["lr"] = 0.02
    run(opt, list(net.parameters()), range(3))
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    saved = copy.deepcopy(get_optimizer_state_dict(net, opt, options=flat))
    other, _ = linear(gx.optim, name, net)
    options = {"momentum": 0.9} if name == "SGD" else {}
    first, second = other.named_parameters()
    ours = getattr(gx.optim, name)([{"params": [first]}, {"params": [second]}], lr=0.5, **options)
    gx.optim.load_flat_state_dict(ours, saved)
    assert [group["lr"] for group in ours.param_groups] == [0.02, 0.02]
    for room, params in ((opt, net.parameters()), (ours, other.parameters())):
        run(room, list(params), range(3, 6))
    assert_close(other.parameters(), net.parameters())
    del saved["param_groups.bias.lr"]
    with pytest.raises(ValueError, match=r"does not fit: missing .*param_groups.bias.lr"):
        gx.optim.load_flat_state_dict(ours, saved)
