"""Groups whose options give them chains of their own: one step, fused, all or nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.optim import optimizer as steps

from .cases import assert_close, assert_equal, assert_same_state, copies, set_gradients, snapshot
from .cases import parameters as made

SHAPES = ((12, 8), (8, 12), (12,), (300,), ())


def leaves() -> list[Tensor]:
    return made(shapes=SHAPES)


def muon(params: list[Tensor], **options: Any) -> gx.optim.Optimizer:
    groups = [{"params": params[:2]}, {"params": params[2:], "matrix": False, "lr": 0.01}]
    return gx.optim.Muon(groups, lr=0.1, **options)


def micro(params: list[Tensor], second: dict[str, Any], **options: Any) -> gx.optim.Optimizer:
    groups = [{"params": params[:3]}, {"params": params[3:], **second}]
    return gx.optim.MicroAdam(groups, lr=0.1, block_size=64, quant_block_size=8, **options)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows where a chain is not fused."""
    seen: list[Any] = []
    compute = steps.compute

    def counted(self: Any, tx: Any, *args: Any) -> Any:
        seen.append(tx)
        return compute(self, tx, *args)

    monkeypatch.setattr(steps, "compute", counted)
    return seen


@pytest.mark.parametrize(("whose", "where"), [(2, 0), (0, 3)])
def test_gradients_in_the_memory_of_another_chain(whose: int, where: int) -> None:
    """They count as they were before the step, whichever chain is written first."""
    mine, theirs = leaves(), leaves()
    optimizer, plain = muon(mine), muon(theirs, fused=False)
    for t in range(5):
        set_gradients(mine, t)
        set_gradients(theirs, t)
        if t in (0, 2, 3):  # with new tables, with those of another step, and once more
            there, shape = mine[where].detach(), mine[whose].shape
            mine[whose].grad = there.view(-1)[: shape.numel()].view(shape)
            theirs[whose].grad = mine[whose].grad.clone()
        optimizer.step()
        plain.step()
    assert_close(mine, theirs, rtol=1e-5)


def test_all_of_them_are_fused(computed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = leaves(), leaves()
    fused, plain = muon(mine, fused=True), muon(theirs, fused=False)
    names, looked = gx.optim.Optimizer._names, []
    monkeypatch.setattr(
        gx.optim.Optimizer, "_names", lambda self: (looked.append(self), names(self))[1]
    )
    for t in range(4):
        set_gradients(mine, t)
        set_gradients(theirs, t)
        for group in (*fused.param_groups, *plain.param_groups):
            group["lr"] *= 0.9
        fused.step()
        assert not computed
        plain.step()
        computed.clear()
    assert_close(mine, theirs, rtol=1e-4)
    assert looked.count(fused) == 1  # the others are the same step again


def test_a_group_without_gradients_for_a_step(computed: list[Any]) -> None:
    mine, theirs = leaves(), leaves()
    fused, plain = muon(mine), muon(theirs, fused=False)
    for t in range(5):
        for params, optimizer in ((mine, fused), (theirs, plain)):
            set_gradients(params, t)
            for p in params[2 * (t % 2) :][:2]:
                p.grad = None
            optimizer.step()
    assert_close(mine, theirs, rtol=1e-4)
    assert len(computed) == 7  # those of the other one: one chain in three steps, two in two


def test_one_group_may_do_without(computed: list[Any]) -> None:
    mine, theirs = leaves(), leaves()
    mixed, plain = muon(mine), muon(theirs, fused=False)
    mixed.param_groups[1]["fused"] = False
    for t in range(3):
        set_gradients(mine, t)
        set_gradients(theirs, t)
        mixed.step()
        assert computed.pop() is mixed.transform_of(mixed.param_groups[1])
        assert not computed
        plain.step()
        computed.clear()
    assert_close(mine, theirs, rtol=1e-4)


@pytest.mark.parametrize("second", [{"density": 0.1}, {"nonfinite": "skip"}])
@pytest.mark.parametrize("bad", [0, 3])
def test_nothing_changes_when_a_kernel_refuses_its_gradients(second, bad) -> None:
    params = leaves()
    optimizer = micro(params, second)
    for t in range(2):
        set_gradients(params, t)
        optimizer.step()
    before, values = snapshot(optimizer), copies(params)
    set_gradients(params, 2)
    params[bad].grad.view(-1)[-1] = math.nan
    if bad == 3 and "nonfinite" in second:
        optimizer.step()
        assert torch.equal(params[bad], values[bad])
        assert not torch.equal(params[0], values[0])
        return
    with pytest.raises(ValueError, match="has a NaN or an infinity; nothing"):
        optimizer.step()
    assert_same_state(snapshot(optimizer), before)
    assert_equal(params, values)


def test_two_kernels_that_may_refuse_are_no_single_step() -> None:
    params = leaves()
    set_gradients(params, 0)
    with pytest.raises(RuntimeError, match="fused=True, but the step of another group may fail"):
        micro(params, {"density": 0.1}, fused=True).step()
    assert_equal(params, leaves())
