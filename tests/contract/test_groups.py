"""Parameter groups and their options (contract 3, 4, 5, 6, 25)."""

from __future__ import annotations

import copy

import pytest
import torch

import gradtx as gx

from .cases import (
    BY_NAME,
    POINTWISE,
    assert_close,
    assert_equal,
    copies,
    parameters,
    run,
    set_gradients,
    snapshot,
)

pointwise = pytest.mark.parametrize("case", POINTWISE, ids=lambda c: c.name)


def test_groups_are_filled_from_the_defaults(case):  # 3
    a, b = parameters()[:2]
    opt = case.make([{"params": [a], "lr": 0.5, "note": "kept"}, {"params": [b]}], lr=0.25)
    first, second = opt.param_groups
    assert (first["lr"], second["lr"]) == (0.5, 0.25)
    assert first["note"] == "kept"
    assert "note" not in second
    assert set(second) == {"params", *opt.defaults}


def test_defaults_are_not_changed_by_use(case):  # 3
    params = parameters()
    opt = case.make(params)
    before = copy.deepcopy(opt.defaults)
    torch.optim.lr_scheduler.StepLR(opt, 1)
    run(opt, params, range(2))
    opt.param_groups[0]["lr"] = 7.0
    opt.add_param_group({"params": parameters(seed=1), "lr": 3.0})
    opt.load_state_dict(opt.state_dict())
    assert opt.defaults == before


def test_every_dynamic_hyperparameter_is_an_option():  # 3
    tx = gx.chain(gx.trace(0.5), gx.scale_by_adam(0.8, 0.9, eps=1e-3), gx.trace(0.25))
    opt = gx.optim.from_transform(tx, parameters(), lr=0.1)
    group = opt.param_groups[0]
    assert group["betas"] == (0.8, 0.9)
    assert group["eps"] == 1e-3
    assert group["trace.decay"] == 0.5
    assert group["trace_1.decay"] == 0.25


def test_an_option_reaches_the_member_it_names():  # 3
    tx = gx.chain(gx.trace(0.5), gx.trace(0.25))
    mine, theirs = parameters(), parameters()
    changed = gx.optim.from_transform(tx, mine, lr=0.1)
    changed.param_groups[0]["trace_1.decay"] = 0.75
    other = gx.optim.from_transform(gx.chain(gx.trace(0.5), gx.trace(0.75)), theirs, lr=0.1)
    run(changed, mine, range(4))
    run(other, theirs, range(4))
    assert_equal(mine, theirs)


def test_group_added_after_steps(case):  # 4
    old, new = parameters()[:2], parameters(seed=3)[2:]
    opt = case.make(old)
    run(opt, old, range(2))
    before = snapshot(opt)
    opt.add_param_group({"params": new})
    assert opt.param_groups[1]["lr"] == opt.defaults["lr"]
    after = snapshot(opt)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p in opt.state for p in new)
    run(opt, old + new, range(2, 4))
    assert [len(opt.state[p]) > 0 for p in new] == [True] * len(new)


@pointwise
def test_group_added_after_steps_equals_separate_optimizers(case):  # 4
    a, b = parameters()[:2], parameters(seed=3)[2:]
    c, d = parameters()[:2], parameters(seed=3)[2:]
    joint = case.make(a)
    first, second = case.make(c), case.make(d)
    run(joint, a, range(2))
    run(first, c, range(2))
    joint.add_param_group({"params": b})
    for t in range(2, 5):
        set_gradients(a + b, t)
        set_gradients(c + d, t)
        joint.step()
        first.step()
        second.step()
    assert_equal(a + b, c + d)


@pointwise
def test_groups_with_own_options_equal_separate_optimizers(case):  # 3
    a, b = parameters()[:2], parameters()[2:]
    c, d = parameters()[:2], parameters()[2:]
    own = {"lr": 0.003, "maximize": True}
    if case.decays:
        own["weight_decay"] = 0.3
    joint = case.make([{"params": a}, {"params": b, **own}])
    first, second = case.make(c), case.make(d, **own)
    for t in range(5):
        set_gradients(a + b, t)
        set_gradients(c + d, t)
        joint.step()
        first.step()
        second.step()
    assert_equal(a + b, c + d)


@pytest.mark.parametrize("rate", [0.0, 1e-28])
def test_a_group_with_no_learning_rate_does_not_move(case, rate):
    a, b = parameters()[:2], parameters()[2:]
    opt = case.make([{"params": a, "lr": rate}, {"params": b}])
    still, moving = copies(a), copies(b)
    run(opt, a + b, range(4))
    assert_equal(a, still)
    assert not any(torch.equal(x, y) for x, y in zip(b, moving, strict=True))


def test_structural_options_may_differ_by_group():
    a, b = parameters()[:2], parameters()[2:]
    c, d = parameters()[:2], parameters()[2:]
    options = {"lr": 0.1, "fused": False}  # two chains at once are never fused
    joint = gx.optim.AdamW([{"params": a}, {"params": b, "amsgrad": True}], **options)
    first = gx.optim.AdamW(c, **options)
    second = gx.optim.AdamW(d, amsgrad=True, **options)
    for t in range(4):
        set_gradients(a + b, t)
        set_gradients(c + d, t)
        joint.step()
        first.step()
        second.step()
    assert_equal(a + b, c + d)


def test_lr_is_always_there(case):  # 5
    opt = case.make(parameters())
    assert opt.param_groups[0]["lr"] == 1e-2
    torch.optim.lr_scheduler.StepLR(opt, 1)


def test_lr_of_chains(case):  # 5
    make = gx.optim.from_transform
    assert make(gx.scale_by_adam(), parameters()).defaults["lr"] == 1e-3
    assert make(gx.chain(gx.scale_by_adam(), gx.scale(-1.0)), parameters()).defaults["lr"] == 1e-3
    assert make(gx.adamw(0.25), parameters()).defaults["lr"] == 0.25
    assert make(gx.adamw(0.25), parameters(), lr=0.5).defaults["lr"] == 0.5
    assert make(gx.adamw(gx.schedules.linear(0.1, 0.0, 9)), parameters()).defaults["lr"] == 1.0


def test_lr_multiplies_a_chain_with_a_schedule():  # 5
    schedule = gx.schedules.linear(0.1, 0.0, 9)
    mine, theirs = parameters(), parameters()
    start = copies(mine)
    half = gx.optim.from_transform(gx.adamw(schedule, weight_decay=0.0), mine, lr=0.5)
    whole = gx.optim.from_transform(gx.adamw(schedule, weight_decay=0.0), theirs)
    run(half, mine, range(1))
    run(whole, theirs, range(1))
    assert_close(
        [p - s for p, s in zip(mine, start, strict=True)],
        [(p - s) / 2 for p, s in zip(theirs, start, strict=True)],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "name, key",
    [
        ("AdamW", "betas"),
        ("SGD", "momentum"),
        ("Lion", "betas"),
        ("clip_adam_cautious", "betas"),
        ("multi_steps", "betas"),
        ("apply_if_finite", "momentum"),
    ],
)
def test_momentum_has_the_name_that_schedulers_look_for(name, key):  # 6
    opt = BY_NAME[name].make(parameters())
    assert key in opt.param_groups[0]
    assert key in opt.defaults


@pytest.mark.parametrize("kind", ["float", "tensor", "multiply", "fill"])
def test_a_new_lr_counts_from_the_next_step(case, kind):  # 25
    lr = torch.tensor(0.01) if kind == "fill" else 0.01
    mine, theirs = parameters(), parameters()
    opt, big = case.make(mine, lr=lr), case.make(theirs, lr=0.02)
    before, same = copies(mine), copies(theirs)
    group = opt.param_groups[0]
    if kind == "float":
        group["lr"] = 0.02
    elif kind == "tensor":
        group["lr"] = torch.tensor(0.02)
    elif kind == "multiply":
        group["lr"] *= 2
    else:
        group["lr"].fill_(0.02)
    for t in range(3):
        set_gradients(mine, t)
        set_gradients(theirs, t)
        opt.step()
        big.step()
    assert not all(torch.equal(x, y) for x, y in zip(mine, before, strict=True))
    assert_close(
        [p - s for p, s in zip(mine, before, strict=True)],
        [p - s for p, s in zip(theirs, same, strict=True)],
        rtol=1e-5,
    )


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensor_lr_equals_float_lr(case, shape, dtype):
    mine, theirs = parameters(), parameters()
    rate = torch.full(shape, 0.01, dtype=dtype)
    opt, plain = case.make(mine, lr=rate), case.make(theirs, lr=0.01)
    assert opt.param_groups[0]["lr"] is rate
    run(opt, mine, range(4))
    run(plain, theirs, range(4))
    assert_close(mine, theirs)
    assert all(p.dtype == torch.float32 for p in mine)
    assert opt.param_groups[0]["lr"] is rate
    assert rate.shape == shape


def test_tensor_options_besides_lr():
    mine, theirs = parameters(), parameters()
    opt = gx.optim.AdamW(
        mine,
        lr=torch.tensor(0.01),
        betas=(torch.tensor([[[0.9]]]), torch.tensor([[0.99]])),
        eps=torch.tensor(1e-6),
        weight_decay=torch.tensor(0.1),
    )
    plain = gx.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    run(opt, mine, range(4))
    run(plain, theirs, range(4))
    assert_close(mine, theirs, rtol=3e-6)


def test_groups_with_float_and_tensor_lr(case):
    a, b = parameters()[:2], parameters()[2:]
    c, d = parameters()[:2], parameters()[2:]
    mixed = case.make([{"params": a, "lr": torch.tensor(0.02)}, {"params": b}])
    plain = case.make([{"params": c, "lr": 0.02}, {"params": d}])
    run(mixed, a + b, range(4))
    run(plain, c + d, range(4))
    assert_close(a + b, c + d)


def test_momentum_switched_off_and_on_again():
    """The member that is switched off keeps its state, as torch keeps its buffer."""
    mine, theirs = parameters(), parameters()
    opt = gx.optim.SGD(mine, lr=0.1, momentum=0.9)
    plain = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for t in range(7):
        for o in (opt, plain):
            o.param_groups[0]["momentum"] = 0.0 if t in (2, 3) else 0.8
        run(opt, mine, range(t, t + 1))
        run(plain, theirs, range(t, t + 1))
    assert_close(mine, theirs)


@pytest.mark.parametrize(
    "option, member", [({"momentum": 0.5}, "trace"), ({"centered": True}, "scale_by_stddev")]
)
def test_a_member_switched_on_late_starts_fresh(option, member):
    params = parameters()
    opt = gx.optim.RMSprop(params, lr=0.1)
    run(opt, params, range(2))
    before = snapshot(opt)
    assert member not in opt.state[params[0]]
    opt.param_groups[0].update(option)
    run(opt, params, range(2, 4))
    assert member in opt.state[params[0]]
    assert set(before) <= set(snapshot(opt))
    assert all(torch.isfinite(p).all() for p in params)


def test_changing_options_do_not_pile_up_chains():
    """A scheduler that cycles the momentum must not fill a cache with one chain per value."""
    from gradtx.optim import recipe_optimizer

    params = parameters()[:1]
    opt = gx.optim.SGD(params, lr=0.1, momentum=0.9)
    set_gradients(params, 0)
    for t in range(1500):
        opt.param_groups[0]["momentum"] = 0.5 + t * 1e-4
        opt.transform_of(opt.param_groups[0])
    opt.step()
    sizes = [
        f.cache_info().currsize for f in vars(recipe_optimizer).values() if hasattr(f, "cache_info")
    ]
    assert max(sizes) <= 1024
