"""Passes that are written for sixteen elements at a time, and the same in plain C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.fuse.cpp import kernel
from tests.fuse.helpers import assert_same, run_both
from tests.fuse.test_matrix import CHAINS, FUSED, MATRICES
from tests.fuse.user import ExtremesState

TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
WIDTHS = (1, 7, 8, 9, 15, 16, 17, 40, 529, 4200)
TILES = {str(b): (3 + b % 67, b) for b in WIDTHS}


@dataclass(frozen=True)
class scale_by_choices(gx.LeafTransform):
    """What vectors have words for, on matrices."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> Any:
        x = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        return ExtremesState(x[:, 0].clone(), x[0].clone(), x)

    def update_leaf(self, u: Tensor, s: Any, p: Any, h: Any) -> Any:
        some = torch.logical_xor((u > 0.5) & ~(u <= -0.25) | (u == 0), u >= 1)
        x = torch.where(some, torch.maximum(u, 0.7 * u.abs()), torch.minimum(u, -0.5 * u))
        x = torch.copysign(x, u) * torch.rsqrt(1 + u * u) + 1 / (2 + u.abs()).sqrt()
        x = torch.where(torch.where(some, u < 0.75, u != 2), x, 0.25 * x) + 0.5 * some
        low, high = 0.5 * s.low + x.amin(1) + x.mean(1), 0.5 * s.high + x.amax(0) + x.mean(0)
        x = x + s.low[:, None] * s.high + 0.1 * s.found - x.amax() / x.abs().sum()
        return x / (1 + low.abs())[:, None], ExtremesState(low, high, x)


def all_words() -> gx.GradientTransformation:
    return gx.chain(scale_by_choices(), gx.scale(-0.1))


MADE = {**CHAINS, **MATRICES, "all words": all_words}


def vectors_in_use() -> bool:
    return any("const auto lanes" in k.source for k in kernel._kernels.values())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_all_words(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_kernels", {})
    fused, pure, step = run_both(all_words(), TILES, dtype=dtype, steps=2)
    assert step.report() == FUSED
    assert vectors_in_use()
    assert_same(fused, pure, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("name", ["all words", "factored adam", "extremes", "adafactor"])
def test_in_plain_c(name: str, plain: None) -> None:
    fused, pure, step = run_both(MADE[name](), TILES, steps=2)
    assert step.report() == FUSED
    assert_same(fused, pure)


def test_signs_next_to_the_end_of_a_row_stay(vectors: None) -> None:
    """Rows of bits end within a word that the next row shares."""
    tx = gx.chain(gx.ema(0.5, codec=gx.codecs.rank1()), gx.scale(-1.0))
    for n in (77, 143, 1147):  # 7 x 11, 11 x 13, 31 x 37
        fused, pure, _ = run_both(tx, {"w": (n,)}, steps=3)
        assert_same(fused, pure)


def test_not_a_number_is_not_lost(vectors: None) -> None:
    tx, g = gx.chain(scale_by_choices(), gx.scale(1.0)), torch.zeros(3, 40)
    g[1, 37] = torch.nan
    step, p = gx.fuse(tx), {"w": torch.zeros(3, 40)}
    state = tx.init(p)
    step(p, {"w": g}, state)
    kept = state["scale_by_choices"]["w"]
    assert p["w"].isnan().all()
    assert kept.low.isnan().tolist() == [False, True, False]
    assert kept.high.isnan().nonzero().tolist() == [[37]]
