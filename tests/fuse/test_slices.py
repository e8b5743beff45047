"""Sums and states of every n-th element of a leaf, in passes over flat leaves and matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.fuse.cuda.prelude import CHUNK, WIDTH
from tests.fuse.cuda_emulator import Emulated
from tests.fuse.helpers import assert_same, run_both, tensors

FUSED = "everything is fused"
SHAPES = {
    **{"scalar": (), "empty": (0,), "one": (1,), "five": (5,), "eleven": (11,), "twelve": (12,)},
    **{"row": (1, 23), "column": (23, 1), "deep": (4, 3, 3, 2), "no_columns": (3, 0)},
    **{"chunks": (2 * CHUNK + 3,), "tiles": (67, WIDTH + 9), "tall": (301, 5)},
}
# A numerator of the first step with all leaves at their start is zero, so d moves from the second.
CHAINS: dict[str, Callable[..., gx.GradientTransformation]] = {
    "flat": lambda step: gx.prodigy_adv(d0=0.1, slice_p=step, stochastic_rounding=False),
    "matrix": lambda step: gx.prodigy_adv(
        d0=0.1, slice_p=step, factored=True, stochastic_rounding=False
    ),
    "two passes": lambda step: gx.prodigy(d0=0.1, slice_p=step, weight_decay=0.1),
    "of an expression": lambda step: gx.prodigy_adv(
        d0=0.1, slice_p=step, orthograd=True, cautious=True, stochastic_rounding=False
    ),
    "for some steps": lambda step: gx.prodigy_adv(
        d0=0.1, slice_p=step, safeguard_warmup=True, prodigy_steps=2, stochastic_rounding=False
    ),
}


@pytest.mark.parametrize("step", [2, 5, 11, 32, 5000])
@pytest.mark.parametrize("name", CHAINS)
def test_fused_is_pure(name: str, step: int) -> None:
    fused, pure, run = run_both(CHAINS[name](step), SHAPES)
    assert run.report() == FUSED
    assert_same(fused, pure)


@pytest.mark.parametrize("step", [5, 11])
@pytest.mark.parametrize("name", CHAINS)
def test_emulated_is_pure(name: str, step: int, modules: list[Emulated]) -> None:
    fused, pure, run = run_both(CHAINS[name](step), SHAPES, steps=3)
    assert run.report() == FUSED
    assert any("gx_put" in module.launches for module in modules)
    assert_same(fused, pure)


@pytest.mark.parametrize("name", ["flat", "matrix"])
def test_nothing_depends_on_the_order_of_threads(name: str, modules: list[Emulated]) -> None:
    results = []
    for backwards in (False, True):
        tx, shapes = CHAINS[name](11), {"a": (130, WIDTH + 30), "b": (CHUNK + 5,)}
        step, params = gx.fuse(tx), tensors(shapes, 0)
        state = tx.init(params)
        for t in range(3):
            for module in modules:
                module.backwards = backwards
            step(params, tensors(shapes, t), state)
        results.append((params, state))
    assert_same(*results, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_codes_beside_slices(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "cuda":
        request.getfixturevalue("modules")
    codec = gx.codecs.blockwise(8, 64, min_size=0)
    tx = gx.prodigy(d0=0.1, slice_p=11, codec=codec)
    fused, pure, run = run_both(tx, {"w": (40, 100), "b": (3001,)}, steps=2)
    if kind == "cpu":
        assert run.report() == FUSED
    else:
        assert "on CUDA devices" in run.report()
    assert_same(fused[0], pure[0], rtol=1e-4, atol=1e-5)


class by_part(gx.LeafTransform):
    """Updates multiplied with a number that depends on some of their elements."""

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.fn = fn

    def update_leaf(self, u: Tensor, s: tuple[()], p: Tensor | None, h: Any) -> tuple[Tensor, Any]:
        return u * self.fn(u), s


PARTS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "every third": (lambda u: u.reshape(-1)[::3].abs().amax(), True),
    "of an expression": (lambda u: u.square().reshape(-1)[::3].sum(), True),
    "with a constant": (lambda u: (u.reshape(-1)[::2] + torch.ones(())).sum(), True),
    "beginning later": (lambda u: u.reshape(-1)[1::2].sum(), False),
    "ending earlier": (lambda u: u.reshape(-1)[:6:2].sum(), False),
    "of rows": (lambda u: u[::2].sum(), False),
    "mean": (lambda u: u.reshape(-1)[::2].mean(), False),
    "of a slice": (lambda u: u.reshape(-1)[::2][::3].sum(), False),
    "centred": (lambda u: (u - u.mean(1, keepdim=True)).reshape(-1)[::2].sum(), False),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str) -> None:
    fn, is_fused = PARTS[name]
    tx = gx.chain(by_part(fn), gx.scale(-0.01))  # sums of 200 numbers
    fused, pure, run = run_both(tx, {"w": (6, 4), "v": (61, 7)}, steps=2)
    assert (run.report() == FUSED) == is_fused, run.report()
    assert_same(fused, pure)
