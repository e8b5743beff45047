// Registers of AVX2, for processors that have no more: bfloat16 in memory, reductions. Names are
// those of avx512.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vectorize.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GX_HAS_AVX2 1
#include <immintrin.h>

#define GX_AVX2 __attribute__((target("avx2,fma,bmi,popcnt")))
#define GX_AVX2_INLINE GX_AVX2 GX_INLINE

namespace gx::avx2 {

constexpr int64_t kLanes = 8;

inline bool is_there() {
  static const bool there = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                            __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
  return there;
}

GX_AVX2_INLINE __m256 read(const float* x) { return _mm256_loadu_ps(x); }
GX_AVX2_INLINE __m256 read(const uint16_t* x) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

GX_AVX2_INLINE __m256i magnitudes(__m256 x) {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(INT32_MAX));
}

// finish_range of finite bounds that are not snapped to zero.
GX_AVX2_INLINE __m256 finish_bound(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i nearest = _mm256_and_si256(up, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u)));
  return _mm256_add_ps(_mm256_castsi256_ps(nearest), _mm256_setzero_ps());
}

// The smallest or largest of each of four registers' elements.
template <bool kLargest>
GX_AVX2_INLINE __m256 pick(__m256 a, __m256 b) {
  return kLargest ? _mm256_max_ps(a, b) : _mm256_min_ps(a, b);
}
template <bool kLargest>
GX_AVX2_INLINE __m128 pick(__m128 a, __m128 b) {
  return kLargest ? _mm_max_ps(a, b) : _mm_min_ps(a, b);
}
template <bool kLargest>
GX_AVX2_INLINE __m128 reduce_quad(const __m256* x) {
  __m128 halves[4], pairs[2];
  for (int j = 0; j < 4; ++j) {
    halves[j] = pick<kLargest>(_mm256_castps256_ps128(x[j]), _mm256_extractf128_ps(x[j], 1));
  }
  for (int j = 0; j < 2; ++j) {
    const __m128 a = halves[2 * j], b = halves[2 * j + 1];
    pairs[j] = pick<kLargest>(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
  }
  return pick<kLargest>(_mm_movelh_ps(pairs[0], pairs[1]), _mm_movehl_ps(pairs[1], pairs[0]));
}

}  // namespace gx::avx2
#endif
