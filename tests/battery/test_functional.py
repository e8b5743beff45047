"""torch.func.vmap, torch.func.grad and torch.compile of an update."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import gradtx as gx
from tests.table import ROWS, Row

from .helpers import Dynamic, assert_close, call, dynamics, grads_, params_, run, tensors

BATCH = 3


def pick(tree: Any, i: int) -> Any:
    return gx.tree.map(lambda x: x[i], tree)


def stack(trees: list[Any]) -> Any:
    return gx.tree.map(lambda *xs: torch.stack(xs), *trees)


def test_vmap(row: Row) -> None:
    """A batch of trees in one call is the same as a run for each."""
    tx = row.make()
    params = stack([params_(), *(grads_(50 + i) for i in range(BATCH - 1))])
    state = torch.func.vmap(tx.init)(params)
    step = torch.func.vmap(lambda g, s, p: call(tx, g, s, p))
    outs = []
    for t in range(3):
        out, state = step(stack([grads_(10 * t + i) for i in range(BATCH)]), state, params)
        outs.append(out)
    for i in range(BATCH):
        want, want_state = run(tx, pick(params, i), lambda t, i=i: grads_(10 * t + i), steps=3)
        assert_close([pick(out, i) for out in outs], want, rtol=1e-5)
        assert_close(pick(state, i), want_state, rtol=1e-5)


def test_vmap_hyper(row: Row) -> None:
    """Every dynamic hyperparameter may be batched."""
    tx, params = row.make(), params_()
    _, state = run(tx, steps=1)
    grads = grads_(1)
    for d in dynamics(tx):
        values = torch.tensor([d.other_value(share) for share in (0.2, 0.5, 0.8)])

        def step(value: torch.Tensor, d: Dynamic = d) -> Any:
            return call(tx, grads, state, params, hyper={d.key: value})

        outs, states = torch.func.vmap(step)(values)
        for i, value in enumerate(values):
            want, want_state = step(value)
            assert_close(pick(outs, i), want, rtol=1e-5)
            assert_close(pick(states, i), want_state, rtol=1e-5)


def with_seed(node: Any, seed: Any) -> Any:
    """A transform with another seed wherever it or anything inside has one."""
    if isinstance(node, Mapping):
        return {k: with_seed(v, seed) for k, v in node.items()}
    if isinstance(node, tuple) and not hasattr(node, "_fields"):
        return tuple(with_seed(v, seed) for v in node)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return node
    parts = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
    new = {k: seed if k == "seed" else with_seed(v, seed) for k, v in parts.items()}
    return dataclasses.replace(node, **{k: v for k, v in new.items() if v is not parts[k]})


def test_vmap_seed(row: Row) -> None:
    """The members of an ensemble draw numbers of their own if the seed is mapped over."""
    if with_seed(row.make(), 17) == row.make():
        return
    params, grads = params_(), [grads_(1), grads_(2)]

    def steps(seed: Any) -> Any:
        tx = with_seed(row.make(), seed)
        state, outs = tx.init(params), []
        for each in grads:
            out, state = call(tx, each, state, params)
            outs.append(out)
        return outs, state

    outs, states = torch.func.vmap(steps)(torch.tensor([17, -3]))
    wants = [steps(17), steps(-3)]
    for i, (want, want_state) in enumerate(wants):
        assert_close(pick(outs, i), want, rtol=1e-5)
        assert_close(pick(states, i), want_state, rtol=1e-5)


def test_grad_through_update(row: Row) -> None:
    tx, params = row.make(), params_()
    _, state = run(tx, steps=1)

    def total(grads: Any) -> torch.Tensor:
        first, new = call(tx, grads, state, params)
        second, _ = call(tx, grads, new, params)
        return sum(u.sum() for u in tensors((first, second)))

    slopes = torch.func.grad(total)(grads_(1))
    assert all(torch.isfinite(x).all() for x in tensors(slopes))


def test_grad_through_hyper(row: Row) -> None:
    tx, params = row.make(), params_()
    _, state = run(tx, steps=1)
    values = {d.key: torch.tensor(d.other_value()) for d in dynamics(tx)}
    if not values:
        return

    def total(hyper: Any) -> torch.Tensor:
        return sum(u.sum() for u in tensors(call(tx, grads_(1), state, params, hyper=hyper)))

    slopes = torch.func.grad(total)(values)
    assert all(torch.isfinite(x).all() for x in tensors(slopes))


@pytest.fixture
def clean_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("clean_dynamo")
def test_compile(row: Row) -> None:
    """One graph, the numbers of eager mode, and no recompilation for other values."""
    tx, params = row.make(), params_()

    def step(grads: Any, state: Any, hyper: Any) -> Any:
        return call(tx, grads, state, params, hyper=hyper)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    state = want_state = tx.init(params)
    for t in range(3):
        hyper = {d.key: torch.tensor(d.other_value(0.1 + 0.2 * t)) for d in dynamics(tx)}
        with torch.compiler.set_stance("fail_on_recompile" if t else "default"):
            out, state = compiled(grads_(t), state, hyper)
        want, want_state = step(grads_(t), want_state, hyper)
        assert_close(out, want, rtol=1e-5)
        assert_close(state, want_state, rtol=1e-5)


# What Inductor generates code for, one row each; MicroAdam's last block is shorter than others.
INDUCTOR = ("microadam", "adamw", "adafactor", "galore_adamw", "scale_by_sm3")


def chosen_rows(names: tuple[str, ...]) -> list[Any]:
    first = [next(row for row in ROWS if row.name == name) for name in names]
    slow = [[], *([pytest.mark.slow] for _ in first[1:])]
    return [pytest.param(r, id=r.id, marks=m) for r, m in zip(first, slow, strict=True)]


@pytest.mark.usefixtures("clean_dynamo")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # Inductor itself
@pytest.mark.parametrize("sample", chosen_rows(INDUCTOR))
def test_inductor(sample: Row) -> None:
    """The numbers of eager mode with the compiler's own back end."""
    shapes = {"w": (7, 5)}
    tx, params = sample.make(), params_(shapes)
    compiled = torch.compile(lambda g, s: call(tx, g, s, params), fullgraph=True)
    state = want_state = tx.init(params)
    for t in range(2):
        out, state = compiled(grads_(t, shapes), state)
        want, want_state = call(tx, grads_(t, shapes), want_state, params)
        assert_close(out, want, rtol=1e-5)
        assert_close(state, want_state, rtol=1e-5)
