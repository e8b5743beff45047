"""Decompositions run in one thread, and leave the number of threads as it was."""

from __future__ import annotations

import pytest
import torch

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
