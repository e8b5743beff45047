"""What Lightning does to an optimizer; the pattern without it, the real thing where installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx

from ..contract.cases import CASES, IDS, assert_equal, copies, parameters, run

case_ = pytest.mark.parametrize("case", CASES, ids=IDS)


def moved(value: Any) -> Any:
    """Lightning walks tensors, dicts and lists in ``optimizer.state``."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    assert isinstance(value, (dict, int, float)), type(value)
    return {k: moved(v) for k, v in value.items()} if isinstance(value, dict) else value


@case_
def test_state_is_walked_and_replaced(case):
    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine), case.make(theirs)
    run(opt, mine, range(2))
    run(plain, theirs, range(2))
    for p, state in opt.state.items():
        opt.state[p] = moved(state)
    run(opt, mine, range(2, 4))
    run(plain, theirs, range(2, 4))
    assert_equal(mine, theirs)


@case_
def test_step_with_a_closure_that_returns_the_loss(case):
    params = parameters()
    opt = case.make(params)
    before = copies(params)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    first = opt.step(closure=closure)
    assert isinstance(first, torch.Tensor)
    opt.step(closure=closure)
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))


@case_
def test_toggled_parameters(case):
    """``toggle_optimizer`` turns requires_grad off: those get no gradient and stay."""
    params = parameters()
    opt = case.make(params)
    for active in (range(4), range(2), range(2, 4)):
        opt.zero_grad()
        for i, p in enumerate(params):
            p.requires_grad_(i in active)
        before = copies(params)
        sum(p.sin().sum() for p in params).backward()
        opt.step()
        for i, p in enumerate(params):
            if i not in active:
                assert torch.equal(p, before[i])


@case_
def test_wrapper_that_copies_the_instance_dict(case):
    params = parameters()
    opt = case.make(params)

    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.__dict__ = {k: v for k, v in vars(optimizer).items() if k != "step"}
            self.__class__ = type(
                "Lightning" + type(optimizer).__name__, (Wrapper, type(optimizer)), {}
            )
            self.optimizer = optimizer

        def step(self, closure: Any = None) -> Any:
            return self.optimizer.step(closure)

    wrapped = Wrapper(opt)
    before = copies(params)
    run(wrapped, params, range(2))
    assert isinstance(wrapped, torch.optim.Optimizer)
    assert not torch.equal(params[0], before[0])
    assert wrapped.state is opt.state


def test_fit():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return gx.optim.AdamW(self.parameters(), lr=0.1)

    module = Module()
    before = copies(module.parameters())
    data = torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(max_steps=2, accelerator="cpu", **options).fit(module, data)
    assert not torch.equal(before[0], module.layer.weight)
