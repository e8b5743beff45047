"""A step that is refused has written nothing: no parameter, no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.errors import UnsupportedLeafError

from .cases import asked, leaves
from .every import CLASSES, make

Spoil = Callable[[torch.optim.Optimizer, torch.nn.Parameter], None]


def expanded(opt: torch.optim.Optimizer, p: torch.nn.Parameter) -> None:
    p.data = torch.ones(1).expand(7)


def shrunk(opt: torch.optim.Optimizer, p: torch.nn.Parameter) -> None:
    p.grad = None
    p.data = torch.ones(3)
    p.grad = torch.ones(3)


def _change(opt: torch.optim.Optimizer, p: torch.nn.Parameter, change: Any) -> bool:
    def visit(nested: dict[str, Any]) -> bool:
        for key, x in nested.items():
            if isinstance(x, dict) and visit(x):
                return True
            if isinstance(x, Tensor) and (new := change(x)) is not None:
                nested[key] = new
                return True
        return False

    return visit(opt.state[p])


def cut_state(opt: torch.optim.Optimizer, p: torch.nn.Parameter) -> None:
    if not _change(opt, p, lambda x: x[1:].clone() if x.ndim and len(x) > 1 else None):
        pytest.skip("there is no state of the parameter's size")


def float_counter(opt: torch.optim.Optimizer, p: torch.nn.Parameter) -> None:
    if not _change(opt, p, lambda x: x.double() if x.dtype == torch.int32 else None):
        pytest.skip("there is no counter")


@pytest.mark.parametrize(
    "fused",
    [pytest.param(None, id="fused"), pytest.param(False, id="torch", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("spoil", [expanded, shrunk, cut_state, float_counter])
def test_a_bad_last_leaf_leaves_all_as_it_was(spoil: Spoil, cls: type, fused: Any) -> None:
    params = [torch.nn.Parameter(torch.full(s, 2.0)) for s in ((6, 5), (4, 3), (7,))]
    opt = make(cls, params, fused=fused)
    for t in range(2):
        for i, p in enumerate(params):
            p.grad = torch.arange(p.numel()).reshape(p.shape).sub(5 * i).cos() + t
        opt.step(**asked(opt))
    if spoil is shrunk and (not opt.state[params[-1]] or cls is gx.optim.NoisySGD):
        pytest.skip("there is no state that could not fit")  # a counter and a key fit any
    spoil(opt, params[-1])
    given = asked(opt)
    owned = [*params, *(x for p in params for _, x in leaves(opt.state[p]))]
    before = [x.clone() if isinstance(x, Tensor) else x for x in owned]
    with pytest.raises((UnsupportedLeafError, ValueError), match=r"parameter '2'|unsupported"):
        opt.step(**given)
    now = [*params, *(x for p in params for _, x in leaves(opt.state[p]))]
    assert [id(x) for x in now] == [id(x) for x in owned]
    for x, y in zip(owned, before, strict=True):
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "torch"])
@pytest.mark.parametrize("bad", [float("nan"), -1.0])
def test_a_tensor_learning_rate_keeps_its_interval(bad: float, fused: Any) -> None:
    rate, p = torch.tensor(0.1), torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"AdamW: lr must be in \[0, inf\), got"):
        gx.optim.AdamW([p], lr=torch.tensor(bad))
    opt = gx.optim.AdamW([p], lr=rate, fused=fused)
    p.grad = torch.ones(3)
    for _ in range(3):
        opt.step()
    before = p.detach().clone()
    rate.fill_(bad)
    with pytest.raises(ValueError, match=r"lr must be in \[0, inf\), got"):
        opt.step()
    assert torch.equal(p, before)


def test_a_damaged_state_is_refused_when_it_is_loaded():
    p = torch.nn.Parameter(torch.ones(3))
    opt = gx.optim.ScheduleFreeAdamW([p])
    p.grad = torch.ones(3)
    opt.step()
    for spoil in (cut_state, float_counter):
        saved = gx.optim.ScheduleFreeAdamW([p])
        saved.load_state_dict(opt.state_dict())
        spoil(saved, p)
        with pytest.raises(ValueError, match="the state of parameter '0' does not fit: "):
            opt.load_state_dict(saved.state_dict())
