"""The classes that estimate their own learning rate."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor

import gradtx as gx
from tests.transforms.test_prodigy import assert_close, draw, pull, shared, steps

CLASSES = {
    "Prodigy": {"beta3": 0.9},
    "ProdigyAdv": {"slice_p": 1},
    "ProdigyLionAdv": {"clip_threshold": 0.5, "slice_p": 2},
}
every_class = pytest.mark.parametrize("name", CLASSES)


def leaves() -> list[Tensor]:
    return [torch.nn.Parameter(p) for p in draw(100).values()]


def advance(
    opt: torch.optim.Optimizer, params: list[torch.nn.Parameter], start: int, n: int
) -> None:
    for t in range(start, start + n):
        grads = pull({str(i): p.detach() for i, p in enumerate(params)}, t)
        for p, g in zip(params, grads.values(), strict=True):
            p.grad = g
        opt.step()


@every_class
def test_class_is_its_recipe(name: str) -> None:
    """Fused or not; d is what the chain estimates."""
    recipe = {"Prodigy": gx.prodigy, "ProdigyAdv": gx.prodigy_adv}.get(name, gx.prodigy_lion_adv)
    params, options = leaves(), {"d0": 1e-2, "weight_decay": 0.1, **CLASSES[name]}
    opt = getattr(gx.optim, name)(params, lr=0.5, **options)
    assert opt.d is None
    advance(opt, params, 0, 6)
    want, state = steps(recipe(0.5, **options), 6)
    assert_close([p.detach() for p in params], list(want.values()))
    assert opt.d.item() == pytest.approx(shared(state).d.item(), rel=1e-5)
    assert opt.dlr.item() == pytest.approx(shared(state).dlr.item(), rel=1e-5)
    assert opt.d > 1e-2


@every_class
def test_resume_is_bit_exact(name: str) -> None:
    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.3}]
        return getattr(gx.optim, name)(groups, lr=0.5, d0=1e-2, **CLASSES[name])

    params = leaves()
    opt = make(params)
    advance(opt, params, 0, 5)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    again = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = make(again)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.d == opt.d
    advance(opt, params, 5, 4)
    advance(resumed, again, 5, 4)
    assert all(torch.equal(a, b) for a, b in zip(params, again, strict=True))
    assert resumed.d == opt.d


@every_class
def test_groups_share_one_estimate(name: str) -> None:
    params = leaves()
    opt = getattr(gx.optim, name)(
        [{"params": params[:1], "lr": 0.0}, {"params": params[1:]}], d0=1e-2, **CLASSES[name]
    )
    advance(opt, params, 0, 4)
    assert torch.equal(params[0], leaves()[0])
    assert opt.dlr > 0
    before = copy.deepcopy(opt.state_dict()), [p.detach().clone() for p in params]
    opt.param_groups[0]["lr"] = 0.3
    with pytest.raises(ValueError, match=f"{name}: groups must have the same lr, or 0"):
        opt.step()
    opt.param_groups[0].update(lr=1.0, d0=0.5)
    with pytest.raises(ValueError, match=f"{name}: groups must agree in .*d0"):
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before[1], strict=True))
    assert_close(opt.state_dict()["state"], before[0]["state"], rtol=0, atol=0)


@every_class
def test_groups_of_other_chains_are_refused_at_once(name: str) -> None:
    a, b = ({"params": [torch.nn.Parameter(torch.ones(3))]} for _ in range(2))
    cls, options = getattr(gx.optim, name), CLASSES[name]
    with pytest.raises(ValueError, match=f"{name}: groups must agree in .*d0"):
        cls([a, b | {"d0": 0.5}], **options)
    opt = cls([a], **options)
    with pytest.raises(ValueError, match=f"{name}: groups must agree in .*growth_rate"):
        opt.add_param_group(b | {"growth_rate": 1.5})
    opt.add_param_group(b)
    assert len(opt.param_groups) == 2


@every_class
def test_schedulers_act_at_once(name: str) -> None:
    def moved(schedule: bool) -> Tensor:
        params = leaves()
        opt = getattr(gx.optim, name)(params, d0=1e-2, **CLASSES[name])
        scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
        advance(opt, params, 0, 3)
        if schedule:
            scheduler.step()
        before = params[0].detach().clone()
        advance(opt, params, 3, 1)
        return params[0].detach() - before

    torch.testing.assert_close(moved(True), 0.5 * moved(False), rtol=1e-3, atol=1e-6)
