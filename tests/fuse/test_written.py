"""What a step writes: unwritable parameters and shared memory are refused before anything is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.errors import UnsupportedLeafError
from gradtx.fuse import Written


def check(*params: Tensor) -> None:
    Written().check("step", params, lambda: [str(i) for i in range(len(params))])


def test_views_apart_in_one_memory_are_written():
    flat, matrix = torch.zeros(10), torch.zeros(4, 6)
    check(flat[:4], flat[4:4], flat[4:], torch.zeros(3))
    check(matrix[:, :2], matrix[:, 2:3], matrix[:, 3:])  # among each other, entry by entry
    check(matrix[:, ::2], matrix[:, 1::2])
    check(flat.view(torch.int32)[1:2], flat[2:])
    check(torch.zeros(9).as_strided((3, 2), (2, 3)))  # looks as if it overlapped


def _halves(x: Tensor) -> Tensor:
    return x.view(torch.float16)


SHARED: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "tied": lambda x: [x, x.view(-1)],
    "turned": lambda x: [x, x.t()],
    "first entry": lambda x: [x, x[0, :1]],
    "last entry": lambda x: [x.view(-1)[:5], x.view(-1)[4:]],
    "columns": lambda x: [x[:, :3], x[:, 2:]],
    "strided": lambda x: [x.view(-1)[::2], x.view(-1)[1::3]],
    "other dtype": lambda x: [x[:, :3], _halves(x[:, 3:]), _halves(x)[:, 5:6]],
    "the last two": lambda x: [x[:2], x[2:, ::2], x[3:, 1::2], x[2:, :1]],
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_memory_names_two(name: str) -> None:
    leaves = [torch.ones(2), *SHARED[name](torch.zeros(4, 6))]
    names = {"other dtype": "'1' and '3'", "the last two": "'2' and '4'"}
    with pytest.raises(ValueError, match=names.get(name, "'1' and '2'") + " share memory"):
        check(*leaves)


def _inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(4)


UNWRITABLE: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.ones(1).expand(4),
    "expanded rows": lambda: torch.ones(1, 3).expand(4, 3),
    "windows": lambda: torch.ones(6).as_strided((4, 3), (1, 1)),
    "inference": _inference,
    "zeros": lambda: torch._efficientzerotensor((4,)),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_unwritable_parameters(name: str) -> None:
    with pytest.raises(UnsupportedLeafError, match="step: parameter '1'"):
        check(torch.ones(2), UNWRITABLE[name]())


def test_inference_tensors_are_written_in_inference_mode():
    p = _inference()
    p.grad = None
    with torch.inference_mode():
        opt = gx.optim.SGD([p], lr=1.0)
        p.grad = torch.ones(4)
        opt.step()
    assert p.tolist() == [0.0] * 4


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("when", ["first", "later"])
def test_groups_with_chains_of_their_own_are_one_step(fused: Any, when: str) -> None:
    p, q = torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3))
    opt = gx.optim.SGD([{"params": [p], "momentum": 0.5}, {"params": [q]}], lr=1.0, fused=fused)
    p.grad, q.grad = torch.ones(3, 3), torch.ones(3)
    if when == "later":
        opt.step()
    q.data = p.data[1]
    before, state = p.detach().clone(), str(dict(opt.state))
    with pytest.raises(ValueError, match="SGD: parameters '0' and '1' share memory"):
        opt.step()
    assert torch.equal(p, before)
    assert str(dict(opt.state)) == state
    q.grad = None  # one of the two is written: nothing is wrong
    opt.step()


def test_names_of_parameters_and_of_functional_leaves():
    base = torch.zeros(4)
    named = [("a", torch.nn.Parameter(base[:3])), ("b", torch.nn.Parameter(base[2:]))]
    opt = gx.optim.SGD(named, lr=1.0)
    for _, p in named:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="'a' and 'b' share memory"):
        opt.step()
    step = gx.fuse(gx.sgd(1.0))
    params = {"x": {"w": base[:3]}, "y": base[2:]}
    state = step.transform.init(params)
    with pytest.raises(ValueError, match=r"fuse: parameters 'x\.w' and 'y' share memory"):
        step(params, gx.tree.map(torch.ones_like, params), state)
    assert not base.any()


@pytest.mark.parametrize("name", ["AdamW", "GaLoreAdamW"])
def test_steps_in_backward_look_too(name: str) -> None:
    base = torch.ones(4, 6)
    p, q = torch.nn.Parameter(base[:, :4]), torch.nn.Parameter(base[:, 3:])
    options = {"rank": 2} if name == "GaLoreAdamW" else {}
    with gx.optim.step_in_backward(getattr(gx.optim, name)([p, q], **options)):
        with pytest.raises(ValueError, match="'0' and '1' share memory"):
            (p.sum() + q.sum()).backward()
        assert torch.equal(base, torch.ones(4, 6))


def test_flat_buffers_stay_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that are pieces of one buffer are fused, and looked at once."""
    calls = []
    look = Written.check
    monkeypatch.setattr(Written, "check", lambda *a: (calls.append(1), look(*a)))
    flat = torch.zeros(12)
    params = [torch.nn.Parameter(x) for x in flat.split(4)]
    opt = gx.optim.AdamW(params, lr=0.1, fused=True)
    for _ in range(3):
        for p, g in zip(params, torch.ones(12).split(4), strict=True):
            p.grad = g
        opt.step()
    assert len(calls) == 1
    assert len(set(flat.tolist())) == 1
    assert flat[0] < 0
