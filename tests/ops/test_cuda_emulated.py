"""Device code of the CUDA kernels, run on the CPU, gives the bits of the reference."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx_cuda
from gradtx.ops import OPS
from tests.fuse.cuda_emulator import Emulated

from .rows import values
from .test_microadam import HARD, LISTS, arguments, clone
from .test_window_step import WINDOW, Leaves

CSRC = Path(gradtx_cuda.__file__).parent / "csrc"
_SOURCE = """
#include <algorithm>
using std::min;
using std::max;
#define GX_KERNEL static void
static struct { unsigned x; } gridDim;
static unsigned atomicAdd(unsigned* x, unsigned y) { return (*x += y) - y; }
static int __popc(unsigned x) { return __builtin_popcount(x); }
static int __ffs(int x) { return __builtin_ffs(x); }
#include "CSRC/cuda/dct_rows.h"
#include "CSRC/cuda/microadam_block.h"
#include "CSRC/cuda/select.h"
#include "CSRC/cuda/window_block.h"
#include "CSRC/cuda/window_products_block.h"
#include "CSRC/cuda/window_step_block.h"
struct Args { void* at[9]; long long n[12]; double h[6]; };
template <typename Bits> static void select(const Args& a) {
  static gx::SelectMemory<Bits> memory;
  const long long start = blockIdx.x * a.n[1], n = min(a.n[1], a.n[0] - start);
  gx::select_block((const Bits*)a.at[0] + start, n, n == a.n[1] ? a.n[2] : a.n[3],
                   (int*)a.at[1] + blockIdx.x * a.n[2], memory);
}
GX_KERNEL select16(const __grid_constant__ Args a) { select<unsigned short>(a); }
GX_KERNEL select32(const __grid_constant__ Args a) { select<unsigned>(a); }
GX_KERNEL select64(const __grid_constant__ Args a) { select<unsigned long long>(a); }
GX_KERNEL moments(const __grid_constant__ Args a) {
  const gx::WindowShape shape{a.n[0], a.n[1], a.n[2], a.n[3], a.n[4]};
  gx::add_window((const int*)a.at[0], (const float*)a.at[1], (const float*)a.at[2],
                 (const float*)a.at[3], (float*)a.at[4], (float*)a.at[5], shape, blockIdx.x);
}
GX_KERNEL dots(const __grid_constant__ Args a) {
  const gx::ProductShape shape{a.n[0], a.n[1], a.n[2], a.n[3], a.n[4], a.n[5]};
  gx::dot_piece((const int*)a.at[0], (const float*)a.at[1], (const float*)a.at[2],
                (double*)a.at[3], shape, blockIdx.x);
}
GX_KERNEL sums(const __grid_constant__ Args a) {
  gx::sum_column((const double*)a.at[0], (double*)a.at[1], a.n[0], a.n[1], blockIdx.x);
}
GX_KERNEL combine(const __grid_constant__ Args a) {
  const gx::ProductShape shape{a.n[0], a.n[1], a.n[2], a.n[3], a.n[4], a.n[5]};
  gx::combine_block((const int*)a.at[0], (const float*)a.at[1], (const double*)a.at[2],
                    (float*)a.at[3], shape, blockIdx.x);
}
template <typename T> static void dct_pass(const Args& a) {
  const gx::DctRows<T> rows{(const T*)a.at[0], (const T*)a.at[1], (T*)a.at[2],
                            a.n[0], a.n[1], a.n[1] / 2};
  gridDim.x = a.n[2];
  switch (a.n[3]) {
    case 0: return gx::to_samples(rows);
    case 1: return gx::to_spectrum(rows);
    case 2: return gx::from_spectrum(rows);
    case 3: return gx::from_samples(rows);
  }
}
GX_KERNEL dct32(const __grid_constant__ Args a) { dct_pass<float>(a); }
GX_KERNEL dct64(const __grid_constant__ Args a) { dct_pass<double>(a); }
static gx::MicroAdamLeaf leaf_of(const Args& a) {
  gx::MicroAdamLeaf leaf{};
  leaf.param = a.at[0];
  leaf.grad = a.at[1];
  leaf.codes = (unsigned char*)a.at[2];
  leaf.lo = (unsigned short*)a.at[3];
  leaf.hi = (unsigned short*)a.at[4];
  leaf.step = (int*)a.at[5];
  leaf.indices = (short*)a.at[6];
  leaf.values = (unsigned short*)a.at[7];
  leaf.finite = (unsigned char*)a.at[8];
  leaf.numel = a.n[0];
  leaf.columns = a.n[1];
  leaf.block_size = a.n[2];
  leaf.k = a.n[3];
  leaf.window = a.n[4];
  leaf.sign = a.n[5];
  leaf.bf16_param = a.n[6];
  leaf.bf16_grad = a.n[7];
  leaf.lr = a.h[0];
  leaf.b1 = a.h[1];
  leaf.b2 = a.h[2];
  leaf.eps = a.h[3];
  leaf.weight_decay = a.h[4];
  return leaf;
}
static gx::PushLeaf push_of(const Args& a) {
  gx::PushLeaf leaf{};
  leaf.grad = a.at[0];
  leaf.error = (float*)a.at[1];
  leaf.indices = (short*)a.at[2];
  leaf.values = a.at[3];
  leaf.written = (int*)a.at[4];
  leaf.there = (unsigned char*)a.at[5];
  leaf.finite = (unsigned char*)a.at[6];
  leaf.table = (double*)a.at[7];
  leaf.dots = (double*)a.at[8];
  leaf.numel = a.n[0];
  leaf.columns = a.n[1];
  leaf.block_size = a.n[2];
  leaf.k = a.n[3];
  leaf.sign = a.n[4];
  leaf.bf16_grad = a.n[5];
  leaf.bf16_values = a.n[6];
  return leaf;
}
GX_KERNEL push_rows(const __grid_constant__ Args a) { gx::find_rows(push_of(a), a.n[7], a.n[8]); }
GX_KERNEL push_check(const __grid_constant__ Args a) {
  static int bad;
  gx::check_block(push_of(a), blockIdx.x, &bad);
}
GX_KERNEL push(const __grid_constant__ Args a) {
  static gx::SelectMemory<unsigned> memory;
  static float buffer[1 << 15];
  gx::push_block(push_of(a), a.n[7], a.n[8], blockIdx.x, buffer, memory);
}
GX_KERNEL push_end(const __grid_constant__ Args a) {
  gx::finish_push(push_of(a), a.n[7], a.n[8], a.n[9]);
}
GX_KERNEL move(const __grid_constant__ Args a) {
  static float buffer[1 << 15];
  gx::MoveLeaf leaf{};
  leaf.param = a.at[0];
  leaf.momentum = a.n[6] ? (float*)a.at[1] : nullptr;
  leaf.indices = (const short*)a.at[2];
  leaf.values = a.at[3];
  leaf.weights = (const double*)a.at[4];
  leaf.numel = a.n[0];
  leaf.columns = a.n[1];
  leaf.block_size = a.n[2];
  leaf.k = a.n[3];
  leaf.bf16_param = a.n[4];
  leaf.bf16_values = a.n[5];
  leaf.lr = a.h[0];
  leaf.decay = a.h[1];
  leaf.mu = a.h[2];
  gx::move_block(leaf, a.n[7], blockIdx.x, buffer);
}
GX_KERNEL check(const __grid_constant__ Args a) {
  const gx::MicroAdamLeaf leaf = leaf_of(a);
  if (!gx::is_finite(leaf, blockIdx.x)) *leaf.finite = 0;
}
GX_KERNEL step(const __grid_constant__ Args a) {
  static gx::MicroAdamMemory memory;
  static float buffer[1 << 15], weights[64];
  const gx::MicroAdamOptions options{(int)a.n[8], (bool)a.n[9], (bool)a.n[10]};
  gx::step_block(leaf_of(a), blockIdx.x, options, buffer, weights, memory);
}
""".replace("CSRC", str(CSRC))


class Args(ctypes.Structure):
    """What the kernels above take."""

    _fields_ = (
        ("at", ctypes.c_void_p * 9),
        ("n", ctypes.c_longlong * 12),
        ("h", ctypes.c_double * 6),
    )


@functools.cache
def device() -> Emulated:
    headers = sorted([*CSRC.glob("cuda/*.h"), *CSRC.glob("common/*.h")])
    digest = hashlib.sha256(b"".join(h.read_bytes() for h in headers)).hexdigest()
    return Emulated(f"{_SOURCE}// {digest}\n")  # what is built is kept under its source


def launch(
    kernel: str,
    blocks: int,
    tensors: list[Tensor],
    sizes: list[int],
    numbers: list[float],
    *how: Any,
) -> None:
    threads, backwards = how
    args = Args()
    args.at[: len(tensors)] = [x.data_ptr() for x in tensors]
    args.n[: len(sizes)] = [int(n) for n in sizes]
    args.h[: len(numbers)] = numbers
    device().backwards = backwards
    device().launch(kernel, blocks, threads, args)


@pytest.mark.parametrize("how", [(256, False), (64, True), (32, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_block_top_k(dtype, how):
    for n, size, k, tail in (
        (1, 1, 1, 0),
        (5000, 1024, 37, 9),
        (3000, 3000, 3000, 0),
        (70, 64, 63, 6),
    ):
        for x in (values((n,), dtype), torch.ones(n, dtype=dtype), values((n,), dtype).round()):
            want = OPS["block_top_k"].reference(x, size, k, tail, torch.int32)
            got = torch.full_like(want, -1)
            kernel = f"select{8 * dtype.itemsize}"
            launch(kernel, -(-n // size), [x, got], [n, size, k, tail], [], *how)
            assert torch.equal(got, want)


@pytest.mark.parametrize("how", [(256, False), (64, True)])
def test_window_moments(how):
    n, size, k, rows = 1100, 512, 30, 4
    columns = n // size * k + 7
    picks = [torch.randperm(512)[:k] for _ in range(rows * 2)]
    indices = torch.stack(
        [torch.cat([*picks[2 * r : 2 * r + 2], torch.randperm(76)[:7]]) for r in range(rows)]
    )
    of, w1, w2 = values((rows, columns)), values((rows,)), values((rows,), torch.float32, 1)
    args = (indices.int(), of, w1, w2, n, size, k)
    want = OPS["window_moments"].reference(*args)
    got = [torch.full((n,), torch.nan) for _ in want]
    launch("moments", -(-n // size), [*args[:4], *got], [rows, columns, n, size, k], [], *how)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("how", [(256, False), (64, True)])
def test_window_products(how):
    n, size, k, rows = 40_000, 30_000, 9000, 3
    columns, pieces = k + 2000, 2
    picks = [torch.randperm(size)[:k] for _ in range(rows)]
    indices = torch.stack([torch.cat([p, torch.randperm(10_000)[:2000]]) for p in picks]).int()
    of, x, w = values((rows, columns)), values((n,), seed=1), values((rows,), torch.float64)
    shape = [rows, columns, n, size, k, pieces]
    table, got = torch.full((4 * rows,), torch.nan).double(), torch.zeros(rows).double()
    launch("dots", 4, [indices, of, x, table], shape, [], *how)
    launch("sums", rows, [table, got], [4, rows], [], 32, how[1])
    want = OPS["sparse_window_dots"].reference(indices, of, x, size, k)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    out = torch.full((n,), torch.nan)
    launch("combine", 2, [indices, of, w, out], shape, [], *how)
    assert torch.equal(out, OPS["sparse_window_combine"].reference(indices, of, w, n, size, k))


@pytest.mark.parametrize("how", [(256, False), (64, True)])
@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_window_step(kept, numbers, how):
    """Pushes and steps as the CUDA launches do them, a leaf at a time."""
    ours, theirs = Leaves(numbers, kept), Leaves(numbers, kept)
    pushing, moving = (OPS[n].reference for n in ("sparse_window_push_", "sparse_window_step_"))
    for t in range(WINDOW + 2):
        want, there, _ = theirs.push(pushing, t)
        weights = torch.where(there, want / (want.abs().amax() + 1), 0.0)
        for i, n in enumerate(ours.sizes):
            size, k = (each[i] for each in ours.geometry)
            blocks, columns = -(-n // size), ours.indices[i].shape[1]
            shape = [n, columns, size, k]
            state = [ours.errors[i], ours.indices[i], ours.values[i], ours.written[i]]
            grad = values((n,), numbers, 100 * t + i)
            rows, finite = torch.zeros(WINDOW, dtype=torch.bool), torch.ones(1, dtype=torch.uint8)
            table, dots = torch.zeros(blocks * WINDOW).double(), torch.zeros(WINDOW).double()
            tensors = [grad, *state, rows, finite, table, dots]
            sizes = [*shape, -1 if i == 1 else 1, numbers == torch.bfloat16]
            sizes += [kept == torch.bfloat16, t, WINDOW, blocks]
            launch("push_rows", 1, tensors, sizes, [], *how)
            launch("push_check", blocks, tensors, sizes, [], *how)
            launch("push", blocks, tensors, sizes, [], *how)
            launch("push_end", 1, tensors, sizes, [], *how)
            assert bool(finite)
            assert torch.equal(rows, there[i])
            torch.testing.assert_close(dots, want[i], rtol=1e-12, atol=1e-12)
            tensors = [ours.params[i], ours.momenta[i], *state[1:3], weights[i].contiguous()]
            sizes = [*shape, numbers == torch.bfloat16, kept == torch.bfloat16, t % 2, WINDOW]
            hyper = [[0.1, 0.3, 0.9], [0.2, 0.0, 0.5]][i % 2]
            launch("move", blocks, tensors, sizes, hyper, *how)
        theirs.step(moving, weights, t % 2 == 1, 0.3)
        for a, b in zip(ours.everything(), theirs.everything(), strict=True):
            assert torch.equal(a, b)
    bad, shape = torch.full((5,), torch.inf, dtype=numbers), [5, 1, 5, 1, 1]
    tensors = [bad, *state, rows, finite, table, dots]
    launch("push_check", 1, tensors, [*shape, numbers == torch.bfloat16], [], *how)
    assert not bool(finite)


@pytest.mark.parametrize("how", [(256, False), (64, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 301])
def test_dct_passes(n, dtype, how):
    x, twiddle = values((7, n), dtype), values((2, n // 2 + 1), dtype, 1)
    before, after = OPS["dct_before"].reference, OPS["dct_after_"].reference
    for inverse in (False, True):
        want = before(x, twiddle, inverse)
        got = torch.full_like(want, torch.nan)
        kernel = f"dct{8 * dtype.itemsize}"
        launch(kernel, 3, [x, twiddle, got], [7, n, 3, int(inverse)], [], *how)
        assert torch.equal(got, want)
        result = torch.fft.irfft(want, n=n) if inverse else torch.fft.rfft(want)
        want, got = torch.empty_like(x), torch.full_like(x, torch.nan)
        after(want, result, twiddle, inverse)
        launch(kernel, 3, [result, twiddle, got], [7, n, 3, 2 + int(inverse)], [], *how)
        assert torch.equal(got, want)


def emulate(args: dict[str, Any], how: tuple[int, bool]) -> None:
    """One step as the CUDA launches do it."""
    for i, p in enumerate(args["params"]):
        tensors = [args[name][i] for name in LISTS]
        flag = torch.ones(1, dtype=torch.uint8)
        hyper = args["hyper"][args["rows"][i]].tolist()
        shape = args["indices"][i].shape
        size, kept = args["block_sizes"][i], args["kept"][i]
        sizes = [p.numel(), shape[1], size, kept, shape[0], args["signs"][i]]
        sizes += [x.dtype == torch.bfloat16 for x in tensors[:2]]
        sizes += [args["quant_block_size"], args["include_zero"], args["window_correction"]]
        blocks = -(-p.numel() // size)
        launch("check", blocks, [*tensors, flag], sizes, hyper, *how)
        finite = all(x.isfinite().all() for x in args["grads"][i : i + 1])
        assert bool(flag) == finite
        launch("step", blocks, [*tensors, flag], sizes, hyper, *how)
        args["steps"][i] += 1


def assert_step(args: dict[str, Any], how: tuple[int, bool]) -> None:
    reference = clone(args)
    emulate(args, how)
    OPS["microadam_"].reference(**reference)
    for name in LISTS[2:]:
        for a, b in zip(args[name], reference[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    for a, b in zip(args["params"], reference["params"], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, (256, False)),
        ({"density": 1.0}, (64, True)),
        ({"density": 0.3, "block": 60, "quant": 6}, (32, False)),
        ({"param": torch.bfloat16, "grad": torch.bfloat16}, (128, False)),
        ({"param": torch.bfloat16, "quant": 128}, (256, True)),
        ({"grad": torch.bfloat16, "include_zero": True}, (64, False)),
        ({"window_correction": True, "quant": 4096}, (256, False)),
    ],
)
def test_microadam(options, how):
    args = arguments((1, 5, 64, 1000, 9001, 0), **options)
    for t in range(5):
        args["grads"] = [values(tuple(g.shape), g.dtype, 50 + t) for g in args["grads"]]
        assert_step(args, how)


@pytest.mark.parametrize("include_zero", [False, True])
@pytest.mark.parametrize("name", HARD)
def test_hard_gradients(name, include_zero):
    args = arguments((4096 + 13,), nonfinite="ignore", include_zero=include_zero)
    for t in range(3):
        random = values((4096 + 13,), torch.float32, 50 + t)
        args["grads"] = [HARD[name](4096 + 13, random)]
        assert_step(args, (256, t == 1))
