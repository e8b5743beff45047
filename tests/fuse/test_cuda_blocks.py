"""Codes and random numbers in generated CUDA C++, run on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core.numbered import of_parts
from gradtx.fuse.cuda.prelude import CHUNK
from tests.fuse.cuda_emulator import Emulated
from tests.fuse.helpers import assert_same, run_both

SHAPES = {
    **{"empty": (0,), "few": (3,), "odd": (5, 13), "block": (2, 64)},
    **{"tail": (3, 65), "chunk": (CHUNK,), "more": (CHUNK + 129,)},
}


def coded(bits: int, size: int) -> Any:
    return gx.codecs.blockwise(bits, size, min_size=0)


def adam(bits: int, size: int) -> gx.GradientTransformation:
    codec = coded(bits, size)
    return gx.chain(gx.scale_by_adam(mu_codec=codec, nu_codec=codec), gx.scale(-0.1))


CHAINS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "8 bits": lambda: adam(8, 256),
    "4 bits": lambda: adam(4, 128),
    "one line": lambda: adam(8, 64),
    "the largest": lambda: adam(4, 2048),
    "both widths": lambda: gx.chain(
        gx.scale_by_adam(mu_codec=coded(4, 128), nu_codec=coded(8, 128)), gx.scale(-0.1)
    ),
    "clipped": lambda: gx.chain(gx.clip_by_global_norm(0.5), adam(8, 256)),
    "with a mean": lambda: gx.chain(gx.ema(0.5, codec=coded(8, 256)), gx.cautious_mask()),
    "rounded": lambda: gx.chain(adam(8, 256), gx.stochastic_round(seed=3)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_codes(name: str, modules: list[Emulated]) -> None:
    fused, pure, step = run_both(CHAINS[name](), SHAPES, steps=3)
    assert step.report() == "everything is fused"
    # An element may get a neighbouring level.
    assert_same(fused, pure, rtol=0.05, atol=2e-3)
    close = [
        (a - b).abs() <= 1e-5 + 1e-4 * b.abs()
        for a, b in zip(fused[0].values(), pure[0].values(), strict=True)
    ]
    assert sum(int(c.sum()) for c in close) >= 0.999 * sum(c.numel() for c in close)


@pytest.mark.parametrize("make", [gx.adamw, lambda lr: gx.adam_adv(lr, factored=True)])
def test_random_numbers(make: Any, modules: list[Emulated]) -> None:
    """Flat leaves and matrices round up where the pure chain does."""
    tx = gx.chain(make(0.1), gx.stochastic_round(seed=5))
    fused, pure, step = run_both(tx, SHAPES, steps=2, dtype=torch.bfloat16)
    assert step.report() == "everything is fused"
    assert_same(fused, pure, rtol=0.01, atol=1e-3)


def test_random_numbers_of_parts(modules: list[Emulated]) -> None:
    """Parts of leaves draw what the pure chain draws for them."""
    tx = of_parts(gx.chain(gx.scale(-0.1), gx.stochastic_round(seed=5)))
    hyper = {"part_first": 2**40 + 3, "part_length": 7, "part_distance": 2**33 + 1}
    fused, pure, step = run_both(tx, SHAPES, steps=2, dtype=torch.bfloat16, hyper=hyper)
    assert step.report() == "everything is fused"
    assert_same(fused, pure, rtol=0, atol=0)


@pytest.mark.parametrize("size", [32, 96, 4096])
def test_blocks_that_warps_cannot_share_run_as_torch_operations(
    size: int, modules: list[Emulated]
) -> None:
    fused, pure, step = run_both(adam(8, size), SHAPES, steps=2)
    assert "on CUDA devices" in step.report()
    assert_same(fused, pure)
