"""What ``step_in_backward`` refuses, before anything has changed."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.fuse import CannotFuseError
from gradtx.fuse.runtime.engine import Engine

from .cases import assert_equal, assert_same_state, parameters
from .in_backward import backward, snapshot


def halve(updates, params):
    return gx.tree.map(lambda u: u / 2, updates)


@pytest.mark.parametrize(
    ("member", "named"),
    [
        (gx.clip_by_global_norm(1.0), "clip_by_global_norm"),
        (gx.multi_steps(gx.clip_by_global_norm(1.0), 2), "multi_steps.clip_by_global_norm"),
        (gx.apply_if_finite(gx.scale(1.0)), "apply_if_finite"),
        (gx.skip_large_updates(gx.scale(1.0), 1.0), "skip_large_updates"),
        (gx.flatten(gx.scale(1.0)), "flatten"),
        (gx.stateless(halve), "stateless"),
        (gx.scale_by_prodigy(gx.scale_by_adam(), estimate_first=True), "scale_by_prodigy"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_members_that_need_all_leaves_are_refused(member, named):
    params = parameters()
    opt = gx.optim.from_transform(gx.chain(gx.trace(0.9), member), params)
    with pytest.raises(ValueError, match=f"step_in_backward: {named} needs all gradients at once"):
        gx.optim.step_in_backward(opt)
    assert not any(p._post_accumulate_grad_hooks for p in params)
    assert not opt._optimizer_step_pre_hooks
    backward(params, 0)
    assert all(p.grad is not None for p in params)


def test_two_members_that_sum_are_refused():
    tx = gx.partition(
        {x: gx.scale_by_prodigy(gx.identity()) for x in "ab"},
        by=lambda info: "ab"[info.ndim > 1],
    )
    with pytest.raises(ValueError, match="only one member may sum over leaves"):
        gx.optim.step_in_backward(gx.optim.from_transform(tx, parameters()))


def test_arguments_are_checked():
    opt = gx.optim.SGD(parameters())
    with pytest.raises(TypeError, match="needs a gradtx optimizer, got SGD"):
        gx.optim.step_in_backward(torch.optim.SGD(parameters()))
    for every in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="every must be an integer >= 1"):
            gx.optim.step_in_backward(opt, every=every)
    with pytest.raises(ValueError, match="differentiable"):
        gx.optim.step_in_backward(gx.optim.SGD(parameters(), differentiable=True))
    gx.optim.step_in_backward(opt)
    with pytest.raises(ValueError, match="steps in backward already"):
        gx.optim.step_in_backward(opt)


def test_closures_are_refused_before_they_run():
    params = parameters()
    opt = gx.optim.SGD(params)
    gx.optim.step_in_backward(opt)
    before, called = [p.detach().clone() for p in params], []
    for args, kwargs in ((((lambda: called.append(1)),), {}), ((), {"closure": called.append})):
        with pytest.raises(RuntimeError, match="takes no closure"):
            opt.step(*args, **kwargs)
    opt.step(None)
    assert_equal(params, before)
    assert not called


def test_a_gradient_scaler_is_refused_at_its_step():
    params = parameters()
    opt = gx.optim.AdamW(params)
    handle = gx.optim.step_in_backward(opt)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for unscale in (False, True):
        scaler.scale(sum(p.sum() for p in params)).backward()
        if unscale:
            scaler.unscale_(opt)
        with pytest.raises(RuntimeError, match="before a GradScaler can unscale them"):
            scaler.step(opt)
        assert not hasattr(opt, "grad_scale")
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    handle.remove()
    assert not hasattr(opt, "_step_supports_amp_scaling")
    scaler.scale(sum(p.sum() for p in params)).backward()
    scaler.step(opt)


def test_step_inside_backward_is_refused():
    params = parameters()
    opt = gx.optim.SGD(params)
    gx.optim.step_in_backward(opt)
    params[0].register_post_accumulate_grad_hook(lambda p: opt.step())
    with pytest.raises(RuntimeError, match="was called inside a backward pass"):
        backward(params, 0)


def test_evaluation_mode_is_refused():
    params = parameters()
    opt = gx.optim.ScheduleFreeAdamW(params)
    gx.optim.step_in_backward(opt)
    backward(params, 0)
    opt.eval()
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match="evaluation mode"):
        backward(params, 1)
    assert_equal(params, before)
    opt.zero_grad()
    opt.train()
    backward(params, 1)
    assert all(p.grad is None for p in params)


def test_a_bad_value_changes_nothing():
    params = parameters()
    opt = gx.optim.AdamW(params)
    gx.optim.step_in_backward(opt)
    backward(params, 0)
    before, state = [p.detach().clone() for p in params], snapshot(opt)
    opt.param_groups[0]["betas"] = (1.5, 0.9)
    with pytest.raises(ValueError, match=r"betas\[0\] must be in"):
        backward(params, 1)
    assert_equal(params, before)
    assert_same_state(snapshot(opt), state)


def test_a_sparse_gradient_is_refused():
    model = torch.nn.Embedding(4, 2, sparse=True)
    opt = gx.optim.SGD(model.parameters())
    gx.optim.step_in_backward(opt)
    with pytest.raises(gx.UnsupportedLeafError, match="sparse gradients are not supported"):
        model(torch.tensor([1])).sum().backward()


def test_fused_true_means_it(monkeypatch):
    def refuse(self, *args):
        raise CannotFuseError("", "of a test")

    monkeypatch.setattr(Engine, "prepare", refuse)
    for fused in (None, True):
        params = parameters()
        before = [p.detach().clone() for p in params]
        gx.optim.step_in_backward(gx.optim.SGD(params, fused=fused))
        if fused is None:
            backward(params, 0)
            assert not torch.equal(params[0], before[0])
            continue
        with pytest.raises(RuntimeError, match="fused=True, but of a test"):
            backward(params, 0)
        assert_equal(params, before)
