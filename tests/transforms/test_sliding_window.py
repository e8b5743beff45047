"""Moments over a window, dense and sparse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradtx as gx
from gradtx import compressors

seeds = st.integers(0, 2**32 - 1)


def draws(seed: int, steps: int, shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def moments(rows: list[Tensor], b1: float, b2: float, count: int) -> tuple[Tensor, Tensor]:
    """In float64, the newest row last."""
    first = sum(b1**age * row.double() for age, row in enumerate(reversed(rows)))
    second = sum(b2**age * row.double() ** 2 for age, row in enumerate(reversed(rows)))
    gains = [(1 - b) / (1 - b**count) for b in (b1, b2)]
    return gains[0] * first, (gains[1] * second).sqrt()


@given(
    seeds,
    st.sampled_from([1, 2, 5]),
    st.sampled_from([None, compressors.top_k(0.3), compressors.block_top_k(0.3, 8)]),
    st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.5, 0.0)]),
    st.sampled_from(["steps", "window"]),
)
def test_formula(
    seed: int, window: int, keep: Any, betas: tuple[float, float], correction: str
) -> None:
    p, *grads = draws(seed, 8, (5, 7))
    options = {
        "window": window,
        "compressor": keep,
        "bias_correction": correction,
        "state_dtype": torch.float32,
    }
    adam = gx.sliding_window_adam(*betas, eps=1e-3, **options)
    bounded = gx.sliding_window_moments(*betas, **options)
    states, rows = [adam.init(p), bounded.init(p)], []
    for t, g in enumerate(grads, 1):
        payload = g if keep is None else keep.compress(g, ())[0]
        rows.append(g if keep is None else payload.to_dense())
        count = min(t, window) if correction == "window" else t
        first, root = moments(rows[-window:], *betas, count)
        update, states[0] = adam.update(payload, states[0], p)
        # multiplied out, because the first moment may cancel where the second is zero
        torch.testing.assert_close(update * (root + 1e-3), first, rtol=1e-5, atol=1e-6)
        update, states[1] = bounded.update(payload, states[1], p)
        torch.testing.assert_close(update.double(), gx.atan2(first, root), rtol=1e-5, atol=1e-6)


def test_what_leaves_the_window_is_forgotten() -> None:
    keep = compressors.top_k(k=1)
    tx = gx.chain(gx.compress(keep), gx.sliding_window_adam(window=2, compressor=keep))
    state = tx.init(torch.zeros(3))
    touched = []
    for i in (0, 1, 2, 2):
        update, state = tx.update(torch.eye(3)[i], state)
        touched.append(update.nonzero().flatten().tolist())
    assert touched == [[0], [0, 1], [1, 2], [2]]


def test_values_are_rounded_once() -> None:
    """The newest value is read back as it is stored."""
    tx = gx.sliding_window_adam(eps=1e-30)
    update, state = tx.update(torch.tensor([1.001]), tx.init(torch.zeros(1)))
    assert state.values.dtype == torch.bfloat16
    assert state.values[0].item() == 1.0
    assert update.item() == pytest.approx(1.0, abs=1e-6)


def test_slopes() -> None:
    """Derivatives with respect to updates and hyperparameters are those of the formula."""
    keep = compressors.block_top_k(0.5, 4)
    tx = gx.sliding_window_adam(0.8, 0.9, 3, keep, state_dtype=torch.float32, eps=1e-2)
    p, *grads = [x.double() for x in draws(0, 4, (2, 4))]
    tx_state = tx.init(p)

    def total(g: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
        state, out = tx_state, 0.0
        for other in (*grads[:2], g):
            payload = keep.compress(other, ())[0]
            update, state = tx.update(payload, state, p, hyper={"b1": b1, "b2": b2})
            out = out + (update * torch.arange(8.0).reshape(2, 4)).sum()
        return out

    args = [grads[2], torch.tensor(0.8).double(), torch.tensor(0.9).double()]
    slopes = torch.func.grad(total, (0, 1, 2))(*args)
    for i, slope in enumerate(slopes):
        direction = torch.ones_like(args[i])
        around = []
        for sign in (1, -1):
            moved = list(args)
            moved[i] = args[i] + sign * 1e-3 * direction
            around.append(total(*moved))
        numeric = (around[0] - around[1]) / 2e-3
        torch.testing.assert_close(slope.sum(), numeric, rtol=2e-3, atol=2e-3)


def test_updates_must_be_what_the_compressor_makes() -> None:
    p = torch.zeros(8)
    keep = compressors.top_k(0.5)
    sparse = keep.compress(torch.ones(8), ())[0]
    tx = gx.sliding_window_adam()
    with pytest.raises(gx.TreeMismatchError, match="the update is a SparseUpdate, but compressor"):
        tx.update(sparse, tx.init(p))
    tx = gx.sliding_window_adam(compressor=keep)
    with pytest.raises(gx.TreeMismatchError, match="the update is a Tensor, but compressor is top"):
        tx.update(p, tx.init(p))
    fewer = compressors.top_k(0.25).compress(torch.ones(8), ())[0]
    with pytest.raises(gx.TreeMismatchError, match=r"4 entries in each of 10 rows.*\(2,\)"):
        tx.update(fewer, tx.init(p))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"window": True}, ValueError, "window must be an integer >= 1, got True"),
        ({"compressor": compressors.sign()}, TypeError, "compressor must be a sparse one"),
        (
            {"state_dtype": torch.int16},
            ValueError,
            "state_dtype must be torch.float32 or torch.bfloat16",
        ),
        ({"eps": 0.0}, ValueError, r"eps must be in \(0, inf\)"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"sliding_window_adam: {words}"):
        gx.sliding_window_adam(**options)
