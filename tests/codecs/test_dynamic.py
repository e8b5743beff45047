"""The 8-bit code over ten decades."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.codecs.dynamic import _BOOKS


def through(x: torch.Tensor, signed: bool, block_size: int = 64) -> torch.Tensor:
    codec = gx.codecs.dynamic8(block_size, min_size=0)
    return codec.decode(codec.encode(x, codec.init(x, signed)), like=x)


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_fixed_points(signed: bool) -> None:
    book = torch.tensor(_BOOKS[signed])
    assert len(book) == 256
    assert torch.equal(book, book.sort().values)
    torch.testing.assert_close(through(book, signed, 256), book, rtol=1e-6, atol=0)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_takes_its_nearest_code(signed: bool) -> None:
    x = torch.randn(4, 33, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.square()
    got = through(x, signed).reshape(-1)
    flat = x.reshape(-1)
    for start in range(0, flat.numel(), 64):
        part = flat[start : start + 64]
        unit = part / part.abs().max()
        best = (unit[:, None] - torch.tensor(_BOOKS[signed])).abs().amin(1)
        error = (got[start : start + 64] / part.abs().max() - unit).abs()
        torch.testing.assert_close(error, best, rtol=1e-3, atol=1e-6)


def test_negative_numbers_stay_negative() -> None:
    got = through(torch.tensor([1.0, -1e-12, 1e-12]), signed=True)
    assert got[1] < 0
    assert got[2] == 0


def test_what_is_not_finite_makes_its_block_nan() -> None:
    x = torch.ones(80)
    x[70] = torch.inf
    got = through(x, signed=True)
    assert got[:64].tolist() == [1.0] * 64
    assert got[64:].isnan().all()
    assert through(torch.zeros(5), signed=False).tolist() == [0.0] * 5


@pytest.mark.parametrize("bad", [{"block_size": 0}, {"min_size": -1}], ids=str)
def test_bad_sizes(bad: Any) -> None:
    with pytest.raises(ValueError, match="dynamic8: "):
        gx.codecs.dynamic8(**bad)
