"""Classes of recipes with estimates: they train, and are their chains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx

RATE = {"lr": 0.1}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ACProp": (gx.acprop, RATE),
    "AdaHessian": (gx.adahessian, RATE),
    "COCOB": (gx.cocob, {}),
    "DAdaptAdamW": (gx.dadapt_adamw, {"d0": 1e-3}),
    "DoG": (gx.dog, {"init_step": ("heuristic", 1e-3)}),
    "DoWG": (gx.dowg, {"init_distance": 1e-2}),
    "Fromage": (gx.fromage, RATE),
    "MADGRAD": (gx.madgrad, RATE),
    "MoMo": (gx.momo, {"lr": 0.5, "weight_decay": 1e-3}),
    "MoMoAdam": (gx.momo_adam, RATE),
    "NoisySGD": (gx.noisy_sgd, {"lr": 0.05, "eta": 1e-4, "seed": 3}),
    "OptimisticAdam": (gx.optimistic_adam, RATE),
    "PolyakSGD": (gx.polyak_sgd, {"lr": 0.5}),
    "Sophia": (gx.sophia, {"lr": 0.1, "gamma": 1.0, "weight_decay": 1e-3}),
}
START = torch.tensor([3.0, -2.0, 0.5])


def loss(w: Tensor) -> Tensor:
    return (w - 1).square().sum()


def given_to(name: str, w: Tensor) -> dict[str, Any]:
    if name in ("MoMo", "MoMoAdam", "PolyakSGD"):
        return {"value": loss(w)}
    return {"hessian": {"0": torch.full_like(w, 2.0)}} if name in ("AdaHessian", "Sophia") else {}


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_class_is_its_chain_and_trains(name: str, maximize: bool) -> None:
    recipe, options = CASES[name]
    p, w, tx = torch.nn.Parameter(START.clone()), START, recipe(**options)
    opt, state = getattr(gx.optim, name)([p], maximize=maximize, **options), tx.init({"0": w})
    for _ in range(60):
        extra, sign = given_to(name, p.detach()), -1 if maximize else 1
        p.grad = sign * 2 * (p.detach() - 1)
        opt.step(**{k: sign * v if k == "value" else v for k, v in extra.items()})
        updates, state = tx.update({"0": 2 * (w - 1)}, state, {"0": w}, **given_to(name, w))
        w = gx.apply_updates(w, updates["0"])
    torch.testing.assert_close(p.detach(), w, rtol=1e-4, atol=1e-5)
    assert (w - 1).norm() < (START - 1).norm()


@pytest.mark.parametrize("name", ["MoMo", "MoMoAdam", "PolyakSGD"])
def test_a_closure_gives_the_loss(name: str) -> None:
    ps = [torch.nn.Parameter(START.clone()) for _ in range(2)]
    ours, theirs = (getattr(gx.optim, name)([p]) for p in ps)

    def closure() -> Tensor:
        ours.zero_grad()
        found = loss(ps[0])
        found.backward()
        return found

    for _ in range(5):
        before = loss(ps[0]).item()
        assert ours.step(closure).item() == before
        ps[1].grad = 2 * (ps[1].detach() - 1)
        theirs.step(value=loss(ps[1].detach()))
    torch.testing.assert_close(ps[0], ps[1], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"needs value; .* step\(closure\)"):
        theirs.step()


def test_what_sophia_is_not_given_stays_as_it_was() -> None:
    p = torch.nn.Parameter(START.clone())
    opt = gx.optim.Sophia([p])
    p.grad = torch.ones(3)
    opt.step(hessian=[torch.full((3,), 2.0)])
    before = opt.state[p]["scale_by_sophia"]["nu"].clone()
    opt.step()
    assert torch.equal(opt.state[p]["scale_by_sophia"]["nu"], before)
    with pytest.raises(ValueError, match="scale_by_adahessian: needs hessian"):
        gx.optim.AdaHessian([p]).step()


def test_the_first_distance_is_not_that_of_an_option() -> None:
    p = torch.nn.Parameter(START.clone())
    opt = gx.optim.DoWG([p], eps=1e-2)
    opt.init_state()
    assert opt.state[p]["scale_by_dowg"]["shared"]["distance"].item() == pytest.approx(1e-4)
    with pytest.raises(TypeError, match="init_distance"):
        gx.optim.DoWG([p], init_distance=None)


def test_mechanize_takes_any_chain() -> None:
    p, w = torch.nn.Parameter(START.clone()), START
    opt = gx.optim.Mechanize([p], gx.scale_by_adam(), weight_decay=0.0, s_init=1e-3, num_betas=3)
    inner = gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(1.0))
    tx = gx.mechanize(inner, weight_decay=0.0, s_init=1e-3, num_betas=3)
    state = tx.init({"0": w})
    for t in range(40):
        rate = 1 - t / 40
        opt.param_groups[0]["lr"] = rate
        p.grad = 2 * (p.detach() - 1)
        opt.step()
        grads = {"0": 2 * (w - 1)}
        updates, state = tx.update(grads, state, {"0": w}, hyper={"lr": rate})
        w = gx.apply_updates(w, updates["0"])
    torch.testing.assert_close(p.detach(), w, rtol=1e-4, atol=1e-5)
    assert loss(w) < loss(START)
    both = gx.optim.Mechanize([p], gx.adamw(1.0), weight_decay=0.5).param_groups[0]
    assert both["mechanize.weight_decay"] == 0.5
    with pytest.raises(TypeError, match="transform must be a GradientTransformation"):
        gx.optim.Mechanize([p], "adam")  # type: ignore[arg-type]
