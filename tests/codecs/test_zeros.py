"""Entries that never had a gradient stay where they are, however moments are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx import codecs

CODECS: dict[str, Any] = {
    "affine": codecs.affine(4),
    "affine-8": codecs.affine(8, 16, "stochastic", stats_dtype=torch.bfloat16),
    "affine_rows": codecs.affine_rows(8),
    "affine_rows-4": codecs.affine_rows(4, levels=14),
    "blockwise": codecs.blockwise(8, min_size=0),
    "blockwise-4": codecs.blockwise(4, 8, min_size=0),
    "dynamic8": codecs.dynamic8(min_size=0),
    "symmetric": codecs.symmetric(4),
    "symmetric-2": codecs.symmetric(2, 8, "stochastic"),
    "rank1": codecs.rank1(),
    "rotated": codecs.rotated(codecs.dense()),
    "bfloat16": torch.bfloat16,
}
KEEP = [name for name in CODECS if name not in ("rank1", "rotated")]

# A first moment over a second one.
ADAPTIVE: dict[str, Callable[..., gx.GradientTransformation]] = {
    "adam": gx.scale_by_adam,
    "amsgrad": lambda **k: gx.scale_by_adam(amsgrad="raw", nesterov=True, **k),
    "adamax": gx.scale_by_adamax,
    "adan": gx.scale_by_adan,
    "belief": gx.scale_by_belief,
    "nadam": gx.scale_by_nadam,
    "radam": gx.scale_by_radam,
    "yogi": lambda **k: gx.scale_by_yogi(initial_accumulator_value=0.0, **k),
}
# First moments alone, or over something that does not know them.
MOMENTS: dict[str, Callable[[Any], gx.GradientTransformation]] = {
    "accumulate": lambda c: gx.accumulate(codec=c),
    "damped_trace": lambda c: gx.damped_trace(0.9, 0.1, codec=c),
    "ema": lambda c: gx.ema(0.9, codec=c),
    "lion": lambda c: gx.scale_by_lion(mu_codec=c),
    "novograd": lambda c: gx.scale_by_novograd(mu_codec=c),
    "quotient": lambda c: gx.quotient(gx.first_moment(codec=c), gx.root_second_moment()),
    "slow_moment": lambda c: gx.slow_moment(codec=c),
    "smmf": lambda c: gx.scale_by_smmf(codec=c),
    "trace": lambda c: gx.trace(0.9, codec=c),
}


def moved(tx: gx.GradientTransformation, steps: int = 4) -> Tensor:
    """The largest update of an entry without gradients; the others have some of all sizes."""
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(8, 24, generator=generator)}
    there = torch.rand(8, 24, generator=generator) < 0.7
    state, most = tx.init(params), torch.zeros(())
    for _ in range(steps):
        grads = {"w": there * torch.randn(8, 24, generator=generator).exp()}
        updates, state = tx.update(grads, state, params)
        assert updates["w"][there].abs().max() > 0
        most = torch.maximum(most, updates["w"][~there].abs().max())
    return most


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_of_two_moments(name: str, codec: str) -> None:
    for moments in ({"mu_codec": CODECS[codec]}, {"nu_codec": CODECS[codec]}):
        if "nu_codec" in moments and codec == "rotated":
            continue  # in another basis squares may become negative
        assert moved(ADAPTIVE[name](**moments)) == 0


@pytest.mark.parametrize("codec", KEEP)
@pytest.mark.parametrize("name", MOMENTS)
def test_of_a_moment_alone(name: str, codec: str) -> None:
    assert moved(MOMENTS[name](CODECS[codec])) == 0


def test_yogi_starts_above_zero() -> None:
    plain = moved(gx.scale_by_yogi())
    assert all(moved(gx.scale_by_yogi(mu_codec=CODECS[c])) <= 1.5 * plain for c in CODECS)


def test_a_row_with_zero_on_its_grid() -> None:
    codec = codecs.affine_rows(8, include_zero=True)
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) + torch.tensor(
        [[0.0], [0.0], [3.0], [-9.0], [0.0]]
    )
    x[:2, ::3] = 0
    x[4] = 0
    back = codec.decode(codec.encode(x, codec.init(x, signed=True)), like=x)
    step = (x.amax(1).clamp(min=0) - x.amin(1).clamp(max=0)) / 255
    assert ((back == 0) >= (x == 0)).all()
    assert ((back - x).abs() <= step[:, None] * 1.001).all()
    assert ((back - x).abs().mean(1) <= 0.3 * step + 1e-12).all()


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_only_matrices_are_rotated(shape: tuple[int, ...]) -> None:
    tx = gx.scale_by_adam(mu_codec=codecs.rotated(codecs.affine_rows(8)))
    with pytest.raises(ValueError, match=r"rotated: needs a matrix, got shape"):
        tx.init({"w": torch.zeros(shape)})
