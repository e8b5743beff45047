"""Optimizers that call the closure of a step several times: L-BFGS, line searches, SAM."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from tests.transforms.small_problems import PROBLEMS, torch_iterations

EXACT = {"tolerance_grad": 0.0, "tolerance_change": 0.0}


def closure_of(
    f: Callable[[Any], Tensor], params: Any, opt: Any, in_place: bool = False, sign: float = 1.0
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        opt.zero_grad(set_to_none=not in_place)
        loss = sign * f(params)
        loss.backward()
        closure.calls += 1  # type: ignore[attr-defined]
        return loss

    closure.calls = 0  # type: ignore[attr-defined]
    return closure


def made(name: str, **options: Any) -> tuple[Any, Any, Any, float]:
    f, w, below = PROBLEMS[name]()
    params = {k: torch.nn.Parameter(x.clone()) for k, x in w.items()}
    return f, params, gx.optim.LBFGS(params.values(), **{**EXACT, **options}), below


@pytest.mark.parametrize("name", ["rosenbrock", "chain_of_six", "least_squares"])
def test_lbfgs_needs_no_more_iterations_than_torch(name: str) -> None:
    f, params, opt, below = made(name, max_iter=1, history_size=10)
    closure = closure_of(f, params, opt)
    losses = [opt.step(closure).item() for _ in range(80)]
    ours = next(n for n, loss in enumerate(losses) if loss < below)
    start = PROBLEMS[name]()[1]
    assert ours <= torch_iterations(f, start, below, 200)


def test_one_step_of_many_iterations_is_many_steps_of_one() -> None:
    f, params, many, _ = made("rosenbrock", max_iter=9, max_eval=100, history_size=4)
    many.step(closure := closure_of(f, params, many))
    calls = closure.calls  # type: ignore[attr-defined]
    f, others, one, _ = made("rosenbrock", max_iter=1, history_size=4)
    for _ in range(9):
        one.step(closure := closure_of(f, others, one))
    torch.testing.assert_close(params["x"], others["x"], rtol=0, atol=0)
    assert calls < 9 * 2 + 4
    torch.testing.assert_close(
        params["x"].grad, torch.func.grad(lambda x: f({"x": x}))(params["x"])
    )


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("line_search_fn", ["strong_wolfe", "backtracking", None])
def test_gradients_may_be_zeroed_in_any_way(line_search_fn: Any, in_place: bool) -> None:
    f, params, opt, _ = made("least_squares", max_iter=30, line_search_fn=line_search_fn)
    opt.step(closure_of(f, params, opt, in_place))
    g, other, again, _ = made("least_squares", max_iter=30, line_search_fn=line_search_fn)
    again.step(closure_of(g, other, again))
    torch.testing.assert_close(params, other, rtol=0, atol=0)
    assert f(params) < 1e-3 * f(PROBLEMS["least_squares"]()[1])


def test_iterations_end_as_said() -> None:
    f, params, opt, _ = made("rosenbrock", max_iter=100, max_eval=7)
    opt.step(closure := closure_of(f, params, opt))
    assert 7 <= closure.calls < 12  # type: ignore[attr-defined]
    f, params, opt, _ = made("rosenbrock", max_iter=200, max_eval=500, tolerance_grad=1e-3)
    opt.step(closure_of(f, params, opt))
    assert 1e-9 < params["x"].grad.abs().max() < 1e-3
    assert f(params) == opt.step(closure := closure_of(f, params, opt))
    assert closure.calls == 1  # type: ignore[attr-defined]


def test_maximize_climbs() -> None:
    f, params, opt, _ = made("rosenbrock", max_iter=20, maximize=True)
    first = opt.step(closure_of(f, params, opt, sign=-1.0))
    assert first == -f(PROBLEMS["rosenbrock"]()[1])
    g, other, down, _ = made("rosenbrock", max_iter=20)
    down.step(closure_of(g, other, down))
    torch.testing.assert_close(params, other, rtol=0, atol=0)


def test_a_run_goes_on_after_saving_and_pickling() -> None:
    f, params, opt, _ = made("chain_of_six", max_iter=5)
    opt.step(closure_of(f, params, opt))
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    other = {"x": torch.nn.Parameter(params["x"].detach().clone())}
    again = gx.optim.LBFGS(other.values(), **EXACT, max_iter=5)
    again.load_state_dict(torch.load(file))
    copied = pickle.loads(pickle.dumps(opt))
    third = {"x": copied.param_groups[0]["params"][0]}
    for p, o in ((params, opt), (other, again), (third, copied)):
        o.step(closure_of(f, p, o))
    torch.testing.assert_close(params, other, rtol=0, atol=0)
    torch.testing.assert_close(params, third, rtol=0, atol=0)


def test_what_is_wrong_is_said_and_nothing_changes() -> None:
    f, params, opt, _ = made("rosenbrock")
    before = params["x"].detach().clone()
    with pytest.raises(TypeError, match="LBFGS: step needs a closure"):
        opt.step()
    with pytest.raises(TypeError, match="the closure must return the loss"):
        opt.step(lambda: None)
    calls = []

    def breaks() -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of data")
        return closure_of(f, params, opt)()

    with pytest.raises(RuntimeError, match="out of data"):
        opt.step(breaks)
    torch.testing.assert_close(params["x"].detach(), before, rtol=0, atol=0)
    for options, message in (
        ({"line_search_fn": "wolfe"}, "line_search_fn must be one of"),
        ({"tolerance_change": None}, "tolerance_change must be a number >= 0, got None"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1"),
        ({"history_size": 0}, "history_size must be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            gx.optim.LBFGS(params.values(), **options)
    groups = [{"params": [p], "history_size": n} for n, p in enumerate(map(torch.nn.Parameter,
              (torch.ones(1), torch.ones(2))), 1)]  # fmt: skip
    with pytest.raises(ValueError, match="groups must agree"):
        gx.optim.LBFGS(copy.deepcopy(groups))
    opt = gx.optim.LBFGS(groups[:1])
    rest = groups[1] | {"history_size": 1}
    for group, message in (
        (groups[1], "groups must agree"),
        (rest | {"maximize": True}, "maximize must be the same"),
    ):
        with pytest.raises(ValueError, match=message):
            opt.add_param_group(group)
    opt.add_param_group(rest)
    opt.param_groups[1]["history_size"] = 2
    with pytest.raises(ValueError, match="groups must agree"):
        opt.step(lambda: torch.zeros(()))


def test_parameters_without_a_gradient_stay() -> None:
    f, params, _, _ = made("rosenbrock")
    idle = torch.nn.Parameter(torch.ones(2))
    opt = gx.optim.LBFGS([*params.values(), idle], max_iter=3)
    opt.step(closure_of(f, params, opt))
    assert torch.equal(idle, torch.ones(2))
    assert not opt.state.get(idle)


@pytest.mark.parametrize("frozen", [False, True])
def test_sam_is_the_functional_sam(frozen: bool) -> None:
    f, w, _ = PROBLEMS["chain_of_six"]()
    params = {k: torch.nn.Parameter(x.clone()) for k, x in w.items()}
    params["idle"] = torch.nn.Parameter(torch.ones(1), requires_grad=not frozen)
    opt = gx.optim.SAM(params.values(), gx.sgd(1e-3, momentum=0.9), rho=0.1)
    adversary = gx.chain(gx.scale(-1.0), gx.normalize_by_update_norm(0.1, 1e-12))
    tx = gx.sam(gx.sgd(1e-3, momentum=0.9), adversary, opaque_mode=True)
    state = tx.init(w)
    for _ in range(5):
        opt.step(closure := closure_of(f, params, opt))
        assert closure.calls == 2  # type: ignore[attr-defined]
        updates, state = tx.update(
            torch.func.grad(f)(w), state, w, grad_fn=lambda at, i: torch.func.grad(f)(at)
        )
        w = gx.apply_updates(w, updates)
        torch.testing.assert_close(params["x"].detach(), w["x"])
    assert torch.equal(params["idle"].detach(), torch.ones(1))


def test_sam_has_the_options_of_its_chain() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    opt = gx.optim.SAM([p], gx.scale_by_adam(), lr=0.5, rho=0.25)
    assert opt.param_groups[0]["lr"] == 0.5
    assert copy.deepcopy(opt).param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match=r"SAM: rho must be in \[0, inf\), got -1"):
        gx.optim.SAM([p], gx.sgd(), rho=-1.0)
    for bad in ("a", None, lambda step: 0.1):
        with pytest.raises(TypeError, match="SAM: rho must be a number"):
            gx.optim.SAM([p], gx.sgd(), rho=bad)
    with pytest.raises(ValueError, match=r"rho must be in \[0, inf\), got -1"):
        gx.optim.SAM([{"params": [p], "rho": -1.0}], gx.sgd())
    with pytest.raises(TypeError, match="unknown option 'beta'; the options of this chain are"):
        gx.optim.SAM([p], gx.sgd(), beta=0.1)
    assert "eps" in gx.optim.SAM([p], gx.scale_by_adam()).param_groups[0]  # Adam's


def test_rho_is_an_option_of_groups() -> None:
    p = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    opt = gx.optim.SAM(p, gx.sgd(0.1), rho=0.5)
    assert opt.param_groups[0]["rho"] == 0.5
    opt.param_groups[0]["rho"] = 2**0.5
    opt.step(closure_of(lambda w: torch.cat(w).square().sum(), p, opt))
    assert [x.item() for x in p] == pytest.approx([0.6, 0.6])  # 1 - 0.1 * 2 * (1 + 1)
    with pytest.raises(ValueError, match="groups must agree in rho"):
        gx.optim.SAM([{"params": p[:1], "rho": 0.5}, {"params": p[1:]}], gx.sgd(0.1))
    for group in opt.param_groups:
        group["rho"] = -1.0
    with pytest.raises(ValueError, match=r"SAM: rho must be in \[0, inf\), got -1"):
        opt.step(closure_of(lambda w: torch.cat(w).square().sum(), p, opt))
    assert [x.item() for x in p] == pytest.approx([0.6, 0.6])


def test_a_line_search_works_after_any_chain() -> None:
    f, w, _ = PROBLEMS["least_squares"]()
    p = {k: torch.nn.Parameter(x.clone()) for k, x in w.items()}
    tx = gx.chain(gx.sgd(1.0), gx.scale_by_backtracking_linesearch(decrease_factor=0.5))
    opt = gx.optim.from_transform(tx, p.values())
    losses = [opt.step(closure_of(f, p, opt)).item() for _ in range(20)]
    assert all(b < a for a, b in itertools.pairwise(losses))
