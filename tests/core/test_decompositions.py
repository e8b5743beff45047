"""Decompositions run in one thread, and leave the number of threads as it was."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gradtx.core import decompositions


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert decompositions.one_thread(lambda x: torch.get_num_threads())(torch.ones(1)) == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            decompositions.eigh(torch.ones(2, 3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(160, 160), (300, 120)])
def test_bits(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append((*decompositions.svd(x, full_matrices=False), *decompositions.qr(x)))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("n", [13, 30, 65, 100])
@pytest.mark.parametrize("name", ["eigh", "qr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_stacks_nor_threads_matter(n: int, name: str, dtype: torch.dtype) -> None:
    """Matrices of a stack are decomposed several at a time."""
    before, x = torch.get_num_threads(), torch.randn(5, n, n, dtype=dtype)
    x = x + x.mT
    decompose = getattr(decompositions, name)
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(tuple(decompose(x)))
            alone = [decompose(one) for one in x.split(1)]
            found.append(tuple(map(torch.cat, zip(*alone, strict=True))))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    first, second = decompose(x)
    if name == "eigh":
        first = (second * first[:, None]) @ second.mT
        torch.testing.assert_close(first, x, rtol=1e-3, atol=1e-3)
    else:
        torch.testing.assert_close(first @ second, x, rtol=1e-3, atol=1e-3)


def test_stacks_keep_derivatives_names_and_errors() -> None:
    x = torch.randn(2, 70, 70)
    assert torch.equal(decompositions.qr(x).Q, decompositions.qr(x)[0])
    assert decompositions.qr(x.requires_grad_()).R.requires_grad
    with pytest.raises(RuntimeError):
        decompositions.eigh(torch.ones(2, 70, 71))


@pytest.mark.parametrize("shape", [(7, 12), (13, 9), (70, 13)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_has_the_bits_and_the_layout_that_it_has_alone(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for decompose in (decompositions.qr, partial(decompositions.svd, full_matrices=False)):
        with FlopCounterMode(display=False):  # who only looks on does not change bits
            seen = decompose(x)
        assert all(map(torch.equal, seen, decompose(x)))
        for i, one in enumerate(x.split(1)):
            for together, alone in zip(decompose(x), decompose(one), strict=True):
                assert torch.equal(together[i], alone[0])
                assert together.stride()[1:] == alone.stride()[1:]
