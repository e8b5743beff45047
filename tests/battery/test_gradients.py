"""Unusual gradients: zero, missing, 0-d, empty, non-contiguous, other dtypes."""

from __future__ import annotations

from typing import Any

import torch

import gradtx as gx
from tests.table import Row

from .helpers import (
    STEPS,
    assert_close,
    call,
    grads_,
    leaf_states,
    params_,
    random_tree,
    run,
    same_bits,
    structure,
    tensors,
)


def zeros(step: int) -> Any:
    return gx.tree.zeros_like(params_())


def test_zero_gradients(row: Row) -> None:
    outs, state = run(row.make(), grads=zeros)
    assert all(torch.isfinite(x).all() for x in tensors((outs, state)))


def test_zero_parameters(row: Row) -> None:
    outs, state = run(row.make(), zeros(0))
    assert all(torch.isfinite(x).all() for x in tensors((outs, state)))


def without_b(tree: Any) -> Any:
    return {k: v for k, v in tree.items() if k != "b"}


def test_missing_gradient(row: Row) -> None:
    tx, params = row.make(), params_()
    _, state = run(tx, steps=2)
    out, new = call(tx, grads_(2) | {"b": None}, state, params)
    assert out["b"] is None
    assert structure(new) == structure(state)
    assert same_bits(leaf_states(new, params, 0), leaf_states(state, params, 0))
    out, _ = call(tx, grads_(3), new, params)
    assert structure(out) == structure(params)


def test_absent_leaf(row: Row) -> None:
    """A leaf without a gradient, or without a parameter, is as good as a leaf that is not there."""
    tx = row.make()
    alone, alone_state = run(tx, without_b(params_()), lambda step: without_b(grads_(step)))
    for params in (params_(), params_() | {"b": None}):
        outs, state = run(tx, params, lambda step: grads_(step) | {"b": None})
        assert same_bits([without_b(x) for x in outs], alone)
        for i in (1, 2):
            kept = leaf_states(state, params, i)
            assert same_bits(kept, leaf_states(alone_state, without_b(params), i - 1))


def test_all_gradients_missing(row: Row) -> None:
    tx, params = row.make(), params_()
    _, state = run(tx, steps=2)
    nothing = gx.tree.map(lambda _: None, params)
    out, new = call(tx, nothing, state, params)
    assert gx.tree.leaves(out) == []
    assert structure(new) == structure(state)
    for i in range(3):
        assert same_bits(leaf_states(new, params, i), leaf_states(state, params, i))


def test_no_leaves(row: Row) -> None:
    outs, _ = run(row.make(), {}, lambda step: {})
    assert outs == [{}] * STEPS


def test_zero_d_and_empty_leaves(row: Row) -> None:
    tx, full = row.make(), {"w": (3, 2), "s": ()}
    small = {"e": (0,), "m": (0, 3), "t": (2, 0, 1)}
    grads = {name: random_tree(7, shapes) for name, shapes in (("full", full), ("small", small))}
    ps = random_tree(8, full) | random_tree(8, small)
    outs, state = run(tx, ps, lambda step: grads["full"] | grads["small"])
    assert all(torch.isfinite(x).all() for x in tensors((outs, state)))
    assert [x.shape for x in tensors(outs[-1])] == [x.shape for x in tensors(ps)]
    plain, _ = run(tx, random_tree(8, full), lambda step: grads["full"])
    assert_close([{k: out[k] for k in full} for out in outs], plain)


def test_non_contiguous(row: Row) -> None:
    tx = row.make()
    base = random_tree(3, {"t": (4, 3), "x": (3, 1), "n": (6, 4)})
    strange = {
        "expanded": base["x"].expand(3, 4),
        "scalar": base["x"][1, 0].expand(4),
        "strided": base["n"][::2, 1:3],
        "transposed": base["t"].t(),
    }
    plain = gx.tree.map(lambda x: x.clone(memory_format=torch.contiguous_format), strange)
    for params in (plain, strange):
        outs, state = run(tx, params, lambda step: strange)
        want, want_state = run(tx, plain, lambda step: plain)
        assert_close(outs, want)
        assert_close(state, want_state)


def test_bf16(row: Row) -> None:
    """Half precision goes in; what happens is the float32 computation on the widened values."""
    tx, half = row.make(), torch.bfloat16
    params = params_(dtype=half)
    outs, state = run(tx, params, lambda step: grads_(step, dtype=half))
    want, want_state = run(
        tx,
        gx.tree.cast(params, torch.float32),
        lambda step: gx.tree.cast(grads_(step, dtype=half), torch.float32),
    )
    assert_close(gx.tree.cast(outs, torch.float32), want, rtol=1e-5)
    assert_close(state, want_state, rtol=1e-5)


def test_updates_are_widened(row: Row) -> None:
    """Updates travel in at least float32: a chain rounds once, at its end."""
    for half in (torch.bfloat16, torch.float16):
        outs, _ = run(row.make(), params_(dtype=half), lambda step, h=half: grads_(step, dtype=h))
        assert all(x.dtype == torch.float32 for x in tensors(outs))


def test_float64(row: Row) -> None:
    tx = row.make()
    outs, state = run(
        tx, params_(dtype=torch.float64), lambda step: grads_(step, dtype=torch.float64)
    )
    assert all(x.dtype == torch.float64 for x in tensors(outs)), "updates must be float64"
    numbers = [x.dtype for x in tensors(state) if x.ndim == 0]
    assert torch.float32 not in numbers, "numbers of the state that no codec made narrower"
    want, want_state = run(tx)
    for a, b in ((outs, want), (state, want_state)):
        assert structure(a) == structure(b)
        for x, y in zip(tensors(a), tensors(b), strict=True):
            torch.testing.assert_close(x.double(), y.double(), rtol=1e-4, atol=1e-5)


def test_mixed_dtypes(row: Row) -> None:
    """Every leaf keeps its own accumulator dtype beside leaves of other dtypes."""
    dtypes = {"b": torch.bfloat16, "deep": {"s": torch.float32}, "w": torch.float64}

    def mixed(tree: Any) -> Any:
        return gx.tree.map(lambda x, d: x.to(d), tree, dtypes)

    outs, state = run(row.make(), mixed(params_()), lambda step: mixed(grads_(step)))
    want = [torch.float32, torch.float32, torch.float64]
    got = [[torch.promote_types(x.dtype, torch.float32) for x in tensors(out)] for out in outs]
    assert got == [want] * STEPS
    again = call(row.make(), mixed(grads_(9)), state, mixed(params_()))[1]
    assert [x.dtype for x in tensors(again)] == [x.dtype for x in tensors(state)]
