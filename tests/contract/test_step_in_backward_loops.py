"""``step_in_backward`` in training loops: accumulation, schedulers, tied weights, removal."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import gradtx as gx

from .cases import BY_NAME, assert_close, assert_equal, assert_same_state, parameters
from .in_backward import MORE, backward, pair, plain_step, snapshot


@pytest.mark.parametrize("case", [BY_NAME["AdamW"], MORE[0]], ids=lambda c: c.name)
def test_every_third_pass_steps(case):
    """A leaf that the last pass of a window leaves out is stepped all the same."""
    hooked, plain, opt, reference = pair(case)
    gx.optim.step_in_backward(opt, every=3)
    for window in range(3):
        before = [p.detach().clone() for p in hooked]
        orders = [[0, 1, 2], [3, 1], [1, 0]]
        for i, order in enumerate(orders):
            assert_equal(hooked, before)
            for params in (hooked, plain):
                backward(params, 3 * window + i, order)
        assert all(p.grad is None for p in hooked)
        reference.step()
        reference.zero_grad()
    assert_close(hooked, plain)
    assert_same_state(
        {k: v for k, v in snapshot(opt).items() if k.endswith("step")},
        {k: v for k, v in snapshot(reference).items() if k.endswith("step")},
    )


def test_step_ends_an_incomplete_window():
    hooked, plain, opt, reference = pair(BY_NAME["AdamW"])
    gx.optim.step_in_backward(opt, every=2)
    for t in range(3):
        backward(hooked, t)
    opt.step()
    assert all(p.grad is not None for p in hooked)
    opt.zero_grad()
    backward(hooked, 3)
    assert all(p.grad is not None for p in hooked)  # the first of a new window
    backward(hooked, 4)
    for times in ((0, 1), (2,), (3, 4)):
        for t in times:
            backward(plain, t)
        reference.step()
        reference.zero_grad()
    assert_close(hooked, plain)


# -- what else happens in training loops -------------------------------------------------------


def test_a_loop_that_still_calls_step_and_a_scheduler():
    hooked, plain, opt, reference = pair(BY_NAME["AdamW"])
    gx.optim.step_in_backward(opt)
    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 0.5**t) for o in (opt, reference)]
    for t in range(4):
        for o, params, scheduler in zip((opt, reference), (hooked, plain), schedulers, strict=True):
            backward(params, t)
            assert o.step() is None
            o.zero_grad()
            scheduler.step()
    assert_equal(hooked, plain)
    assert opt.param_groups[0]["lr"] == reference.param_groups[0]["lr"] == 1e-2 * 0.5**4


def test_a_scheduler_without_step_calls_warns_of_nothing():
    params = parameters()
    opt = gx.optim.SGD(params, lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.1)
    gx.optim.step_in_backward(opt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in range(2):
            backward(params, t)
            scheduler.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.01)


def test_two_losses_are_two_steps():
    hooked, plain, opt, reference = pair(BY_NAME["scheduled_momentum"])
    gx.optim.step_in_backward(opt)
    for t in range(3):
        backward(hooked, t, [0, 1, 2])
        backward(hooked, t + 10, [3, 1])
        plain_step(reference, plain, t, [0, 1, 2])
        plain_step(reference, plain, t + 10, [3, 1])
    assert_equal(hooked, plain)
    assert_same_state(snapshot(opt), snapshot(reference))


class Tied(torch.nn.Module):
    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(4, 4, generator=generator))
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.reentrant = reentrant

    def layer(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            if self.reentrant is None:
                x = self.layer(x)
            else:
                x = checkpoint(self.layer, x, use_reentrant=self.reentrant)
        return (x * self.scale).sum()


@pytest.mark.parametrize("reentrant", [None, False])
def test_a_tied_parameter_is_stepped_once_with_its_whole_gradient(reentrant):
    hooked, plain = Tied(reentrant), Tied()
    opt, reference = (gx.optim.AdamW(m.parameters(), lr=0.1) for m in (hooked, plain))
    gx.optim.step_in_backward(opt)
    for t in range(3):
        x = torch.full((2, 4), t + 1.0)
        hooked(x).backward()
        plain(x).backward()
        reference.step()
        reference.zero_grad()
    assert_close(hooked.parameters(), plain.parameters())
    assert opt.state[hooked.weight]["scale_by_adam"]["step"] == 3


def test_a_parameter_that_gets_its_gradient_in_pieces_is_refused():
    """Reentrant checkpoints run backward passes of their own inside the first."""
    model = Tied(reentrant=True)
    gx.optim.step_in_backward(gx.optim.AdamW(model.parameters()))
    with pytest.raises(RuntimeError, match="got gradients twice in one backward pass"):
        model(torch.ones(2, 4, requires_grad=True)).backward()


def test_frozen_parameters():
    hooked, plain, opt, reference = pair(BY_NAME["AdamW"])
    for params in (hooked, plain):
        params[1].requires_grad_(False)
    gx.optim.step_in_backward(opt)
    for t in range(4):
        if t == 1:  # unfrozen, and another one frozen
            for params in (hooked, plain):
                params[1].requires_grad_(True)
                params[0].requires_grad_(False)
        backward(hooked, t)
        assert all(p.grad is None for p in hooked)
        plain_step(reference, plain, t)
    assert_equal(hooked, plain)
    assert_same_state(snapshot(opt), snapshot(reference))


def test_a_group_added_later():
    hooked, plain, opt, reference = pair(BY_NAME["SGD"])
    gx.optim.step_in_backward(opt)
    new = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    for t in range(1, 5):
        if t == 2:
            for o, p in zip((opt, reference), new, strict=True):
                o.add_param_group({"params": [p], "lr": 0.3})
        for params, p in zip((hooked, plain), new, strict=True):
            backward(params, t, more=(p * p * t).sum())
        reference.step()
        reference.zero_grad()
        assert (new[0].grad is None) is (t > 1)
    assert_equal([*hooked, new[0]], [*plain, new[1]])


def test_a_backward_pass_that_fails_in_the_middle():
    """Leaves that had their gradients are updated, and what all share has moved once."""
    params, opt = parameters(), None
    opt = BY_NAME["scheduled_momentum"].make(params)
    gx.optim.step_in_backward(opt)
    backward(params, 0)

    class Fail(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise ArithmeticError("no gradient here")

    before = [p.detach().clone() for p in params]
    # Recorded last, so that its gradient is there before the failure.
    loss = Fail.apply(params[0]).sum()
    with pytest.raises(ArithmeticError):
        (loss + params[1].sum()).backward()
    assert torch.equal(params[0], before[0])
    assert not torch.equal(params[1], before[1])
    backward(params, 1)
    for p in params:
        assert opt.state[p]["trace"]["step"] == 3


def test_state_dict_and_copies():
    params = parameters()
    opt = gx.optim.AdamW(params, lr=0.1)
    gx.optim.step_in_backward(opt)
    backward(params, 0)
    assert list(opt.state_dict()) == list(gx.optim.AdamW(parameters()).state_dict())
    twin = copy.deepcopy(opt)
    assert not hasattr(twin, "_step_supports_amp_scaling")
    own = [p for group in twin.param_groups for p in group["params"]]
    backward(own, 1)
    assert all(p.grad is not None for p in own)  # hooks are not copied, as in torch
    twin.step(lambda: None)


# -- removal -----------------------------------------------------------------------------------


def test_remove_restores_ordinary_steps():
    params = parameters()
    opt = gx.optim.AdamW(params, lr=0.1)
    handle = gx.optim.step_in_backward(opt)
    backward(params, 0)
    handle.remove()
    handle.remove()
    before = [p.detach().clone() for p in params]
    backward(params, 1)
    assert_equal(params, before)
    assert all(p.grad is not None for p in params)
    assert opt.step(lambda: 3.0) == 3.0
    assert not torch.equal(params[0], before[0])
    gx.optim.step_in_backward(opt).remove()


def test_remove_inside_a_backward_pass():
    params = parameters()
    handle = gx.optim.step_in_backward(BY_NAME["scheduled_momentum"].make(params))
    last = params[0].register_post_accumulate_grad_hook(lambda p: handle.remove())
    backward(params, 0)
    last.remove()
    assert not any(p._post_accumulate_grad_hooks for p in params)
    assert [p.grad is None for p in params] == [True] * 4
    backward(params, 1)
    assert [p.grad is None for p in params] == [False] * 4
