"""A step like the one before looks nothing up again; whatever changed in between is seen."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.errors import UnsupportedLeafError

from .cases import assert_close, assert_equal, copies, parameters, run, set_gradients

TorchAdamW = torch.optim.AdamW
Change = Callable[[torch.optim.Optimizer, list[Tensor]], None]


@pytest.fixture
def full_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows at every step that looks everything up."""
    seen: list[int] = []
    names = gx.optim.Optimizer._names

    def counted(self: Any) -> Any:
        seen.append(len(seen))
        return names(self)

    monkeypatch.setattr(gx.optim.Optimizer, "_names", counted)
    return seen


@pytest.mark.parametrize("lr", ["float", "tensor"])
def test_a_scheduler_costs_no_full_step(lr, full_steps):
    mine, theirs = parameters(), parameters()
    rate = 0.01 if lr == "float" else torch.tensor(0.01)
    for opt, params in (
        (gx.optim.AdamW(mine, lr=rate), mine),
        (TorchAdamW(theirs, lr=0.01), theirs),
    ):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=8)
        for t in range(7):
            run(opt, params, range(t, t + 1))
            scheduler.step()
    assert len(full_steps) == 1
    assert_close(mine, theirs, rtol=1e-5)


def test_a_changing_momentum_costs_no_full_step(full_steps):
    """``momentum`` also decides whether there is a momentum member."""
    mine, theirs = parameters(), parameters()
    for opt, params in (
        (gx.optim.SGD(mine, lr=0.1, momentum=0.9), mine),
        (torch.optim.SGD(theirs, lr=0.1, momentum=0.9), theirs),
    ):
        for t in range(6):
            opt.param_groups[0]["momentum"] = 0.9 - 0.1 * t
            run(opt, params, range(t, t + 1))
    assert len(full_steps) == 1
    assert_close(mine, theirs, rtol=1e-5)


def _append(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    params.append(torch.nn.Parameter(torch.ones(3)))
    opt.param_groups[0]["params"].append(params[-1])


def _remove(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    del opt.param_groups[0]["params"][1]


def _swap(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    new = torch.nn.Parameter(2 * params[0].detach())
    opt.param_groups[0]["params"][0] = params[0] = new


def _reverse(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    opt.param_groups[0]["params"].reverse()


def _add_group(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    params.append(torch.nn.Parameter(torch.ones(3)))
    opt.add_param_group({"params": [params[-1]], "lr": 0.5})


def _move(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})
    opt.param_groups[1]["params"] = [opt.param_groups[0]["params"].pop()]


def _options(**options: Any) -> Change:
    return lambda opt, params: opt.param_groups[0].update(options)


def _data(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    params[0].data = params[0].data + 1.0


def _freeze(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    params[1].requires_grad_(False)


def _reload(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    saved = opt.state_dict()
    saved["param_groups"][0]["lr"] = 0.5
    opt.load_state_dict(saved)


def _forget(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    del opt.state[params[0]]


def _forget_all(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    opt.state.clear()


def _first_moment(opt: torch.optim.Optimizer, p: Tensor) -> tuple[dict[str, Tensor], str]:
    state = opt.state[p]
    return (state, "exp_avg") if "exp_avg" in state else (state["scale_by_adam"], "mu")


def _moment(new: Callable[[Tensor], Tensor]) -> Change:
    def change(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
        state, key = _first_moment(opt, params[0])
        state[key] = new(state[key])

    return change


def _moment_data(opt: torch.optim.Optimizer, params: list[Tensor]) -> None:
    state, key = _first_moment(opt, params[0])
    state[key].data = state[key].data + 1.0


def _other_order(m: Tensor) -> Tensor:
    return m.mT.contiguous().mT + 1.0


CHANGES: dict[str, Change] = {
    "append": _append,
    "remove": _remove,
    "swap": _swap,
    "reverse": _reverse,
    "add a group": _add_group,
    "move to another group": _move,
    "lr": _options(lr=0.5),
    "betas": _options(betas=(0.5, 0.6)),
    "several": _options(lr=0.1, eps=1e-3, weight_decay=0.5),
    "maximize": _options(maximize=True),
    "data": _data,
    "freeze": _freeze,
    "reload": _reload,
    "forget": _forget,
    "forget all": _forget_all,
    "replace a moment": _moment(lambda m: m + 1.0),
    "a moment in another order": _moment(_other_order),
    "data of a moment": _moment_data,
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_between_steps_are_seen(name):
    results = []
    for cls in (gx.optim.AdamW, TorchAdamW):
        params = [torch.nn.Parameter(torch.ones(3, 4)), *parameters()]
        opt = cls(params, lr=0.01)
        run(opt, params, range(3))
        CHANGES[name](opt, params)
        for t in range(3, 6):
            set_gradients(params, t)
            for p in params:
                p.grad = p.grad if p.requires_grad else None
            opt.step()
        results.append(params)
    assert_close(*results, rtol=1e-5)


def test_data_in_another_order_at_the_same_address_is_seen():
    results = []
    for cls in (gx.optim.AdamW, TorchAdamW):
        params = [torch.nn.Parameter(torch.arange(16.0).reshape(4, 4))]
        opt = cls(params, lr=0.01)
        run(opt, params, range(2))
        params[0].data = params[0].data.t()
        run(opt, params, range(2, 4))
        results.append(params)
    assert_close(*results, rtol=1e-5)


def test_a_list_and_a_tensor_changed_in_place_are_seen():
    results = []
    for cls, lr in ((gx.optim.AdamW, torch.tensor([0.01])), (TorchAdamW, torch.tensor(0.01))):
        params = parameters()
        opt = cls(params, lr=lr)
        opt.param_groups[0]["betas"] = [0.9, 0.99]
        run(opt, params, range(3))
        opt.param_groups[0]["betas"][0] = 0.5
        opt.param_groups[0]["lr"].fill_(0.5)
        run(opt, params, range(3, 6))
        results.append(params)
    assert_close(*results, rtol=1e-5)


def test_a_structural_option_is_seen():
    results = []
    for cls in (gx.optim.SGD, torch.optim.SGD):
        params = parameters()
        opt = cls(params, lr=0.01)
        run(opt, params, range(3))
        opt.param_groups[0]["momentum"] = 0.5
        run(opt, params, range(3, 6))
        results.append(params)
    assert_close(*results, rtol=1e-5)


def test_other_kinds_of_gradients_are_seen():
    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda g: g,
        lambda g: g.mT.contiguous().mT,
        lambda g: g[:1].expand(g.shape),
        lambda g: torch.stack([g, g], -1)[..., 0],
        lambda g: g,
    ]
    mine = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
    theirs = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
    opt, plain = gx.optim.AdamW(mine, lr=0.01), gx.optim.AdamW(theirs, lr=0.01, fused=False)
    for t, kind in enumerate(kinds):
        for params in (mine, theirs):
            set_gradients(params, t)
            for p in params:
                p.grad = kind(p.grad)
        opt.step()
        plain.step()
    assert_close(mine, theirs, rtol=1e-5)
    mine[0].grad = torch.zeros(3, 4).to_sparse()
    before = copies(mine)
    with pytest.raises(UnsupportedLeafError, match="sparse"):
        opt.step()
    assert_equal(mine, before)


def test_a_bad_option_changes_nothing():
    params, theirs = parameters(), parameters()
    opt = gx.optim.AdamW(params, lr=0.01)
    run(opt, params, range(2))
    before = copies(params)
    opt.param_groups[0]["betas"] = (0.9, 1.5)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"betas\[1\] must be in \[0, 1\), got 1.5"):
            opt.step()
    assert_equal(params, before)
    opt.param_groups[0]["betas"] = (0.9, 0.999)
    run(opt, params, range(2, 4))
    run(TorchAdamW(theirs, lr=0.01), theirs, range(4))
    assert_close(params, theirs, rtol=1e-5)


def test_renamed_parameters_are_chosen_anew():
    tx = gx.partition(
        {"slow": gx.scale(0.25), "fast": gx.scale(1.0)},
        lambda info: "fast" if "head" in info.name else "slow",
    )
    p = torch.nn.Parameter(torch.zeros(2))
    opt = gx.optim.from_transform(tx, [("body", p)], lr=1.0)
    values = []
    for name in ("body", "body", "head", "head"):
        opt.param_groups[0]["param_names"][0] = name
        p.grad = torch.ones(2)
        opt.step()
        values.append(p[0].item())
    assert values == [-0.25, -0.5, -1.5, -2.5]


def test_another_chain_is_seen():
    p = torch.nn.Parameter(torch.zeros(2))
    opt = gx.optim.from_transform(gx.scale(1.0), [p], lr=1.0)
    p.grad = torch.ones(2)
    for _ in range(2):
        opt.step()
    opt.transform = gx.chain(gx.scale_by_sign(), gx.scale_by_learning_rate(1.0))
    p.grad = torch.full((2,), 0.5)
    opt.step()
    assert p.tolist() == [-3.0, -3.0]


def test_alternating_parameters():
    results = []
    for cls in (gx.optim.AdamW, TorchAdamW):
        params = parameters()
        opt = cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}], lr=0.01)
        for t in range(8):
            set_gradients(params, t)
            for p in (params[:2], params[1:], [])[t % 3]:
                p.grad = None
            opt.step()
        results.append(params)
    assert_close(*results, rtol=1e-5)


def by_loss(updates: Any, state: Any, params: Any, value: Tensor, **_: Any) -> Any:
    return gx.tree.map(lambda u: u * value, updates), state


def test_the_loss_is_passed_on():
    p = torch.nn.Parameter(torch.zeros(2))
    opt = gx.optim.from_transform(gx.transformation(lambda p: (), by_loss), [p], lr=1.0)
    p.grad = torch.ones(2)
    for t in range(4):
        opt.step(lambda t=t: torch.tensor(float(t)))
    assert p.tolist() == [-6.0, -6.0]


def test_the_loss_is_let_go():
    params = parameters()
    opt = gx.optim.AdamW(params)
    set_gradients(params, 0)
    for _ in range(2):
        loss = torch.tensor(1.0)
        opt.step(lambda loss=loss: loss)
    gone = weakref.ref(loss)
    del loss
    gc.collect()
    assert gone() is None


def test_the_optimizer_is_freed_at_once():
    params = parameters()
    opt = gx.optim.AdamW(params)
    run(opt, params, range(3))
    gone = weakref.ref(opt)
    gc.disable()
    try:
        del opt
        assert gone() is None
    finally:
        gc.enable()


def test_gradients_are_let_go():
    params = parameters()
    opt = gx.optim.AdamW(params)
    for t in range(3):
        set_gradients(params, t)
        opt.step()
        gone = weakref.ref(params[0].grad)
        opt.zero_grad()
        assert gone() is None
