"""Loss scaling (contract 27)."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

from .cases import assert_close, assert_equal, assert_same_state, copies, parameters, run, snapshot


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)


def backward(params: list, loss_scale: float = 1.0) -> torch.Tensor:
    loss = sum((p * p).sum() + p.sum() for p in params)
    return loss * loss_scale


def test_unscaled_step_equals_a_plain_one(case):
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine), case.make(theirs)
    amp = scaler()
    for _ in range(4):
        opt.zero_grad()
        amp.scale(backward(mine)).backward()
        amp.step(opt)
        amp.update()
        plain.zero_grad()
        backward(theirs).backward()
        plain.step()
    assert_close(mine, theirs)
    assert amp.get_scale() == 2048.0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_overflow_skips_the_step(case, bad):
    params = parameters()
    opt = case.make(params)
    run(opt, params, range(2))
    values, state = copies(params), snapshot(opt)
    amp = scaler()
    opt.zero_grad()
    amp.scale(backward(params)).backward()
    params[1].grad[0] = bad
    assert amp.step(opt) is None
    amp.update()
    assert amp.get_scale() == 512.0
    assert_equal(params, values)
    assert_same_state(state, snapshot(opt))


def test_return_value_and_arguments_pass_through(case):
    params = parameters()
    opt = case.make(params)
    seen = []
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append((args, kwargs)))
    opt.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 4.5), {}))
    amp = scaler()
    amp.scale(backward(params)).backward()
    assert amp.step(opt) == 4.5
    assert seen == [((opt,), {})]
    with pytest.raises(RuntimeError, match=r"[Cc]losure"):
        amp.step(opt, closure=lambda: 1.0)


def test_unscale_then_clip_then_step(case):
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine), case.make(theirs)
    amp = scaler()
    for _ in range(3):
        opt.zero_grad()
        amp.scale(backward(mine)).backward()
        amp.unscale_(opt)
        norm = torch.nn.utils.clip_grad_norm_(mine, 0.5)
        amp.step(opt)
        amp.update()
        plain.zero_grad()
        backward(theirs).backward()
        assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(theirs, 0.5))
        plain.step()
    assert_close(mine, theirs, rtol=1e-5)


def test_the_scaler_does_not_expect_us_to_unscale(case):
    """No chain consumes ``grad_scale``/``found_inf``, so none may claim it."""
    opt = case.make(parameters())
    assert not getattr(opt, "_step_supports_amp_scaling", False)


def test_no_gradient_at_all(case):
    opt = case.make(parameters())
    amp = scaler()
    amp.scale(torch.ones(()))
    with pytest.raises((AssertionError, RuntimeError), match="No inf checks"):
        amp.step(opt)


def test_autocast_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    opt = gx.optim.AdamW(model.parameters(), lr=0.05)
    amp = scaler()
    x = torch.randn(32, 4)
    y = x.sum(1, keepdim=True)
    losses = []
    for _ in range(30):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.mse_loss(model(x).float(), y)
        amp.scale(loss).backward()
        amp.step(opt)
        amp.update()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
