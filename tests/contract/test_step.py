"""What one step does and does not do (contract 7 to 13)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx

from .cases import (
    BY_NAME,
    POINTWISE,
    assert_close,
    assert_equal,
    assert_same_state,
    copies,
    parameters,
    run,
    set_gradients,
    snapshot,
)

pointwise = pytest.mark.parametrize("case", POINTWISE, ids=lambda c: c.name)


def test_closure_runs_once_with_gradients_on_and_its_value_is_returned(case):  # 7
    params = parameters()
    opt = case.make(params)
    losses = []

    def closure() -> torch.Tensor:
        assert torch.is_grad_enabled()
        opt.zero_grad()
        losses.append(sum((p * p).sum() for p in params))
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        out = opt.step(closure)
    assert len(losses) == 1
    assert out is losses[0]
    assert opt.step(closure=closure) is losses[1]
    assert opt.step(lambda: 3.5) == 3.5
    assert opt.step() is None
    assert torch.is_grad_enabled()


def test_closure_equals_separate_backward(case):  # 7
    mine, theirs = parameters(), parameters()
    one, two = case.make(mine), case.make(theirs)

    def closure_for(params: list[Any], opt: Any) -> Any:
        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = sum((p.sin() * p).sum() for p in params)
            loss.backward()
            return loss

        return closure

    for _ in range(3):
        one.step(closure_for(mine, one))
        closure_for(theirs, two)()
        two.step()
    assert_equal(mine, theirs)


def test_step_touches_values_only(case):  # 7
    params = parameters()
    opt = case.make(params)
    set_gradients(params, 0)
    params[1].requires_grad_(False)
    grads = [p.grad for p in params]
    before = [(p.data_ptr(), p.requires_grad, id(p), p.stride(), p._version) for p in params]
    values = copies(grads)
    opt.step()
    after = [(p.data_ptr(), p.requires_grad, id(p), p.stride()) for p in params]
    assert after == [b[:4] for b in before]
    assert all(p._version > b[4] for p, b in zip(params, before, strict=True))
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert_equal(grads, values)
    assert all(p.is_leaf and p.grad_fn is None for p in params)
    assert not any(v.requires_grad for v in snapshot(opt).values() if isinstance(v, torch.Tensor))


def test_a_new_graph_may_not_use_old_values(case):
    """In-place updates must be seen by autograd's version counters."""
    params = parameters()[:1]
    opt = case.make(params)
    loss = (params[0] * params[0]).sum()
    set_gradients(params, 0)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_gradient_no_change(case):  # 8
    params = parameters()
    opt = case.make(params)
    values = copies(params)
    opt.step()
    assert_equal(params, values)
    assert opt.state_dict()["state"] == {}
    run(opt, params, range(2))
    before, values = snapshot(opt), copies(params)
    opt.zero_grad()
    opt.step()
    opt.step()
    assert_equal(params, values)
    assert_same_state(before, snapshot(opt))


def test_a_parameter_without_gradient_has_no_state(case):  # 8
    params = parameters()
    opt = case.make(params)
    for t in range(2):
        set_gradients(params, t)
        params[1].grad = None
        opt.step()
    assert params[1] not in opt.state
    assert set(opt.state_dict()["state"]) == {0, 2, 3}


@pointwise
def test_freezing_stops_only_the_frozen(case):  # 8
    mine, alone = parameters(), parameters()
    joint = case.make(mine)
    separate = [case.make([p]) for p in alone]
    for t in range(6):
        set_gradients(mine, t)
        set_gradients(alone, t)
        for i in (i for i in range(4) if (t + i) % 3 == 0):
            mine[i].grad = alone[i].grad = None
        joint.step()
        for opt in separate:
            opt.step()
    assert_equal(mine, alone)


def test_frozen_parameter_keeps_its_own_state_and_sees_the_shared_part(case):  # 8
    params = parameters()
    opt = case.make(params)
    run(opt, params, range(3))
    before, value = snapshot(opt), params[1].detach().clone()
    for t in range(3, 5):
        set_gradients(params, t)
        params[1].grad = None
        opt.step()
    assert torch.equal(params[1], value)
    after = snapshot(opt)
    for key in (k for k in before if k.startswith("1.")):
        if key[2:] in case.shares:
            assert torch.equal(after[key], after["0" + key[1:]]), key
        else:
            assert torch.equal(before[key], after[key]), key


@pytest.mark.parametrize("how", ["zero_d", "empty", "strided_param", "strided_grad", "expanded"])
def test_shapes_and_strides(case, how):  # 9
    def make() -> tuple[torch.Tensor, torch.Tensor]:
        p, g = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(2, -1, 12).reshape(3, 4)
        if how == "zero_d":
            return p[1, 1].clone(), g[1, 1].clone()
        if how == "empty":
            return p[:0].clone(), g[:0].clone()
        if how == "strided_param":
            return torch.randn(4, 3).t().copy_(p), g
        if how == "strided_grad":
            return p, torch.randn(4, 3).t().copy_(g)
        return p, torch.full((1, 1), 0.5).expand(3, 4)

    value, grad = make()
    odd, dense = (torch.nn.Parameter(v) for v in (value, value.clone().contiguous()))
    strides = odd.stride()
    one, two = case.make([odd]), case.make([dense])
    for _ in range(3):
        odd.grad, dense.grad = grad, grad.clone().contiguous()
        one.step()
        two.step()
    assert_close([odd], [dense])
    assert odd.stride() == strides
    assert odd.shape == value.shape
    assert torch.isfinite(odd).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_stay(case, dtype):  # 9
    params = parameters(dtype)
    opt = case.make(params)
    run(opt, params, range(3))
    assert all(p.dtype == dtype for p in params)
    assert all(torch.isfinite(p).all() for p in params)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for key, value in snapshot(opt).items():
        if value.is_floating_point() and case.name != "odd_dtypes":
            assert value.dtype in (wide, torch.float32), key


def test_low_precision_steps_round_once(case):  # 9
    """One bf16 step is the float32 step, rounded at the end."""
    low = parameters(torch.bfloat16)
    high = [torch.nn.Parameter(p.detach().float()) for p in low]
    one, two = case.make(low), case.make(high)
    set_gradients(low, 0)
    for p, q in zip(low, high, strict=True):
        q.grad = p.grad.float()
    one.step()
    two.step()
    assert_equal([p.detach() for p in low], [q.detach().bfloat16() for q in high])


def test_gradient_dtype_differs_from_the_parameter(case):  # 9
    low = parameters(torch.bfloat16)
    try:
        low[0].grad_dtype = torch.float32
    except AttributeError:
        pytest.skip("this torch ties the gradient's dtype to the parameter's")
    opt = case.make(low[:1])
    reference = parameters(torch.bfloat16)[:1]
    other = case.make(reference)
    for t in range(2):
        set_gradients(reference, t)
        low[0].grad = reference[0].grad.float()
        opt.step()
        other.step()
    assert low[0].dtype == torch.bfloat16
    assert_equal([low[0].detach()], [reference[0].detach()])


def test_parameters_of_several_dtypes(case):  # 9
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    params = [
        torch.nn.Parameter(p.detach().to(d)) for p, d in zip(parameters(), dtypes, strict=True)
    ]
    opt = case.make(params)
    before = copies(params)
    run(opt, params, range(3))
    assert [p.dtype for p in params] == dtypes
    assert all(torch.isfinite(p).all() for p in params)
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    first = {k: v.dtype for k, v in snapshot(opt).items()}
    run(opt, params, range(3, 5))
    assert first == {k: v.dtype for k, v in snapshot(opt).items()}


def test_channels_last_layout_stays(case):  # 9
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    p = torch.nn.Parameter(weight)
    opt = case.make([p])
    run(opt, [p], range(2))
    assert p.is_contiguous(memory_format=torch.channels_last)


def test_maximize_is_minimize_of_the_negated_gradient(case):  # 10
    mine, theirs = parameters(), parameters()
    up, down = case.make(mine, maximize=True), case.make(theirs)
    for t in range(4):
        set_gradients(mine, t)
        set_gradients(theirs, t, scale=-1.0)
        kept = copies(p.grad for p in mine)
        up.step()
        down.step()
        assert_equal([p.grad for p in mine], kept)
    assert_equal(mine, theirs)


def test_maximize_does_not_turn_decay_into_growth():  # 10
    p = torch.nn.Parameter(torch.full((3,), 5.0))
    opt = gx.optim.AdamW([p], lr=0.1, weight_decay=0.5, maximize=True)
    p.grad = torch.zeros(3)
    opt.step()
    assert torch.all(p < 5.0)


def sparse_like(p: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(p).to_sparse()


def test_sparse_gradient_is_refused_before_anything_changes(case):  # 11
    params = parameters()[:2]
    opt = case.make(params)
    run(opt, params, range(2))
    values, state = copies(params), snapshot(opt)
    set_gradients(params, 2)
    params[1].grad = sparse_like(params[1])
    with pytest.raises(RuntimeError, match=r"\w+: leaf '1': .*sparse"):
        opt.step()
    assert_equal(params, values)
    assert_same_state(state, snapshot(opt))


def test_complex_parameters_are_refused(case):  # 11
    p = torch.nn.Parameter(torch.randn(3, dtype=torch.complex64))
    p_real = parameters()[0]
    opt = case.make([p_real, p])
    before = copies([p_real, p])
    p.grad, p_real.grad = torch.ones_like(p), torch.ones_like(p_real)
    with pytest.raises(RuntimeError, match="does not support complex parameters"):
        opt.step()
    assert_equal([p_real, p], before)
    assert opt.state_dict()["state"] == {}


class Refuses(gx.LeafTransform):
    """Raises for large gradients, after the members before it have done their work."""

    needs_grad = True

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        if h.grad.abs().max() > 50:
            raise RuntimeError("too large")
        return u, s


@pytest.mark.parametrize("groups", ["one", "two", "two_chains"])
def test_after_an_exception_nothing_has_changed(groups):  # 12
    params = parameters()
    half = len(params) // 2
    if groups == "one":
        arg: Any = params
    else:
        arg = [{"params": params[:half]}, {"params": params[half:], "lr": 0.5}]
    tx = gx.chain(gx.multi_steps(gx.scale_by_adam(), every_k=2), Refuses())
    opt = gx.optim.from_transform(tx, arg, lr=0.1)
    run(opt, params, range(3))
    values, state = copies(params), snapshot(opt)
    options = [{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups]
    set_gradients(params, 3)
    params[-1].grad.fill_(1e6)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="too large"):
            opt.step()
    assert_equal(params, values)
    assert_same_state(state, snapshot(opt))
    assert options == [{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups]
    run(opt, params, range(4, 6))
    assert not any(torch.equal(x, y) for x, y in zip(params, values, strict=True))


def test_exception_in_the_closure_changes_nothing(case):  # 12
    params = parameters()
    opt = case.make(params)
    run(opt, params, range(2))
    values, state = copies(params), snapshot(opt)
    with pytest.raises(ZeroDivisionError):
        opt.step(lambda: 1 / 0)
    assert_equal(params, values)
    assert_same_state(state, snapshot(opt))


def test_bad_option_at_step_is_refused_before_anything_changes(case):  # 12
    params = parameters()
    opt = case.make([{"params": params[:2]}, {"params": params[2:]}])
    run(opt, params, range(2))
    values, state = copies(params), snapshot(opt)
    opt.param_groups[1]["lr"] = -1.0
    set_gradients(params, 2)
    with pytest.raises(ValueError, match="lr must be in"):
        opt.step()
    assert_equal(params, values)
    assert_same_state(state, snapshot(opt))


def test_shared_parameters_are_updated_once(case):  # 13
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.weight = first.weight
    tied = torch.nn.Sequential(first, second)
    p = torch.nn.Parameter(first.weight.detach().clone())
    opt = case.make(tied.parameters())
    assert len(opt.param_groups[0]["params"]) == 3
    with pytest.warns(UserWarning, match="duplicate"):
        twice = case.make([p, p])
    once_p = torch.nn.Parameter(p.detach().clone())
    once = case.make([once_p])
    for t in range(3):
        set_gradients([p], t)
        set_gradients([once_p], t)
        twice.step()
        once.step()
    assert_equal([p], [once_p])


def test_zero_gradients_keep_everything_finite(case):
    params = parameters()
    opt = case.make(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        opt.step()
    assert all(torch.isfinite(p).all() for p in params)
    assert all(torch.isfinite(v).all() for v in snapshot(opt).values())


def test_what_all_share_survives_a_parameter_that_joins_late():
    """Its own fresh count must not stand for that of the others, whatever its position."""
    params = parameters()
    opt = BY_NAME["scheduled_momentum"].make(params)
    for t in range(4):
        set_gradients(params[1:] if t < 3 else params, t)
        opt.step()
    assert [opt.state[p]["trace"]["step"].item() for p in params] == [4] * len(params)
