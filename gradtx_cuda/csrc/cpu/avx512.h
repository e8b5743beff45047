// Registers of AVX-512 as Ice Lake and Zen 4 have it: bfloat16 in memory, reductions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vectorize.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GX_HAS_AVX512 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#define GX_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")))
#define GX_WIDE GX_AVX512 GX_INLINE
// For kernels that need less, or bfloat16 besides: they may inline what needs no more than this.
#define GX_WIDE_BASE __attribute__((target("avx512f"))) GX_INLINE

namespace gx {

inline bool has_avx512() {
  static const bool has = __builtin_cpu_supports("avx512vbmi2") &&
                          __builtin_cpu_supports("avx512vbmi") &&
                          __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
  return has;
}

GX_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(count, 0, 16)) - 1);
}

// Sixteen rows of sixteen words become columns.
GX_WIDE_BASE void transpose(__m512i* x) {
  __m512i y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xDD);
    const __m512i c = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xDD);
    y[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    y[i + 8] = _mm512_shuffle_i32x4(a, c, 0xDD);
    y[i + 12] = _mm512_shuffle_i32x4(b, d, 0xDD);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

GX_WIDE __m512 read(const float* x) { return _mm512_loadu_ps(x); }
GX_WIDE __m512 widen(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
GX_WIDE __m512 read(const uint16_t* x) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

GX_WIDE __m512i nearest_even(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
}
GX_WIDE __m256i narrow(__m512 x) {
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_mov_epi32(nearest_even(x), nan, _mm512_set1_epi32(0x7FC0)));
}
GX_WIDE void write(float* x, __m512 value) { _mm512_storeu_ps(x, value); }
GX_WIDE void write(uint16_t* x, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), narrow(value));
}

GX_WIDE __m512i magnitudes(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MAX));
}

// The smallest or largest of each of 16 registers' elements.
template <bool kLargest>
GX_WIDE __m512 pick(__m512 a, __m512 b) {
  return kLargest ? _mm512_max_ps(a, b) : _mm512_min_ps(a, b);
}
// First for four registers each, then for what that gave of sixteen.
template <bool kLargest>
GX_WIDE __m512 reduce_quad(const __m512* x) {
  __m512d pairs[2];
  for (int j = 0; j < 2; ++j) {
    const __m512 a = x[2 * j], b = x[2 * j + 1];
    pairs[j] = _mm512_castps_pd(pick<kLargest>(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  }
  return pick<kLargest>(_mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[1])),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[1])));
}
template <bool kLargest>
GX_WIDE __m512 reduce_quads(const __m512* quads) {
  __m512 halves[2];
  for (int i = 0; i < 2; ++i) {
    const __m512 a = quads[2 * i], b = quads[2 * i + 1];
    halves[i] = pick<kLargest>(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  return pick<kLargest>(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                        _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD));
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
