"""Sparse M-FAC steps: kernels against the reference and against float64, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx_cuda
from gradtx.ops import OPS, sparse_window_push_, sparse_window_step_

from .rows import assert_same_bits, values

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
WINDOW = 3
SIZES = ((1, 1), (50, 3), (1000, 10), (16_384, 164), (4096, 41), (192, 24))


class Leaves:
    """Leaves of several sizes with what belongs to them, and steps of them."""

    def __init__(self, numbers: torch.dtype, kept: torch.dtype) -> None:
        self.sizes = [1, 49, 20_003, 0, 3 * 4096 + 100, 960]
        self.numbers = numbers
        self.geometry: tuple[list[int], list[int]] = ([], [])
        self.errors, self.indices, self.values, self.written = [], [], [], []
        for n, (size, k) in zip(self.sizes, SIZES, strict=True):
            size = max(min(n, size), 1)
            k = min(k, size)
            columns = n // size * k + min(n % size, k)
            self.geometry[0].append(size)
            self.geometry[1].append(k)
            self.errors.append(torch.zeros(n))
            self.indices.append(torch.zeros(WINDOW, columns, dtype=torch.int16))
            self.values.append(torch.zeros(WINDOW, columns, dtype=kept))
            self.written.append(torch.full((WINDOW,), -1, dtype=torch.int32))
        self.params = [values((n,), numbers, 7) for n in self.sizes]
        self.momenta = [torch.zeros(n) for n in self.sizes]

    def everything(self) -> list[Tensor]:
        lists = (self.errors, self.indices, self.values, self.written, self.params, self.momenta)
        return [x for tensors in lists for x in tensors]

    def push(self, op: Any, t: int, bad: bool = False, check: bool = True) -> tuple[Tensor, ...]:
        grads = [values((n,), self.numbers, 100 * t + i) for i, n in enumerate(self.sizes)]
        if bad:
            grads[2][5] = torch.nan
        state = (self.errors, self.indices, self.values, self.written)
        step = torch.tensor(t, dtype=torch.int32)
        return op(grads, *state, step, [1, -1, 1, 1, 1, 1], *self.geometry, check)

    def step(self, op: Any, weights: Tensor, momenta: bool, decay: float) -> None:
        hyper = torch.tensor([[0.1, decay, 0.9], [0.2, 0.0, 0.5]], dtype=torch.float64)
        state = (self.momenta if momenta else [], self.indices, self.values)
        op(self.params, *state, weights, hyper, [0, 1, 0, 1, 0, 1], *self.geometry)


@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_kernels_do_what_the_reference_does(numbers, kept):
    ours, theirs = Leaves(numbers, kept), Leaves(numbers, kept)
    push, step = (OPS[n].reference for n in ("sparse_window_push_", "sparse_window_step_"))
    for t in range(2 * WINDOW + 1):  # rows are overwritten, and chosen with the last bound in mind
        got, want = ours.push(sparse_window_push_, t), theirs.push(push, t)
        assert_same_bits(got[1:], want[1:])
        scale = want[0].abs().amax(1, keepdim=True)
        assert bool(((got[0] - want[0]).abs() <= 1e-13 * scale).all())
        weights = torch.where(want[1], want[0] / (scale + 1), 0.0)
        for leaves, op in ((ours, sparse_window_step_), (theirs, step)):
            leaves.step(op, weights, t % 2 == 0, 0.3 if t % 3 else 0.0)
        assert_same_bits(tuple(ours.everything()), tuple(theirs.everything()))


def test_the_step_is_as_exact_as_float32_allows():
    leaves = Leaves(torch.float32, torch.float32)
    for t in range(WINDOW):
        leaves.push(sparse_window_push_, t)
    count = len(leaves.sizes)
    weights = torch.linspace(-0.7, 1.3, count * WINDOW, dtype=torch.float64).view(count, WINDOW)
    rows = torch.zeros(WINDOW, 20_003, dtype=torch.float64)
    size, k = leaves.geometry[0][2], leaves.geometry[1][2]
    starts = torch.arange(leaves.indices[2].shape[1]) // k * size
    rows.scatter_(1, leaves.indices[2].long() + starts, leaves.values[2].double())
    want = leaves.params[2].double() - 0.1 * (weights[2] @ rows)
    leaves.step(sparse_window_step_, weights, False, 0.0)
    assert (leaves.params[2] - want).abs().max() <= 1e-6 * want.abs().max()


def test_what_was_written_long_ago_does_not_count():
    leaves = Leaves(torch.float32, torch.float32)
    for t in range(WINDOW):
        leaves.push(sparse_window_push_, t)
    leaves.written[1][1] = -1  # the leaf missed a gradient then
    dots, there, _ = leaves.push(sparse_window_push_, WINDOW)
    assert there[1].tolist() == [True, False, True]
    assert dots[1, 1] == 0
    assert bool((dots[2] != 0).all())
    last = 2**31 - 1  # the counter goes back by a window
    for written in leaves.written:
        written[:] = torch.tensor([last - 1, last - 3, last - 2], dtype=torch.int32)
    want = Leaves.push(leaves, OPS["sparse_window_push_"].reference, last)[1]
    assert bool((leaves.push(sparse_window_push_, last)[1] == want).all())


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_entries_may_be_in_any_order(kept):
    """As a state that came from elsewhere may have them; their sums are the same."""
    ours, theirs = Leaves(torch.float32, kept), Leaves(torch.float32, kept)
    push, step = (OPS[n].reference for n in ("sparse_window_push_", "sparse_window_step_"))
    for leaves in (ours, theirs):
        for t in range(WINDOW):
            leaves.push(push, t)
        for i, k in ((4, 41), (5, 24)):  # rows of the first block, backwards
            for x in (leaves.indices[i], leaves.values[i]):
                x[:, :k] = x[:, :k].flip(1)
    got, want = ours.push(sparse_window_push_, WINDOW), theirs.push(push, WINDOW)
    torch.testing.assert_close(got[0], want[0], rtol=1e-13, atol=1e-13)
    for leaves, op in ((ours, sparse_window_step_), (theirs, step)):
        leaves.step(op, torch.where(want[1], 0.5, 0.0).double(), True, 0.1)
    assert_same_bits(tuple(ours.everything()), tuple(theirs.everything()))


def test_rows_find_each_other_all_over_a_block():
    """Every entry of equal rows is found, at whatever index it lies."""
    n, k = 32_704, 4000
    g = torch.linspace(1.0, 2.0, n)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    indices, kept = torch.zeros(WINDOW, k, dtype=torch.int16), torch.zeros(WINDOW, k)
    written = [torch.full((WINDOW,), -1, dtype=torch.int32)]
    for t in range(WINDOW):
        step = torch.tensor(t, dtype=torch.int32)
        errors = [torch.zeros(n)]
        dots, _, _ = sparse_window_push_(
            [g], errors, [indices], [kept], written, step, [1], [n], [k], True
        )
    want = g.double().topk(k).values.square().sum().expand(1, WINDOW)
    torch.testing.assert_close(dots, want, rtol=1e-13, atol=0.0)


def test_nothing_changes_for_gradients_that_are_not_finite():
    leaves = Leaves(torch.float32, torch.float32)
    leaves.push(sparse_window_push_, 0)
    before = [x.clone() for x in leaves.everything()]
    _, _, finite = leaves.push(sparse_window_push_, 1, bad=True)
    assert finite.tolist() == [True, True, False, True, True, True]
    assert_same_bits(tuple(leaves.everything()), tuple(before))
    _, _, finite = leaves.push(sparse_window_push_, 1, bad=True, check=False)
    assert bool(finite.all())
    assert bool(leaves.values[2][1].isnan().any())


def test_bits_do_not_depend_on_threads():
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = Leaves(torch.float32, torch.float32)
            dots = [leaves.push(sparse_window_push_, t)[0] for t in range(5)][-1]
            leaves.step(sparse_window_step_, dots, True, 0.1)
            found.append((dots, *leaves.everything()))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(*found)


def test_bad_input():
    for op in (sparse_window_push_, OPS["sparse_window_push_"].reference):
        leaves = Leaves(torch.float32, torch.float32)
        leaves.errors[1] = leaves.errors[1].double()
        with pytest.raises((ValueError, RuntimeError), match="error"):
            leaves.push(op, 0)
        leaves = Leaves(torch.float32, torch.float32)
        leaves.indices[2] = leaves.indices[2][:, 1:].contiguous()
        with pytest.raises((ValueError, RuntimeError), match="leaf 2"):
            leaves.push(op, 0)
    push_of = {
        sparse_window_step_: sparse_window_push_,
        OPS["sparse_window_step_"].reference: OPS["sparse_window_push_"].reference,
    }
    for op in push_of:
        leaves = Leaves(torch.float32, torch.float32)
        with pytest.raises((ValueError, RuntimeError), match="weights"):
            leaves.step(op, torch.zeros(6, WINDOW), False, 0.0)
        leaves = Leaves(torch.float32, torch.float32)
        leaves.push(sparse_window_push_, 0)
        leaves.indices[4][0, 40] = 4096
        with pytest.raises((ValueError, RuntimeError), match="out of its block"):
            leaves.step(op, torch.ones(6, WINDOW, dtype=torch.float64), False, 0.0)
        with pytest.raises((ValueError, RuntimeError), match="out of its block"):
            leaves.push(push_of[op], 1)
        leaves = Leaves(torch.float32, torch.float32)
        leaves.push(sparse_window_push_, 0)
        leaves.indices[1][0, 0] = 77
        with pytest.raises((ValueError, RuntimeError), match="out of its block"):
            leaves.step(op, torch.ones(6, WINDOW, dtype=torch.float64), False, 0.0)
