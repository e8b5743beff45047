"""The number of threads changes no bit, on leaves that torch cuts into parts.

Every row is ``slow``; those whose members once did depend on it, and some others, always run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import gradtx as gx
from gradtx.testing.trees import number, random_tree, trees_wanted
from tests.battery.helpers import call, same_bits
from tests.table import ROWS, Row

SHAPES = {"m": (272, 250), "v": (70000,), "w": (40, 1500)}
XFAIL = {"partition-tree": "labels of another tree"}
SAMPLE = {
    *("adamw", "adafactor", "adaptive_grad_clip-axis", "lamb", "root_subset_norm-leaf"),
    *("adam_snsm", "apollo", "galore_adamw", "ldadamw", "orthogonalize-svd", "trion"),
    *("dct_adamw-feedback", "in_subspace-rotate", "muon", "low_rank", "microadam"),
    *("quotient-atan2", "scale_by_madgrad", "second_moment_power", "psgd_kron"),
}


def _rows() -> list[object]:
    """All rows, most of them slow."""
    out = []
    for row in ROWS:
        marks = [] if row.id in SAMPLE else [pytest.mark.slow]
        if row.id in XFAIL:
            marks.append(pytest.mark.xfail(reason=XFAIL[row.id]))
        out.append(pytest.param(row, id=row.id, marks=marks))
    return out


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _after(row: Row, count: int, fused: bool) -> object:
    """Parameters and state after two steps with this many threads."""
    torch.set_num_threads(count)
    tx, params = row.make(), random_tree(7, SHAPES)
    state, step = tx.init(params), gx.fuse(tx)
    for t in range(2):
        grads = random_tree(t, SHAPES)
        if fused:
            extra = {**trees_wanted(tx, grads), "value": number(1.5)}
            params, state = step(params, grads, state, **extra)
        else:
            updates, state = call(tx, grads, state, params)
            params = gx.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("case", _rows())
def test_two_threads_give_the_bits_of_one(case: Row) -> None:
    for fused in (False, True):
        assert same_bits(_after(case, 1, fused), _after(case, 2, fused)), f"{fused=}"


def test_the_sample_is_of_rows() -> None:
    assert {row.id for row in ROWS} >= SAMPLE | set(XFAIL)
