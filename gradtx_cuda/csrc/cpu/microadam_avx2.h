// What one block of a MicroAdam step needs of AVX2: ranges of 64 elements, eight registers. The
// arithmetic is that of microadam_avx512.h.
#pragma once

#include "microadam_compress.h"
#include "top_k_avx2.h"

#if GX_HAS_AVX2
namespace gx::avx2 {

// total = sign * gradient + error. Lists what reaches a bound and returns how many there are.
template <typename G>
GX_AVX2_INLINE int64_t add_errors(const Leaf& leaf, int64_t start, int64_t n, uint32_t bound,
                                  WideScratch& s) {
  const G* grad = static_cast<const G*>(leaf.grad) + start;
  const uint8_t* codes = leaf.codes + start / 2;
  const __m256 sign = _mm256_set1_ps(static_cast<float>(leaf.sign));
  const __m256i limit = below(bound);
  // The second byte of a word gets the code's byte. Below the leading bit of 2^11 and 2^15 its
  // upper and lower four bits are whole numbers.
  const __m256i second = _mm256_setr_epi8(-1, 0, -1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 1, -1,
                                          -1, -1, 2, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1, 3,
                                          -1, -1);
  const __m256i four = _mm256_set1_epi64x(0x00000F000000F000);
  const __m256 power = _mm256_setr_ps(0x1p11f, 0x1p15f, 0x1p11f, 0x1p15f, 0x1p11f, 0x1p15f,
                                      0x1p11f, 0x1p15f);
  const int64_t ranges = n / kRange;
  int64_t listed = 0;
  for (int64_t first = 0; first < ranges; first += kBatch) {
    const int64_t count = std::min(kBatch, ranges - first), range = start / kRange + first;
    float los[kBatch] = {}, steps[kBatch] = {};
    for (int64_t j = 0; j < count; ++j) {
      los[j] = from_bf16(leaf.lo[range + j]);
      steps[j] = grid_step({los[j], from_bf16(leaf.hi[range + j])}, kLevels);
    }
    for (int64_t j = 0; j < count; ++j) {
      s.soon.fetch();
      const __m256 step = _mm256_set1_ps(steps[j]), lo = _mm256_set1_ps(los[j]);
      const int64_t i = (first + j) * kRange;
      uint64_t set = 0;
      for (int64_t half = 0; half < kRange; half += 32) {
        __m256 x[4];
        for (int v = 0; v < 4; ++v) {
          const int64_t at = i + half + kLanes * v;
          int eight;
          std::memcpy(&eight, codes + at / 2, sizeof eight);
          const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(eight), second);
          const __m256 code = _mm256_sub_ps(
              _mm256_or_ps(_mm256_castsi256_ps(_mm256_and_si256(bytes, four)), power), power);
          x[v] = _mm256_fmadd_ps(sign, read(grad + at),  // the product is exact
                                 _mm256_add_ps(_mm256_mul_ps(code, step), lo));
          _mm256_store_ps(s.total + at, x[v]);
        }
        set |= above(x, limit) << half;
      }
      listed = list_positions(set, i, listed, s.candidates);
    }
  }
  return listed;
}

// Pack codes, the upper halves of 64 words, clamped to [0, 15].
GX_AVX2_INLINE void pack_codes(const __m256i* fixed, uint8_t* codes) {
  __m256i pairs[2];
  for (int i = 0; i < 2; ++i) {
    __m256i upper[4];
    for (int v = 0; v < 4; ++v) upper[v] = _mm256_srai_epi32(fixed[4 * i + v], 16);
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(upper[0], upper[1]),
                                              _mm256_packs_epi32(upper[2], upper[3]));
    pairs[i] = _mm256_maddubs_epi16(_mm256_min_epu8(bytes, _mm256_set1_epi8(kLevels)),
                                    _mm256_set1_epi16(0x0110));
  }
  const __m256i mixed = _mm256_packus_epi16(pairs[0], pairs[1]);
  const __m128i a = _mm256_castsi256_si128(mixed), b = _mm256_extracti128_si256(mixed, 1);
  auto* to = reinterpret_cast<__m128i*>(codes);
  _mm_storeu_si128(to, _mm_unpacklo_epi16(a, b));
  _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(a, b));
}

// Ranges of a batch: bounds, and positions of numbers among the codes, scale x + offset.
struct alignas(64) Grid {
  float los[kBatch], his[kBatch], scales[kBatch], offsets[kBatch];
};

// Bounds of up to 16 ranges of finite numbers.
GX_AVX2_INLINE void bound_batch(const float* total, int64_t count, const RangeRule& rule,
                                uint16_t* lo, uint16_t* hi, Grid& grid, Soon& soon) {
  for (int64_t four = 0; four < kBatch; four += 4) {
    __m256 least[4], most[4];
    for (int64_t j = 0; j < 4; ++j) {
      soon.fetch();
      // Ranges behind the last are read too, their bounds are not.
      const float* x = total + (four + j) * kRange;
      __m256 low[8], high[8];
      for (int v = 0; v < 8; ++v) low[v] = high[v] = _mm256_load_ps(x + kLanes * v);
      for (int step = 4; step > 0; step /= 2) {
        for (int v = 0; v < step; ++v) {
          low[v] = _mm256_min_ps(low[v], low[v + step]);
          high[v] = _mm256_max_ps(high[v], high[v + step]);
        }
      }
      least[j] = low[0];
      most[j] = high[0];
    }
    _mm_store_ps(grid.los + four, reduce_quad<false>(least));
    _mm_store_ps(grid.his + four, reduce_quad<true>(most));
  }
  if (rule.include_zero) {
    for (int64_t j = 0; j < kBatch; ++j) {
      const Range range = finish_range({grid.los[j], grid.his[j]}, rule);
      grid.los[j] = range.lo;
      grid.his[j] = range.hi;
    }
  }
  // finish_range of finite bounds, which leaves finished ones as they are. Positions are in fixed
  // point, half a code and two units up. In a range that contains 0 they are exact to a unit, so
  // the codes are those of the division unless the fraction is below 4 units; conversions that
  // fail, of NaN or too large a number, have the fraction 0.
  for (int64_t j = 0; j < kBatch; j += kLanes) {
    const __m256 zero = _mm256_setzero_ps(), half = _mm256_set1_ps(32770.0f);
    const __m256 low = finish_bound(_mm256_load_ps(grid.los + j));
    const __m256 high = finish_bound(_mm256_load_ps(grid.his + j));
    const __m256 contains = _mm256_and_ps(_mm256_cmp_ps(low, zero, _CMP_LE_OQ),
                                          _mm256_cmp_ps(high, zero, _CMP_GE_OQ));
    const __m256 step = _mm256_div_ps(_mm256_sub_ps(high, low), _mm256_set1_ps(kLevels));
    const __m256 scale = _mm256_div_ps(_mm256_set1_ps(65536.0f), step);
    const __m256 offset = _mm256_fnmadd_ps(low, scale, half);
    _mm256_store_ps(grid.los + j, low);
    _mm256_store_ps(grid.his + j, high);
    _mm256_store_ps(grid.scales + j, scale);
    _mm256_store_ps(grid.offsets + j, _mm256_blendv_ps(_mm256_set1_ps(NAN), offset, contains));
  }
  for (int64_t j = 0; j < count; ++j) {
    store_stat(lo, j, grid.los[j], true);
    store_stat(hi, j, grid.his[j], true);
  }
}

// Codes of such ranges.
GX_AVX2_INLINE void encode_batch(const float* total, int64_t count, const Grid& grid,
                                 uint8_t* codes, Soon& soon) {
  for (int64_t j = 0; j < count; ++j) {
    const __m256 factor = _mm256_set1_ps(grid.scales[j]), addend = _mm256_set1_ps(grid.offsets[j]);
    const float* x = total + j * kRange;
    __m256i fixed[8], fraction[8];
    for (int v = 0; v < 8; ++v) {
      fixed[v] = _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_load_ps(x + kLanes * v), factor, addend));
      fraction[v] = fixed[v];
    }
    for (int step = 4; step > 0; step /= 2) {
      for (int v = 0; v < step; ++v) {
        fraction[v] = _mm256_min_epu16(fraction[v], fraction[v + step]);
      }
    }
    const __m256i small = _mm256_min_epu16(fraction[0], _mm256_set1_epi16(3));
    const auto unsure =
        static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi16(small, fraction[0])));
    if (__builtin_expect((unsure & 0x33333333u) == 0, 1)) {
      pack_codes(fixed, codes + j * kRange / 2);
    } else {  // the division that defines them
      uint8_t divided[kRange];
      encode_nearest(x, kRange, {grid.los[j], grid.his[j]}, kLevels, divided);
      pack<kBits>(divided, kRange / 2, codes + j * kRange / 2);
    }
  }
}

// Bounds and codes of finite numbers. The bounds of a batch are long in coming; the codes of the
// batch before are computed meanwhile.
GX_AVX2_INLINE void encode_block(const float* total, int64_t ranges, const RangeRule& rule,
                                 uint8_t* codes, uint16_t* lo, uint16_t* hi, Soon& soon) {
  Grid grids[2];
  for (int64_t next = 0; next < ranges + kBatch; next += kBatch) {
    if (next < ranges) {
      bound_batch(total + next * kRange, std::min(kBatch, ranges - next), rule, lo + next,
                  hi + next, grids[next / kBatch % 2], soon);
    }
    const int64_t r = next - kBatch;
    if (r < 0) continue;
    encode_batch(total + r * kRange, std::min(kBatch, ranges - r), grids[r / kBatch % 2],
                 codes + r * kRange / 2, soon);
  }
}

// The least magnitude of a row of the window.
GX_AVX2_INLINE uint32_t least_kept(const uint16_t* values, int64_t k) {
  uint16_t least = INT16_MAX;
  for (int64_t c = 0; c < k; ++c) {
    least = std::min(least, static_cast<uint16_t>(values[c] & INT16_MAX));
  }
  return uint32_t{least} << 16;
}

}  // namespace gx::avx2

namespace gx {

struct Avx2 {
  template <typename G>
  GX_AVX2 static int64_t add_errors(const Leaf& leaf, int64_t start, int64_t n, uint32_t bound,
                                    WideScratch& s) {
    return avx2::add_errors<G>(leaf, start, n, bound, s);
  }
  GX_AVX2 static uint32_t least_kept(const uint16_t* values, int64_t k) {
    return avx2::least_kept(values, k);
  }
  GX_AVX2 static uint32_t reached_by_k(const float* total, int64_t n, int64_t k, WideTopK& s) {
    return avx2::reached_by_k(total, n, k, s);
  }
  GX_AVX2 static int64_t list_candidates(const float* total, int64_t n, uint32_t bound,
                                         WideTopK& s) {
    return avx2::list_candidates(total, n, bound, s);
  }
  GX_AVX2 static Kept keep_largest(float* total, int64_t count, int64_t k, uint32_t bound,
                                   int16_t* indices, uint16_t* values, WideTopK& s) {
    return avx2::keep_largest(total, count, k, bound, indices, values, s);
  }
  GX_AVX2 static void encode_block(const float* total, int64_t ranges, const RangeRule& rule,
                                   uint8_t* codes, uint16_t* lo, uint16_t* hi, Soon& soon) {
    avx2::encode_block(total, ranges, rule, codes, lo, hi, soon);
  }
};

}  // namespace gx
#endif
