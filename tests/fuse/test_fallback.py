"""What runs where nothing can be fused."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.fuse import CannotFuseError, Fallback
from gradtx.fuse.runtime.engine import Engine
from tests.fuse.helpers import assert_same, copy, tensors

SHAPES = {"b": (7,), "w": (5, 6)}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a compiler."""

    def run(*_: Any) -> None:
        raise CannotFuseError("", "there is no compiler")

    monkeypatch.setattr(Engine, "run", run)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``torch.compile`` trace only: what it makes of the graph is not the question here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def chain() -> gx.GradientTransformation:
    return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.schedules.linear(0.1, 0.0, 10)))


def check_equal_to_pure(how: str) -> None:
    tx = chain()
    step = gx.fuse(tx, fallback=how)
    params = tensors(SHAPES, 0)
    state = tx.init(params)
    pure, pure_state = copy(params), tx.init(params)
    for t in range(4):
        grads: dict[str, Any] = tensors(SHAPES, t + 1)
        if t == 2:
            grads["b"] = None
        hyper = {"b1": 0.9 - 0.1 * t, "eps": {"b": 1e-8, "w": 1e-6}}
        before = params["w"]
        params, state = step(params, grads, state, hyper=hyper)
        assert params["w"] is before
        updates, pure_state = tx.update(grads, pure_state, pure, hyper=hyper)
        pure = gx.apply_updates(pure, updates)
    assert_same((params, state), (pure, pure_state))


@pytest.mark.usefixtures("no_kernels", "quick")
@pytest.mark.parametrize(
    ("how", "runs"), [("eager", "as torch operations"), ("compile", "through torch.compile")]
)
def test_the_result_is_that_of_the_chain_and_the_log_says_what_runs(how, runs, caplog):
    with caplog.at_level(logging.INFO, logger="gradtx"):
        check_equal_to_pure(how)
    assert [r.getMessage() for r in caplog.records if r.name == "gradtx"] == [
        f"gradtx.fuse: chain runs {runs}: there is no compiler"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.usefixtures("no_kernels")
def test_compiled_for_real(caplog):
    with caplog.at_level(logging.INFO, logger="gradtx"):
        check_equal_to_pure("compile")
    assert "failed" not in caplog.text


@pytest.mark.usefixtures("no_kernels")
def test_what_cannot_be_compiled_runs_eagerly(monkeypatch, caplog):
    def fails(*_: Any) -> None:
        raise RuntimeError("no toolchain\nmany more lines")

    monkeypatch.setattr(torch, "compile", lambda fn: fails)
    with caplog.at_level(logging.INFO, logger="gradtx"):
        check_equal_to_pure("compile")
    assert [r.getMessage() for r in caplog.records if r.name == "gradtx"] == [
        "gradtx.fuse: chain runs through torch.compile: there is no compiler",
        "gradtx: chain runs as torch operations: torch.compile failed: no toolchain",
    ]


@pytest.mark.usefixtures("quick")
def test_errors_are_those_of_the_chain():
    tx = gx.adamw(0.1)
    params = tensors(SHAPES, 0)
    run = Fallback(tx, "compile")
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.5"):
        run(params, tx.init(params), params, {"b1": 1.5})


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"must be one of \('eager', 'compile'\), got 'jit'"):
        gx.fuse(gx.scale(1.0), fallback="jit")
