"""The behaviours of torch's own optimizer tests, on our classes with torch's argument grids."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx

from ._torch_private import OptimizerErrorEnum, get_error_inputs_for_all_optims
from .cases import assert_close, assert_equal, assert_same_state, copies, snapshot
from .upstream import COUPLED, DROP_IN, GRADTX_DB

every = pytest.mark.parametrize("info", GRADTX_DB, ids=lambda i: i.name)
alone = pytest.mark.parametrize(
    "info", [i for i in GRADTX_DB if i.name not in COUPLED], ids=lambda i: i.name
)
# Of classes that torch does not have: what others of their configurations contain.
CONTAINED = ({"lr": 0.01}, {"weight_decay": 0.1})
# Of classes of many operations a step: all that their first configuration does not have.
DEAR = {"Dion", "LowRankMFAC", "PSGD", "PSGDKron"}


def slow_where_contained(info: Any, kwargs: dict[str, Any]) -> list[Any]:
    contained = info not in DROP_IN and kwargs in CONTAINED
    return [pytest.mark.slow] if contained or (info.name in DEAR and kwargs) else []


configs = pytest.mark.parametrize(
    "info, kwargs",
    [
        pytest.param(
            info, x.kwargs, id=f"{info.name}-{x.desc}", marks=slow_where_contained(info, x.kwargs)
        )
        for info in GRADTX_DB
        for x in info.optim_inputs_func("cpu")
    ],
)
drop_ins = pytest.mark.parametrize(
    "info, kwargs",
    [
        pytest.param(info, x.kwargs, id=f"{info.name}-{x.desc}")
        for info in DROP_IN
        for x in info.optim_inputs_func("cpu")
    ],
)


def fresh(kwargs: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(kwargs)


def weight_and_bias(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype))
        for s in ((10, 5), (10,))
    ]


def make_closure(params: list[Any], opt: Any) -> Callable[[], torch.Tensor]:
    x = torch.linspace(-1.0, 1.0, 5, dtype=params[0].dtype)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = (params[0].mv(x) + params[1]).square().sum()
        loss.backward()
        return loss

    return closure


# Their numbers follow from blocks and bases; tests/contract's own cases hold them.
SECOND_ORDER = {
    *("DASH", "KLSOAP", "KLSOAPH", "KLShampoo", "OneSidedShampoo", "REKLS", "SOAP", "SOAPMuon"),
    "Shampoo",
}

# They choose their own rate, move without a gradient (Fromage) or add rates up (MADGRAD);
# torch's tests are about rates that one gives, group by group.
OWN_RATE = {
    *("COCOB", "DAdaptAdamW", "DoG", "DoWG", "Fromage", "MADGRAD", "MoMo", "MoMoAdam"),
    "PolyakSGD",
}

# Their steps need more than a closure gives, or their noise depends on the parameter's name.
OTHERS = {"AdaHessian", "NoisySGD", "Sophia"}


def test_the_database_covers_every_exported_class():
    exported = {getattr(gx.optim, name) for name in gx.optim.__all__}
    classes = {c for c in exported if isinstance(c, type)}
    recipes = {c for c in classes if issubclass(c, gx.optim.RecipeOptimizer) and c.signature}
    recipes -= {c for c in recipes if issubclass(c, gx.optim.ProdigyOptimizer)}
    recipes -= {c for c in recipes if issubclass(c, gx.optim.EvaluatingOptimizer)}
    left = {c.__name__ for c in recipes} - SECOND_ORDER - OWN_RATE - OTHERS
    assert left == {info.name for info in GRADTX_DB}


@every
def test_generic_errors(info):
    inputs = get_error_inputs_for_all_optims("cpu", torch.float32)
    assert len(inputs) >= 6
    for bad in inputs:
        given = bad.optimizer_error_input
        params = weight_and_bias() if given.params is None else given.params
        if bad.error_type is UserWarning:
            with pytest.warns(UserWarning, match=bad.error_regex):
                info.optim_cls(params, **given.kwargs)
        else:
            with pytest.raises(bad.error_type, match=bad.error_regex):
                info.optim_cls(params, **given.kwargs)


# What torch refuses because its multi-tensor path cannot take it; ours can.
LIMITS_OF_FOREACH = ("foreach", "both floats or both Tensors")


@pytest.mark.parametrize("info", DROP_IN, ids=lambda i: i.name)
def test_own_errors(info):
    """Where torch refuses a value, so do we, with the same kind of error and the option's name."""
    generic = {x.optimizer_error_input.desc for x in get_error_inputs_for_all_optims("cpu", None)}
    for bad in info.optim_error_inputs_func("cpu", torch.float32):
        given = bad.optimizer_error_input
        if given.desc in generic:
            continue
        params = weight_and_bias() if given.params is None else given.params
        if bad.error_on is OptimizerErrorEnum.STEP_ERROR:
            opt = info.optim_cls(params, **given.kwargs)
            with pytest.raises(bad.error_type, match=bad.error_regex.removeprefix(info.name)):
                opt.step()
            continue
        if any(words in given.desc for words in LIMITS_OF_FOREACH):
            opt = info.optim_cls(params, **given.kwargs)
            opt.step(make_closure(params, opt))
            continue
        with pytest.raises(bad.error_type, match=info.name):
            info.optim_cls(params, **given.kwargs)


@configs
def test_goes_in_the_right_direction(info, kwargs):
    goes_in_the_right_direction(info, kwargs, weight_and_bias())


@every
def test_goes_in_the_right_direction_where_memory_has_gaps(info):
    params = weight_and_bias()
    params = [torch.nn.Parameter(torch.stack([p.detach()] * 2, dim=-1)[..., 0]) for p in params]
    assert not params[0].is_contiguous()
    for given in info.optim_inputs_func("cpu")[:2]:
        goes_in_the_right_direction(info, given.kwargs, params)


def goes_in_the_right_direction(info: Any, kwargs: dict[str, Any], params: list[Any]) -> None:
    opt = info.optim_cls(params, **fresh(kwargs))
    closure = make_closure(params, opt)
    first = closure().item()
    for _ in range(20):
        opt.step(closure)
    last = closure().item()
    assert last > first if kwargs.get("maximize") else last < first


@every
def test_goes_in_the_right_direction_under_schedulers(info):
    for makers in info.scheduler_inputs:
        for groups in (False, True):
            params = weight_and_bias()
            given = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.01}]
            opt = info.optim_cls(given if groups else params, lr=0.01)
            schedulers = [make(opt) for make in makers]
            closure = make_closure(params, opt)
            first = closure().item()
            for _ in range(20):
                loss = opt.step(closure)
                for scheduler in schedulers:
                    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                        scheduler.step(loss.item())
                    else:
                        scheduler.step()
            assert closure().item() < first


@configs
def test_tensor_lr(info, kwargs):
    mine, theirs = weight_and_bias(), weight_and_bias()
    value = float(kwargs.get("lr", 1e-3))
    one = info.optim_cls(mine, **{**fresh(kwargs), "lr": value})
    two = info.optim_cls(theirs, **{**fresh(kwargs), "lr": torch.tensor(value)})
    for _ in range(5):
        one.step(make_closure(mine, one))
        two.step(make_closure(theirs, two))
    assert_close(mine, theirs)


@configs
def test_step_without_gradients_is_noop(info, kwargs):
    params = weight_and_bias()
    opt = info.optim_cls(params, **fresh(kwargs))
    before = copies(params)
    opt.step()
    opt.step(lambda: 1)
    assert_equal(params, before)


# Zero gradients move these: Yogi's averages start at 1e-6, as published.
STARTS_MOVING = {"Yogi"}


@configs
def test_step_with_zero_gradients_is_noop(info, kwargs):
    params = weight_and_bias()
    opt = info.optim_cls(params, **{**fresh(kwargs), "weight_decay": 0.0})
    before = copies(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        opt.step()
    if info.name in STARTS_MOVING:
        assert_close(params, before, rtol=1e-3)
    else:
        assert_equal(params, before)


@alone
def test_weight_decay_by_group(info):
    params, plain_params = weight_and_bias(), weight_and_bias()
    groups = [{"params": [params[0]], "weight_decay": 0.9}, {"params": [params[1]]}]
    opt = info.optim_cls(groups, lr=0.01, weight_decay=0.0)
    plain = info.optim_cls(plain_params, lr=0.01, weight_decay=0.0)
    for t in range(5):
        for p, q in zip(params, plain_params, strict=True):
            p.grad = torch.full_like(p, 0.1 + t)
            q.grad = torch.full_like(q, 0.1 + t)
        opt.step()
        plain.step()
    assert_equal(params[1:], plain_params[1:])
    assert not torch.equal(params[0], plain_params[0])


@every
def test_a_vanishing_lr_does_not_move_its_group(info):
    params = weight_and_bias()
    still = params[0].detach().clone()
    opt = info.optim_cls([{"params": [params[0]], "lr": 1e-28}, {"params": [params[1]]}], lr=0.01)
    closure = make_closure(params, opt)
    first = closure().item()
    for _ in range(10):
        opt.step(closure)
    assert torch.equal(params[0], still)
    assert closure().item() < first


@every
def test_can_be_printed(info):
    params = weight_and_bias()
    opt = info.optim_cls(params, **fresh(info.optim_inputs_func("cpu")[-1].kwargs))
    assert repr(opt).startswith(info.name)
    opt.step(make_closure(params, opt))
    for key in opt.param_groups[0]:
        assert key == "params" or f"    {key}: " in repr(opt)


@configs
def test_state_dict_loads_and_continues(info, kwargs):
    params = weight_and_bias()
    opt = info.optim_cls(params, **fresh(kwargs))
    for _ in range(3):
        opt.step(make_closure(params, opt))
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = info.optim_cls(others, **fresh(kwargs))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same_state(snapshot(opt), snapshot(other))
    for o, ps in ((opt, params), (other, others)):
        for _ in range(3):
            o.step(make_closure(ps, o))
    assert_equal(params, others)


@every
def test_older_state_dict(info):
    """One that an optimizer saved before it had some flags."""
    inputs = info.optim_inputs_func("cpu")
    for kwargs in (inputs[0].kwargs, inputs[-1].kwargs):
        params = weight_and_bias()
        opt = info.optim_cls(params, **fresh(kwargs))
        opt.step(make_closure(params, opt))
        old = copy.deepcopy(opt.state_dict())
        for group in old["param_groups"]:
            for flag in info.not_og_supported_flags:
                if not kwargs.get(flag):
                    group.pop(flag, None)
        others = [torch.nn.Parameter(p.detach().clone()) for p in params]
        other = info.optim_cls(others, **fresh(kwargs))
        other.load_state_dict(old)
        for o, ps in ((opt, params), (other, others)):
            for _ in range(2):
                o.step(make_closure(ps, o))
        assert_equal(params, others)


@every
def test_deepcopy_copies_all_public_attributes(info):
    params = weight_and_bias()
    opt = info.optim_cls(params)
    for _ in range(2):
        opt.step(make_closure(params, opt))

    def public(o: Any) -> set[str]:
        return {k for k in vars(o) if not k.startswith("_")}

    assert public(copy.deepcopy(opt)) == public(opt)


@every
def test_state_is_not_empty(info):
    params = weight_and_bias()
    opt = info.optim_cls(params)
    opt.step(make_closure(params, opt))
    if info.name in ("SGD", "SignSGD"):  # no momentum: nothing to remember
        assert opt.state_dict()["state"] in ({}, {0: {}, 1: {}})
    else:
        assert all(opt.state[p] for p in params)


@pytest.mark.parametrize("info", DROP_IN, ids=lambda i: i.name)
def test_same_signature_as_torch(info):
    """Positional order, names and defaults."""
    ours = inspect.signature(info.optim_cls).parameters
    theirs = inspect.signature(getattr(torch.optim, info.name)).parameters
    positional = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    common = {"foreach", "maximize", "capturable", "differentiable", "fused"}
    wanted = [n for n in positional if n not in common]
    assert [n for n in ours if n not in common][: len(wanted)] == wanted
    assert set(theirs) <= set(ours)
    for name in set(theirs) - {"params"}:
        if (info.name, name) in {("Adafactor", "foreach")}:
            continue
        assert ours[name].default == theirs[name].default, name


SHAPES = ((7, 3), (5,), (), (2, 3, 5), (1, 9), (0, 4))


def odd_parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(s, generator=generator, dtype=torch.float32) for s in SHAPES]
    return [torch.nn.Parameter(v.to(dtype)) for v in values]


def fifty_steps(cls: type, kwargs: dict[str, Any], grouped: bool, dtype: torch.dtype) -> list[Any]:
    """A gradient is missing at step 2, a layer is frozen from 3 to 5."""
    params = odd_parameters(dtype)
    if cls.__name__ == "Adafactor":
        params = params[:-1]  # torch takes no empty matrix
    given: Any = params
    if grouped:
        second = {"params": params[2:], "lr": 0.003, "weight_decay": 0.05}
        given = [{"params": params[:2]}, second]
    opt = cls(given, **fresh(kwargs))
    generator = torch.Generator().manual_seed(4)
    for t in range(50):
        for p in params:
            # float32 numbers in both precisions, so that only the arithmetic differs
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(dtype)
        if t == 2:
            params[2].grad = None
        if 3 <= t < 5:
            params[0].grad = None
        opt.step()
    return [p.detach() for p in params]


@pytest.fixture
def double_by_default():
    """Then torch keeps all its scalars in float64 too (NAdam's product is float32 otherwise)."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


grouping = pytest.mark.parametrize("grouped", [False, True], ids=["one_group", "two_groups"])


@drop_ins
@pytest.mark.usefixtures("double_by_default")
def test_same_numbers_as_torch_in_float64(info, kwargs):
    theirs = getattr(torch.optim, info.name)
    mine = fifty_steps(info.optim_cls, kwargs, True, torch.float64)
    assert_close(mine, fifty_steps(theirs, kwargs, True, torch.float64), rtol=1e-13)


@drop_ins
@grouping
def test_same_numbers_as_torch_in_float32(info, kwargs, grouped):
    """Within 1e-6 of the exact run, and of torch's float32 run up to that run's own error.

    Torch multiplies parameters by the rounded ``1 - lr * weight_decay``; alone that drifts by more
    than 1e-6 in fifty steps.
    """
    theirs = getattr(torch.optim, info.name)
    mine = fifty_steps(info.optim_cls, kwargs, grouped, torch.float32)
    single = fifty_steps(theirs, kwargs, grouped, torch.float32)
    exact = fifty_steps(theirs, kwargs, grouped, torch.float64)
    start = odd_parameters(torch.float64)
    for i, (m, s, e) in enumerate(zip(mine, single, exact, strict=True)):
        if not m.numel():
            continue
        allowed = 1e-6 * max(start[i].abs().max().item(), e.abs().max().item())
        assert (m - e).abs().max().item() <= allowed, f"tensor {i}"
        theirs_off = (s - e).abs().max().item()
        assert (m - s).abs().max().item() <= allowed + theirs_off, f"tensor {i}"
