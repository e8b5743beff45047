"""The option ``fallback``: what runs where a chain is not fused."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.fuse import CannotFuseError
from gradtx.fuse.runtime.engine import Engine

from .cases import (
    BY_NAME,
    assert_close,
    assert_same_state,
    parameters,
    run,
    set_gradients,
    snapshot,
)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let ``torch.compile`` trace only; grows with every call of what it made."""
    calls: list[int] = []
    compile = functools.partial(torch.compile, backend="eager")

    def counting(fn: Any) -> Any:
        compiled = compile(fn)

        def call(*args: Any) -> Any:
            calls.append(1)
            return compiled(*args)

        return call

    monkeypatch.setattr(torch, "compile", counting)
    return calls


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "scheduled_momentum",
        pytest.param("clip_adam_cautious", marks=slow),
        pytest.param("multi_steps", marks=slow),
    ],
)
def test_compiled_equals_eager(name, quick, caplog):
    case = BY_NAME[name]
    mine, theirs = parameters(), parameters()
    opt = case.make(mine, fused=False, fallback="compile")
    plain = case.make(theirs, fused=False)
    with caplog.at_level(logging.INFO, logger="gradtx"):
        for t in range(5):
            set_gradients(mine, t)
            set_gradients(theirs, t)
            if t == 3:
                mine[1].grad = theirs[1].grad = None
            for o in (opt, plain):
                o.param_groups[0]["lr"] = 0.01 / (t + 1)
                o.step()
    assert len(quick) == 5
    assert "failed" not in caplog.text
    assert_close(mine, theirs, rtol=1e-5)
    assert list(snapshot(opt)) == list(snapshot(plain))


def test_a_device_without_kernels(monkeypatch, quick, caplog):
    def unknown(*_: Any) -> None:
        raise CannotFuseError("", "there is no back end for npu")

    monkeypatch.setattr(Engine, "prepare", unknown)
    mine, theirs = parameters(), parameters()
    opt, plain = gx.optim.Lion(mine, fallback="compile"), gx.optim.Lion(theirs, fused=False)
    with caplog.at_level(logging.INFO, logger="gradtx"):
        run(opt, mine, range(4))
    run(plain, theirs, range(4))
    assert_close(mine, theirs, rtol=1e-5)
    assert len(quick) == 4
    lines = [r.getMessage() for r in caplog.records if r.name == "gradtx"]
    assert len(lines) == 1
    assert lines[0].endswith(" runs through torch.compile: there is no back end for npu")


def test_fused_steps_do_not_compile(quick):
    params = parameters()
    run(gx.optim.AdamW(params, fused=True, fallback="compile"), params, range(3))
    assert not quick


def test_the_option_is_kept_in_state_dicts():
    params = parameters()
    opt = gx.optim.AdamW(params, fallback="compile")
    run(opt, params, range(2))
    other = gx.optim.AdamW(parameters())
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["fallback"] == "compile"
    old = opt.state_dict()
    del old["param_groups"][0]["fallback"]
    other = gx.optim.AdamW(parameters())
    other.load_state_dict(old)
    assert other.param_groups[0]["fallback"] == "eager"
    assert_same_state(snapshot(other), snapshot(opt))


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"AdamW: fallback must be one of .*, got 'jit'"):
        gx.optim.AdamW(parameters(), fallback="jit")
