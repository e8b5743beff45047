"""Denormal numbers: kept as the pure path keeps them, or zero in all threads if torch says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import gradtx as gx

SMALL = 1e-40  # denormal in float32
SHAPE = (2048, 2048)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    moment_after_a_step()  # the threads are there before anything is asked of them
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


def moment_after_a_step() -> Tensor:
    """The first moment of weights without a gradient."""
    tx = gx.adamw(1e-3)
    params = {"w": torch.ones(SHAPE)}
    state = gx.tree.map(
        lambda x: torch.full_like(x, SMALL) if x.shape == SHAPE else x, tx.init(params)
    )
    _, state = gx.fuse(tx)(params, {"w": torch.zeros(SHAPE)}, state)
    return next(x for x in gx.tree.leaves(state) if isinstance(x, Tensor) and x.shape == SHAPE)


def test_they_are_kept(two_threads: None) -> None:
    assert bool((moment_after_a_step() > 0).all())


def test_all_threads_flush_them(two_threads: None) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("the processor cannot")
    assert bool((moment_after_a_step() == 0).all())
