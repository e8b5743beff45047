// Products of matrices in tiles of 16 x 16 that stay in AVX-512 registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "avx512.h"

#if GX_HAS_AVX512
#include <cpuid.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// Only what is marked kHalf or kRounded has instructions for bfloat16.
#define GX_AVX512_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prfchw")))
#define GX_WIDE_BF16 GX_AVX512_BF16 GX_INLINE

namespace gx {

constexpr int64_t kTile = 16;

// What a factor is in memory and what is multiplied: float32; bfloat16; float32 rounded to
// bfloat16.
enum class Factor { kFloat, kHalf, kRounded };

// Elements of a row in one step of the product.
constexpr int64_t per_step(Factor factor) { return factor == Factor::kFloat ? 1 : 2; }

inline bool has_float_tiles() {
  static const bool has = __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has;
}

// Where there are instructions for whole tiles of bfloat16 (AMX) those are far faster.
inline bool has_half_tiles() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, features = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &features);
    const bool has_amx = (features >> 22 & 1) != 0;
    return has_float_tiles() && __builtin_cpu_supports("avx512bf16") && !has_amx;
  }();
  return has;
}

// Rows of a factor, of which either the elements (step = 1) or the rows lie side by side.
struct Rows16 {
  const void* data;
  int64_t rows, depth;
  int64_t row, step;  // distances in elements
};

// Sixteen elements as float32 or bfloat16, of which `count` exist; the others are zeros.
GX_WIDE_BF16 __m512i read_floats(const void* data, int64_t at, int64_t count) {
  return _mm512_maskz_loadu_epi32(first_lanes(count), static_cast<const float*>(data) + at);
}
template <Factor kFactor>
GX_WIDE_BF16 __m256i read_halves(const void* data, int64_t at, int64_t count) {
  if constexpr (kFactor == Factor::kHalf) {
    const uint16_t* x = static_cast<const uint16_t*>(data) + at;
    return _mm256_maskz_loadu_epi16(first_lanes(count), x);
  } else {
    const __m512 x = _mm512_castsi512_ps(read_floats(data, at, count));
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  }
}

// The same in float32, of what is multiplied.
template <Factor kFactor>
GX_WIDE_BF16 __m512 read_wide(const void* data, int64_t at, int64_t count) {
  if constexpr (kFactor == Factor::kFloat) {
    return _mm512_castsi512_ps(read_floats(data, at, count));
  } else {
    const __m512i wide = _mm512_cvtepu16_epi32(read_halves<kFactor>(data, at, count));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
}

// Sixteen steps of one row.
template <Factor kFactor>
GX_WIDE_BF16 __m512i read_row(const void* data, int64_t at, int64_t count) {
  if constexpr (kFactor == Factor::kFloat) return read_floats(data, at, count);
  const __m512i low = _mm512_castsi256_si512(read_halves<kFactor>(data, at, count));
  return _mm512_inserti64x4(low, read_halves<kFactor>(data, at + 16, count - 16), 1);
}

// One step of sixteen rows that lie side by side, of which `count` exist.
template <Factor kFactor>
GX_WIDE_BF16 __m512i read_step(const Rows16& x, int64_t row, int64_t k, int64_t count) {
  if constexpr (kFactor == Factor::kFloat) return read_floats(x.data, row + k * x.step, count);
  const __m256i even = read_halves<kFactor>(x.data, row + k * x.step, count);
  __m256i odd = _mm256_setzero_si256();
  if (k + 1 < x.depth) odd = read_halves<kFactor>(x.data, row + (k + 1) * x.step, count);
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

// Sixteen steps of sixteen rows, of which `rows` and `left` elements exist.
template <Factor kFactor>
GX_WIDE_BF16 void pack_block(const Rows16& x, int64_t row, int64_t k, int64_t rows, int64_t left,
                         uint32_t* out) {
  constexpr int64_t kPer = per_step(kFactor);
  __m512i steps[kTile];
  if (x.step == 1) {
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) {
      steps[r] = r < rows ? read_row<kFactor>(x.data, (row + r) * x.row + k, left)
                          : _mm512_setzero_si512();
    }
    transpose(steps);
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) {
      steps[r] = r * kPer < left ? read_step<kFactor>(x, row, k + r * kPer, rows)
                                 : _mm512_setzero_si512();
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) _mm512_store_si512(out + r * kTile, steps[r]);
}

// Write steps begin, ..., end - 1 of the rows from `row` on: of each step the sixteen rows side by
// side. Multiples of 16 steps are written, zeros where there is nothing.
template <Factor kFactor>
GX_AVX512_BF16 inline void pack(const Rows16& x, int64_t row, int64_t begin, int64_t end,
                                uint32_t* panel) {
  constexpr int64_t kPer = per_step(kFactor);
  const int64_t rows = x.rows - row;
  for (int64_t s = begin; s < end; s += kTile) {
    const int64_t k = s * kPer, left = x.depth - k;
    if (rows >= kTile && left >= kTile * kPer) {
      pack_block<kFactor>(x, row, k, kTile, kTile * kPer, panel + s * kTile);
    } else {
      pack_block<kFactor>(x, row, k, rows, left, panel + s * kTile);
    }
  }
}

// Put what lies above the diagonal below it too.
GX_WIDE_BF16 void mirror(__m512i* x) {
  __m512i mirrored[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) mirrored[r] = x[r];
  transpose(mirrored);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    x[r] = _mm512_mask_mov_epi32(x[r], first_lanes(r), mirrored[r]);
  }
}

// Add the product of two packed panels to the rows of a tile.
template <bool kHalf>
GX_WIDE_BF16 void multiply_rows(const uint32_t* a, const uint32_t* b, int64_t steps,
                                __m512* sums) {
  for (int64_t s = 0; s < steps; ++s, a += kTile, b += kTile) {
    const __m512i columns = _mm512_loadu_si512(b);
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) {
      const __m512i row = _mm512_set1_epi32(static_cast<int32_t>(a[r]));
      if constexpr (kHalf) {
        sums[r] = _mm512_dpbf16_ps(sums[r], reinterpret_cast<__m512bh>(columns),
                                   reinterpret_cast<__m512bh>(row));
      } else {
        sums[r] =
            _mm512_fmadd_ps(_mm512_castsi512_ps(columns), _mm512_castsi512_ps(row), sums[r]);
      }
    }
  }
}

// The same for a tile of float32 in memory, which goes on or begins.
template <bool kHalf>
GX_AVX512_BF16 inline void multiply(const uint32_t* a, const uint32_t* b, int64_t steps,
                                    bool begins, float* tile) {
  __m512 sums[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    sums[r] = begins ? _mm512_setzero_ps() : _mm512_loadu_ps(tile + r * kTile);
  }
  multiply_rows<kHalf>(a, b, steps, sums);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) _mm512_storeu_ps(tile + r * kTile, sums[r]);
}

// Add a product to a tile, or take it off, when it has been summed up: in long sums less is lost.
template <bool kMinus>
GX_AVX512_BF16 inline void add_product(const uint32_t* a, const uint32_t* b, int64_t steps,
                                       float* tile) {
  __m512 sums[kTile] = {};
  multiply_rows<false>(a, b, steps, sums);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    const __m512 old = _mm512_loadu_ps(tile + r * kTile);
    _mm512_storeu_ps(tile + r * kTile,
                     kMinus ? _mm512_sub_ps(old, sums[r]) : _mm512_add_ps(old, sums[r]));
  }
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
