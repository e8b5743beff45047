"""The schedule-free classes: two modes, and what is saved of them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import gradtx as gx

from .cases import (
    assert_close,
    assert_equal,
    assert_same_state,
    copies,
    parameters,
    run,
    set_gradients,
    snapshot,
)

CLASSES = {
    "AdamW": lambda params, **more: gx.optim.ScheduleFreeAdamW(params, lr=1e-2, **more),
    "AdamW with momentum": lambda params, **more: gx.optim.ScheduleFreeAdamW(
        params, lr=1e-2, inner_momentum=0.5, warmup_steps=3, weight_decay=0.1, **more
    ),
    "SGD": lambda params, **more: gx.optim.ScheduleFreeSGD(params, lr=1e-2, **more),
}
every = pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)


@every
@pytest.mark.parametrize("fused", [False, None])
def test_modes_hold_the_points_of_the_recipe(make, fused):
    params = parameters()
    opt = make(params, fused=fused)
    tx = opt.transform_of(opt.param_groups[0])
    hyper = {
        "AdamW": {"lr": 1e-2, "weight_decay": opt.param_groups[0]["weight_decay"]},
        "SGD": {"lr": 1e-2},
    }["AdamW" if "betas" in opt.defaults else "SGD"]
    if opt.defaults.get("inner_momentum"):
        hyper["scale_by_adam.b1"] = 0.5
    y = [p.detach().clone() for p in params]
    state = tx.init(y)
    for t in range(5):
        set_gradients(params, t)
        grads = [p.grad.clone() for p in params]
        opt.step()
        updates, state = tx.update(grads, state, y, hyper=hyper)
        y = gx.apply_updates(y, updates)
    assert_close(params, y)
    opt.eval()
    assert_close(params, gx.schedule_free_eval_params(state, y))
    opt.train()
    assert_close(params, y)


@every
def test_modes_repeat_and_steps_go_on(make):
    ours, other = parameters(), parameters()
    opt, plain = make(ours), make(other)
    opt.eval()
    assert_equal(ours, other)  # nothing has been averaged yet
    opt.train()
    run(opt, ours, range(4))
    run(plain, other, range(4))
    opt.train()
    assert_equal(ours, other)
    opt.eval()
    x = copies(ours)
    assert not torch.allclose(x[0], other[0])
    opt.eval()
    assert_equal(ours, x)
    opt.train()
    run(opt, ours, range(4, 8))
    run(plain, other, range(4, 8))
    assert_close(ours, other)


@every
def test_a_step_in_evaluation_is_refused(make):
    params = parameters()
    opt = make(params)
    run(opt, params, range(2))
    opt.eval()
    before, state = copies(params), snapshot(opt)
    set_gradients(params, 2)
    with pytest.raises(RuntimeError, match=r"ScheduleFree.*: step\(\) in evaluation mode; call tr"):
        opt.step()
    assert_equal(params, before)
    assert_same_state(snapshot(opt), state)
    opt.train()
    opt.step()


@every
def test_the_mode_is_saved(make):
    params = parameters()
    opt = make(params)
    run(opt, params, range(3))
    opt.eval()
    again = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = make(again)
    resumed.load_state_dict(opt.state_dict())
    with pytest.raises(RuntimeError, match="evaluation mode"):
        run(resumed, again, range(3, 4))
    for o, p in ((opt, params), (resumed, again)):
        o.train()
        run(o, p, range(3, 6))
    assert_equal(again, params)
    assert_same_state(snapshot(resumed), snapshot(opt))


@every
def test_copies_keep_the_mode(make):
    params = parameters()
    opt = make(params)
    run(opt, params, range(2))
    opt.eval()
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert [g["train_mode"] for g in twin.param_groups] == [False]
        twin.train()
        assert [g["train_mode"] for g in opt.param_groups] == [False]


@every
def test_saves_with_weights_only(make, tmp_path):
    params = parameters()
    opt = make(params)
    run(opt, params, range(2))
    torch.save(opt.state_dict(), tmp_path / "state.pt")
    opt.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_a_group_added_in_evaluation_is_in_evaluation():
    first, second = parameters(), parameters(seed=1)
    opt = gx.optim.ScheduleFreeSGD(first, lr=0.1)
    run(opt, first, range(2))
    opt.eval()
    opt.add_param_group({"params": second, "lr": 0.2})
    assert [g["train_mode"] for g in opt.param_groups] == [False, False]
    opt.train()
    run(opt, [*first, *second], range(2))
    assert [g["train_mode"] for g in opt.param_groups] == [True, True]


def test_groups_have_their_own_learning_rates_and_weights():
    a, b = parameters()[:2]
    together = gx.optim.ScheduleFreeSGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    c, d = parameters()[:2]
    apart = [gx.optim.ScheduleFreeSGD([c], lr=0.1), gx.optim.ScheduleFreeSGD([d], lr=0.5)]
    run(together, [a, b], range(4))
    for t in range(4):
        set_gradients([c, d], t)
        for opt in apart:
            opt.step()
    assert_close([a, b], [c, d])


def test_half_precision_parameters_keep_their_dtype():
    params = parameters(torch.bfloat16)
    opt = gx.optim.ScheduleFreeAdamW(params, lr=1e-2)
    run(opt, params, range(3))
    opt.eval()
    opt.train()
    assert all(p.dtype == torch.bfloat16 for p in params)
    assert opt.state[params[0]]["schedule_free"]["z"].dtype == torch.float32


def test_modes_keep_requires_grad_and_memory():
    params = parameters()
    opt = gx.optim.ScheduleFreeAdamW(params, lr=1e-2)
    run(opt, params, range(2))
    where = [p.data_ptr() for p in params]
    opt.eval()
    assert [p.data_ptr() for p in params] == where
    assert all(p.requires_grad and p.is_leaf for p in params)


def test_bad_options():
    for name, value in (("warmup_steps", -1), ("r", -0.5), ("betas", (0.0, 0.9))):
        with pytest.raises(ValueError, match=name):
            gx.optim.ScheduleFreeAdamW(parameters(), **{name: value})
