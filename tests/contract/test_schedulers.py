"""Every torch scheduler on our optimizers, against torch's own (contract 24, 25, 26)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR, AveragedModel

import gradtx as gx

from .cases import BY_NAME, assert_close, assert_equal, parameters, run, set_gradients

STEPS = 12


def _shrink(epoch: int) -> float:
    return 0.9


def _decay(epoch: int) -> float:
    return 0.95**epoch


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lrs.LambdaLR(o, _decay),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, _shrink),
    "StepLR": lambda o: lrs.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [2, 5, 9], 0.5),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 5),
    "SequentialLR": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, 1.0, 4), lrs.ExponentialLR(o, 0.9)], [4]
    ),
    "ChainedScheduler": lambda o: lrs.ChainedScheduler(
        [lrs.ConstantLR(o, 0.5, 4), lrs.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 1e-3, 1e-1, 3, base_momentum=0.8, max_momentum=0.95),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 0.1, total_steps=STEPS + 1),
    "SWALR": lambda o: SWALR(o, 0.002, anneal_epochs=5),
}

PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "AdamW": (gx.optim.AdamW, torch.optim.AdamW),
    "SGD": (
        lambda ps, lr: gx.optim.SGD(ps, lr=lr, momentum=0.9),
        lambda ps, lr: torch.optim.SGD(ps, lr=lr, momentum=0.9),
    ),
    "chain": (
        lambda ps, lr: gx.optim.from_transform(
            gx.chain(gx.scale_by_adam(), gx.add_decayed_weights(0.01)), ps, lr=lr
        ),
        torch.optim.AdamW,
    ),
}


def advance(scheduler: Any, t: int) -> None:
    if isinstance(scheduler, lrs.ReduceLROnPlateau):
        scheduler.step(1.0 + 0.01 * t)  # never better: it keeps reducing
    else:
        scheduler.step()


@pytest.mark.parametrize("kind", ["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("pair", PAIRS)
def test_same_trajectory_as_torch(pair, name, kind):  # 24
    rate = [torch.tensor(0.05) if kind == "tensor" else 0.05 for _ in range(2)]
    ours, theirs = PAIRS[pair]
    mine, reference = parameters(), parameters()
    one, two = ours(mine, lr=rate[0]), theirs(reference, lr=rate[1])
    first, second = SCHEDULERS[name](one), SCHEDULERS[name](two)
    for t in range(STEPS):
        set_gradients(mine, t)
        set_gradients(reference, t)
        one.step()
        two.step()
        advance(first, t)
        advance(second, t)
        a, b = one.param_groups[0], two.param_groups[0]
        assert float(a["lr"]) == float(b["lr"])
        assert a.get("betas") == b.get("betas")
        assert a.get("momentum") == b.get("momentum")
        assert_close(mine, reference, rtol=5e-6)
    if kind == "tensor":
        assert one.param_groups[0]["lr"] is rate[0]
        assert torch.equal(rate[0], rate[1])


@pytest.mark.parametrize("name", ["StepLR", "ReduceLROnPlateau", "SequentialLR", "SWALR"])
def test_learning_rates_of_every_optimizer(case, name):  # 24
    params, reference = parameters(), parameters()
    opt, plain = case.make(params), torch.optim.SGD(reference, lr=1e-2)
    first, second = SCHEDULERS[name](opt), SCHEDULERS[name](plain)
    for t in range(STEPS):
        run(opt, params, range(t, t + 1))
        run(plain, reference, range(t, t + 1))
        advance(first, t)
        advance(second, t)
        assert opt.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
    assert all(torch.isfinite(p).all() for p in params)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
@pytest.mark.parametrize("which", ["AdamW", "SGD", "Lion", "clip_adam_cautious", "multi_steps"])
def test_momentum_is_cycled(name, which):  # 6
    params = parameters()
    opt = BY_NAME[which].make(params)
    scheduler = SCHEDULERS[name](opt)
    seen = set()
    for t in range(STEPS):
        run(opt, params, range(t, t + 1))
        scheduler.step()
        group = opt.param_groups[0]
        seen.add(group["betas"][0] if "betas" in group else group["momentum"])
    assert len(seen) > 4


def test_cycled_momentum_takes_effect():  # 6
    mine, theirs = parameters(), parameters()
    opt, plain = gx.optim.AdamW(mine, lr=0.1), gx.optim.AdamW(theirs, lr=0.1)
    run(opt, mine, range(2))
    run(plain, theirs, range(2))
    opt.param_groups[0]["betas"] = (0.5, 0.999)
    run(opt, mine, range(2, 3))
    run(plain, theirs, range(2, 3))
    assert not torch.equal(mine[0], theirs[0])


def test_scheduler_takes_only_optimizers():  # 24
    class Lookalike:
        def __init__(self) -> None:
            self.param_groups = [{"lr": 0.1}]

    with pytest.raises(TypeError, match="is not an Optimizer"):
        lrs.StepLR(Lookalike(), 1)


def test_groups_have_their_own_rates(case):  # 24
    a, b = parameters()[:2], parameters()[2:]
    opt = case.make([{"params": a, "lr": 0.4}, {"params": b}], lr=0.2)
    scheduler = lrs.LambdaLR(opt, [_decay, _shrink])
    for t in range(2):
        run(opt, a + b, range(t, t + 1))
        scheduler.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.4 * 0.95**2)
    assert opt.param_groups[1]["lr"] == pytest.approx(0.2 * 0.9)
    assert scheduler.get_last_lr() == [g["lr"] for g in opt.param_groups]


def test_wrong_order_is_noticed(case):  # 24
    """Schedulers wrap ``step`` on the instance to see whether it was called."""
    opt = case.make(parameters())
    scheduler = lrs.StepLR(opt, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_initial_lr_survives_a_round_trip(case):  # 25
    params = parameters()
    opt = case.make(params)
    scheduler = lrs.CosineAnnealingLR(opt, 10)
    for t in range(4):
        run(opt, params, range(t, t + 1))
        scheduler.step()
    saved = copy.deepcopy((opt.state_dict(), scheduler.state_dict()))
    assert saved[0]["param_groups"][0]["initial_lr"] == 1e-2
    fresh_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    fresh = case.make(fresh_params)
    fresh.load_state_dict(saved[0])
    assert fresh.param_groups[0]["initial_lr"] == 1e-2
    second = lrs.CosineAnnealingLR(fresh, 10, last_epoch=3)
    second.load_state_dict(saved[1])
    fresh.load_state_dict(saved[0])
    for t in range(4, 8):
        run(opt, params, range(t, t + 1))
        scheduler.step()
        run(fresh, fresh_params, range(t, t + 1))
        second.step()
    assert_equal(params, fresh_params)


def test_scheduler_equals_a_schedule_in_the_chain():  # 26
    """LambdaLR outside and the same function inside the chain give equal runs."""
    total = 8
    schedule = gx.schedules.linear(0.1, 0.02, total)
    mine, theirs = parameters(), parameters()
    inside = gx.optim.from_transform(gx.adamw(schedule), mine)
    outside = gx.optim.from_transform(gx.adamw(None), theirs, lr=1.0)
    scheduler = lrs.LambdaLR(outside, lambda t: schedule(t))
    for t in range(total):
        set_gradients(mine, t)
        set_gradients(theirs, t)
        inside.step()
        outside.step()
        scheduler.step()
        assert_close(mine, theirs, rtol=2e-6)


def test_scheduler_before_the_first_step_is_in_force():  # 24
    mine, theirs = parameters(), parameters()
    opt, small = gx.optim.SGD(mine, lr=0.1), gx.optim.SGD(theirs, lr=0.01)
    lrs.LinearLR(opt, 0.1)
    run(opt, mine, range(1))
    run(small, theirs, range(1))
    assert_close(mine, theirs)


def test_stochastic_weight_averaging(case):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    average = AveragedModel(model)
    opt = case.make(model.parameters())
    scheduler = SWALR(opt, 1e-3, anneal_epochs=2)
    seen = []
    for t in range(4):
        run(opt, list(model.parameters()), range(t, t + 1))
        average.update_parameters(model)
        scheduler.step()
        seen.append(model.weight.detach().clone())
    assert_close([average.module.weight.detach()], [torch.stack(seen).mean(0)])
    assert opt.param_groups[0]["lr"] == pytest.approx(1e-3)
