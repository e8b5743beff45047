"""Moments kept as codes of blocks, and stochastic rounding, inside a fused pass."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx import ops
from gradtx.core.numbered import of_parts
from gradtx.fuse.cpp import kernel
from gradtx.fuse.cpp import vectors as cpp_vectors
from gradtx.fuse.cpp.prelude import PRELUDE
from gradtx.fuse.ir import cache
from gradtx.fuse.ir import codes as cpp_codes
from tests.fuse.helpers import assert_same, copy, run_both, tensors

FUSED = "everything is fused"
SHAPES = {
    **{"short": (7,), "odd": (50, 61), "deep": (3, 5, 7), "block": (256,), "pair": (2,)},
    **{"tasks": (300, 259), "empty": (0,)},
}


def adam(bits: Any, block_size: int | None = None, min_size: int = 0) -> gx.GradientTransformation:
    codec = gx.codecs.blockwise(bits, block_size=block_size, min_size=min_size)
    moments = gx.scale_by_adam(mu_codec=codec, nu_codec=codec)
    return gx.chain(moments, gx.add_decayed_weights(0.01), gx.scale(-0.1))


def assert_nearly_all_codes(fused: Any, pure: Any, rtol: float) -> None:
    """Equal to rounding, but for few elements whose value lies on a border between two codes."""
    a, b = gx.tree.leaves(fused), gx.tree.leaves(pure)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        bad = ~torch.isclose(x.double(), y.double(), rtol=rtol, atol=rtol / 10)
        assert bad.sum() <= 2 + x.numel() // 2000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("block_size", [None, 5, 64, 4096])
@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_those_of_the_operator(
    bits: int, block_size: int | None, dtype: torch.dtype, vectors: None
) -> None:
    fused, pure, step = run_both(adam(bits, block_size), SHAPES, dtype=dtype, steps=3)
    assert step.report() == FUSED
    assert_nearly_all_codes(fused, pure, 2e-2 if dtype == torch.bfloat16 else 3e-5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_codes_of_equal_values_are_equal(bits: Any, signed: bool, vectors: None) -> None:
    codec = gx.codecs.blockwise(bits, min_size=0)
    memory = gx.ema(0.0, debias=False, codec=codec)
    if not signed:
        memory = gx.scale_by_rms(0.0, nu_codec=codec)
    tx = gx.chain(memory, gx.scale(-1.0))
    g = torch.randn(100_003, generator=torch.Generator().manual_seed(0))
    g *= torch.logspace(-18, 15, len(g))
    g[5000:5256], g[-1], g[7000], g[8000] = 0.0, -0.0, torch.nan, torch.inf
    params, step = {"w": torch.zeros_like(g)}, gx.fuse(tx)
    state = tx.init(params)
    step(params, {"w": g}, state)
    assert step.report() == FUSED
    kept = gx.tree.leaves(state)
    codes, scale = ops.block_quantize(g if signed else g * g, bits, codec.block, signed)
    assert any(x.dtype == torch.uint8 and torch.equal(x, codes) for x in kept)
    scales = [x.nan_to_num(-1.0) for x in kept if x.shape == scale.shape]
    assert any(torch.equal(x, scale.nan_to_num(-1.0)) for x in scales)


_BORDERS = """
template <int BITS, bool SIGNED> static gx_int wrong(gx_u32 stride) {
  gx_int bad = 0;
  const int low = gx_encode_one<BITS, SIGNED>(0.0f, 1.0f);
  const int high = gx_encode_one<BITS, SIGNED>(1.0f, 1.0f);
  for (int k = low + 1; k <= high; k += 4) {
    float border[4];  // the smallest values of four codes where the scale is 1
    for (int i = 0; i < 4; ++i) {
      gx_u32 a = 0, b = 0x3f800000;
      while (a < b) {
        const gx_u32 m = (a + b) / 2;
        const int code = gx_encode_one<BITS, SIGNED>(gx_from_word(m), 1.0f);
        if (code >= (k + i < high ? k + i : high)) b = m; else a = m + 1;
      }
      border[i] = gx_from_word(a);
    }
    for (gx_u32 word = 0x3f800000; word < 0x40000000; word += stride) {
      const float most = gx_from_word(word);
      float values[64] = {most}, scale, factor;
      for (int j = 1; j < 64; ++j) {
        const float y = gx_from_word(gx_word(most * border[j / 16]) - 8 + j % 16);
        values[j] = (SIGNED && j % 2 ? -1 : 1) * (y < most ? y : most);
      }
      unsigned char codes[64];
      gx_scales<BITS, SIGNED, 64>(values, &scale, &factor, 64);
      bad += scale != most || factor < 0;
      gx_encode<BITS, SIGNED, 64>(values, codes, &scale, &factor, 64);
      for (int j = 0; j < 64; ++j) {
        const int got = BITS == 8 ? codes[j] : j % 2 ? codes[j / 2] & 15 : codes[j / 2] >> 4;
        bad += got != (gx_encode_one<BITS, SIGNED>(values[j], scale) & 255);
      }
    }
  }
  return bad;
}
extern "C" gx_int gx_wrong(int bits, int is_signed, gx_u32 stride) {
  if (bits == 8) return is_signed ? wrong<8, true>(stride) : wrong<8, false>(stride);
  return is_signed ? wrong<4, true>(stride) : wrong<4, false>(stride);
}
"""


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_vectors_and_single_elements_give_the_same_codes_at_all_borders(
    bits: int, signed: bool
) -> None:
    code = cache.library(PRELUDE + cpp_vectors.PRELUDE + cpp_codes.PRELUDE + _BORDERS)
    code.gx_wrong.restype = ctypes.c_int64
    stride = 1009 if bits == 8 else 101  # 1: all scales, some minutes
    assert code.gx_wrong(bits, int(signed), stride) == 0


def test_every_code_comes_back_as_the_operator_decodes_it(vectors: None) -> None:
    kinds = [(8, True), (8, False), (4, True), (4, False)]
    text = 'extern "C" void gx_all(const unsigned char* codes, const float* scale, float* out, '
    text += "float* parts, int kind) {\n"
    for kind, (bits, signed) in enumerate(kinds):
        types = f"{bits}, {str(signed).lower()}"
        text += f"""if (kind == {kind}) {{
          gx_decode<{types}, 256>(codes, scale, out, 256);
          gx_decode_part<{types}, true>(codes, 0, parts, 256, false);
          for (int k = 0; k < 256; ++k) parts[k] *= *scale * gx_parts<{types}>::unit;
        }}"""
    code = cache.library(PRELUDE + cpp_vectors.PRELUDE + cpp_codes.PRELUDE + text + "}")
    for kind, (bits, signed) in enumerate(kinds):
        for value in (1.0, 0.7, 3e-20, 1e30):
            codes = torch.arange(256 * bits // 8).to(torch.uint8)
            scale, out, parts = torch.tensor([value]), torch.empty(256), torch.empty(256)
            pointers = [ctypes.c_void_p(x.data_ptr()) for x in (codes, scale, out, parts)]
            code.gx_all(*pointers, kind)
            want = ops.block_dequantize(codes, scale, 256, bits, 256, signed)
            assert torch.equal(out, want)
            torch.testing.assert_close(parts, want, rtol=5e-7, atol=0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_any_values_are_encoded_as_the_operator_does(
    bits: int, signed: bool, vectors: None
) -> None:
    kind = f"{bits}, {str(signed).lower()}, 128"
    text = f"""
    extern "C" void gx_all(const float* x, unsigned char* codes, float* scale, gx_int n) {{
      float factor[64];
      gx_scales<{kind}>(x, scale, factor, n);
      gx_encode<{kind}>(x, codes, scale, factor, n);
    }}
    """
    code = cache.library(PRELUDE + cpp_vectors.PRELUDE + cpp_codes.PRELUDE + text)
    x = torch.randn(64 * 128 - 3, generator=torch.Generator().manual_seed(0))
    x *= torch.logspace(-25, 20, 64).repeat_interleave(128)[:-3]
    x[::5] = x[::5].abs()
    x[:1280] = x[:1280].abs()
    x[128:256] = 0.0
    x[300], x[500], x[600], x[800] = -0.0, torch.nan, -torch.inf, -1e-30
    x[1280:1408] = -x[1280:1408].abs()
    codes, scale = ops.block_quantize(x, bits, 128, signed)
    got, scales = torch.zeros_like(codes), torch.zeros_like(scale)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, got, scales)]
    code.gx_all(*pointers, ctypes.c_int64(len(x)))
    assert torch.equal(got, codes)
    torch.testing.assert_close(scales, scale, rtol=0, atol=0, equal_nan=True)


def test_small_leaves_stay_dense_beside_coded_ones() -> None:
    shapes = {"w": (80, 60), "b": (60,), "s": (), "one": (1,), "v": (5000,), "none": (0, 3)}
    fused, pure, step = run_both(gx.adamw8bit(0.1), shapes, steps=3)
    assert step.report() == FUSED
    assert_nearly_all_codes(fused, pure, 3e-5)


@pytest.mark.parametrize("recipe", [gx.adamw8bit, gx.adamw4bit])
def test_one_pass_over_elements(recipe: Callable[..., gx.GradientTransformation]) -> None:
    text = gx.explain(recipe(0.1), {"w": torch.ones(512, 1024)})
    assert text.count("fused, 1 pass") == 3
    (moved,) = re.findall(r"per parameter: ([\d.]+) bytes", text)
    assert float(moved) < 16.2


@pytest.mark.parametrize("bits", [8, 4])
def test_threads_and_repetition_do_not_change_the_numbers(bits: int) -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.5), adam(bits, 96), gx.stochastic_round())
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        shapes = {"a": (301, 1001), "b": (77, 300)}
        fused, _, step = run_both(tx, shapes, dtype=torch.bfloat16, steps=2)
        assert step.report() == FUSED
        results.append(fused)
    torch.set_num_threads(1)
    for other in results[1:]:
        assert_same(results[0], other, rtol=0, atol=0)


@pytest.mark.parametrize("view", ["param", "grad"])
def test_blocks_run_in_logical_order(view: str) -> None:
    tx = adam(8, 16)
    p, g = torch.randn(60, 50), torch.randn(60, 50)
    p = torch.randn(50, 60).T if view == "param" else p
    g = torch.randn(50, 60).T if view == "grad" else g
    want = {"p": p.clone(memory_format=torch.contiguous_format)}
    state, pure_state, step = tx.init({"p": p}), tx.init(want), gx.fuse(tx)
    for _ in range(2):
        step({"p": p}, {"p": g}, state)
        updates, pure_state = tx.update({"p": g}, pure_state, want)
        want = gx.apply_updates(want, updates)
    assert step.report() == FUSED
    assert_nearly_all_codes(({"p": p}, state), (want, pure_state), 3e-5)


def test_blocks_of_a_matrix_are_refused() -> None:
    tx = gx.chain(gx.centralize(), adam(8, 16))
    fused, pure, step = run_both(tx, {"w": (24, 5)})
    assert_nearly_all_codes(fused, pure, 3e-5)
    assert "matrix" in step.report()


def test_a_state_with_another_number_of_blocks_is_refused_unchanged() -> None:
    tx = adam(8)
    params, grads = tensors({"w": (60, 50)}, 0), tensors({"w": (60, 50)}, 1)
    state = tx.init(tensors({"w": (30, 50)}, 0))
    before = copy((params, state))
    with pytest.raises((ValueError, RuntimeError), match=r"shape|size"):
        gx.fuse(tx)(params, grads, state)
    assert_same((params, state), before, rtol=0, atol=0)


# -- stochastic rounding ------------------------------------------------------------------------

ROUNDED: dict[str, Callable[[], gx.GradientTransformation]] = {
    "adam": lambda: gx.chain(gx.scale_by_adam(), gx.scale(-0.1), gx.stochastic_round(3)),
    "clamped": lambda: gx.chain(gx.trace(0.9), gx.scale(-1), gx.stochastic_round(clamp=True)),
    "coded": lambda: gx.chain(gx.adamw8bit(0.1), gx.stochastic_round()),
    "factored": lambda: gx.adam_adv(0.01, factored=True),
}
LEAVES = {
    **{"one": (1,), "scalar": (), "short": (7,), "odd": (50, 61), "deep": (3, 5, 7)},
    **{"wide": (3, 9001), "tasks": (70_001,), "empty": (0,)},
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_steps_are_one_pass(name: str) -> None:
    fused, pure, step = run_both(ROUNDED[name](), LEAVES, dtype=torch.bfloat16, steps=3)
    assert step.report() == FUSED
    for x, y in zip(gx.tree.leaves(fused[0]), gx.tree.leaves(pure[0]), strict=True):
        assert x.ne(y).sum() <= 1 + x.numel() // 1000  # a last bit decided which way
    keys = [
        [x for x in gx.tree.leaves(state) if x.dtype == torch.int64 and x.shape == (2,)]
        for state in (fused[1], pure[1])
    ]
    assert len(keys[0]) == len(LEAVES)
    assert_same(*keys)


@pytest.mark.parametrize("clamp", [True, False])
def test_equal_values_are_rounded_equally(clamp: bool) -> None:
    tx = gx.chain(gx.scale(-0.5), gx.stochastic_round(-(2**40), clamp=clamp))
    large = torch.tensor([3.38e38, -3.38e38, torch.inf, torch.nan, 0.0, -0.0, 1e-40])
    params = {"w": torch.cat([large, torch.randn(99_000)]).bfloat16(), "v": torch.randn(30, 70)}
    params["v"] = params["v"].bfloat16()
    grads = {"w": torch.full((99_007,), -2e36), "v": torch.randn(30, 70)}
    grads = {k: g.bfloat16() for k, g in grads.items()}
    pure, state, pure_state, step = copy(params), tx.init(params), tx.init(params), gx.fuse(tx)
    for _ in range(3):
        step(params, grads, state)
        updates, pure_state = tx.update(grads, pure_state, pure)
        pure = gx.apply_updates(pure, updates)
    assert step.report() == FUSED
    assert_same((params, state), (pure, pure_state), rtol=0, atol=0)


def test_parts_draw_what_whole_leaves_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a part lies is told at every step: all parts have one kernel."""
    whole = {"w": torch.randn(50, 611).bfloat16()}
    grads = {"w": torch.randn(50, 611).bfloat16()}
    tx = gx.chain(gx.scale(-0.1), gx.stochastic_round(3))
    every, state, step = copy(whole), tx.init(whole), gx.fuse(of_parts(tx))
    for _ in range(2):
        gx.fuse(tx)(every, grads, state)
    for rows, columns in (((0, 50), (0, 611)), ((7, 33), (0, 611)), ((3, 50), (100, 103))):
        where = slice(*rows), slice(*columns)
        params, given = ({"w": x["w"][where].clone()} for x in (whole, grads))
        length, state = params["w"].shape[1], tx.init(params)
        first = rows[0] * 611 + columns[0]
        hyper = {"part_first": first, "part_length": length, "part_distance": 611}
        for _ in range(2):
            step(params, given, state, hyper=hyper)
        assert torch.equal(params["w"], every["w"][where])
        assert step.report() == FUSED
        monkeypatch.setattr(kernel, "library", None)  # nothing more is compiled


def test_numbers_of_parts_have_64_bits() -> None:
    tx = of_parts(gx.chain(gx.scale(-0.1), gx.stochastic_round(3)))
    hyper = {"part_first": 2**40 + 3, "part_length": 5, "part_distance": 2**34 + 1}
    fused, pure, step = run_both(tx, LEAVES, dtype=torch.bfloat16, steps=2, hyper=hyper)
    assert step.report() == FUSED
    assert_same(fused, pure, rtol=0, atol=0)


def test_other_dtypes_pass_through() -> None:
    shapes = {"w": (50, 61)}
    fused, pure, step = run_both(ROUNDED["adam"](), shapes, steps=2)
    assert step.report() == FUSED
    assert_same(fused, pure)
