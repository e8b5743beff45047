// One block of a MicroAdam step with the AVX-512 of Ice Lake and Zen 4, the bits of
// microadam_block.h: ranges of 64 elements, four registers.
#pragma once

#include "avx512.h"
#include "microadam_compress.h"
#include "top_k_avx512.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace gx {

// total = sign * gradient + error. Lists what reaches a bound and returns how many there are.
template <typename G>
GX_WIDE int64_t add_errors(const Leaf& leaf, int64_t start, int64_t n, uint32_t bound, Soon& soon,
                           WideScratch& s) {
  const G* grad = static_cast<const G*>(leaf.grad) + start;
  const uint8_t* codes = leaf.codes + start / 2;
  const __m512 sign = _mm512_set1_ps(static_cast<float>(leaf.sign));
  const __m512 digits = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i wide = _mm512_set_epi64(0x380000003C, 0x3000000034, 0x280000002C, 0x2000000024,
                                        0x180000001C, 0x1000000014, 0x080000000C, 0x0000000004);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(bound));
  const int64_t ranges = n / kRange;
  int64_t listed = 0;
  for (int64_t first = 0; first < ranges; first += kBatch) {
    const int64_t count = std::min(kBatch, ranges - first);
    const auto some = static_cast<__mmask16>(0xFFFFu >> (kBatch - count));
    const int64_t range = start / kRange + first;
    const __m512 low = widen(_mm256_maskz_loadu_epi16(some, leaf.lo + range));
    const __m512 high = widen(_mm256_maskz_loadu_epi16(some, leaf.hi + range));
    alignas(64) float los[kBatch], steps[kBatch];
    _mm512_store_ps(los, low);
    _mm512_store_ps(steps, _mm512_div_ps(_mm512_sub_ps(high, low), _mm512_set1_ps(kLevels)));
    for (int64_t j = 0; j < count; ++j) {
      soon.fetch();
      const __m512 decoded = _mm512_add_ps(_mm512_mul_ps(digits, _mm512_set1_ps(steps[j])),
                                           _mm512_set1_ps(los[j]));
      const int64_t i = (first + j) * kRange;
      __m512 x[4];
      for (int v = 0; v < 4; ++v) {
        int64_t eight;
        std::memcpy(&eight, codes + (i + 16 * v) / 2, sizeof eight);
        const __m512i code = _mm512_multishift_epi64_epi8(wide, _mm512_set1_epi64(eight));
        x[v] = _mm512_fmadd_ps(sign, read(grad + i + 16 * v),  // the product is exact
                               _mm512_permutexvar_ps(code, decoded));
        _mm512_store_ps(s.total + i + 16 * v, x[v]);
      }
      listed = list_range(x, limit, i, listed, s);
    }
  }
  return listed;
}

// The least magnitude of a row of the window.
GX_WIDE uint32_t least_kept(const uint16_t* values, int64_t k) {
  __m512i least = _mm512_set1_epi16(INT16_MAX);
  for (int64_t c = 0; c < k; c += 32) {
    const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 32 - k);
    const __m512i x = _mm512_maskz_loadu_epi16(some, values + c);
    least = _mm512_mask_min_epu16(least, some, least,
                                  _mm512_and_si512(x, _mm512_set1_epi16(INT16_MAX)));
  }
  const __m512i pairs = _mm512_min_epu32(_mm512_and_si512(least, _mm512_set1_epi32(0xFFFF)),
                                         _mm512_srli_epi32(least, 16));
  return _mm512_reduce_min_epu32(pairs) << 16;
}

// The codes of a range by the division that defines them.
GX_WIDE void divide(const float* x, Range range, __m512i* fixed) {
  const __m512 step = _mm512_set1_ps(grid_step(range, kLevels)), lo = _mm512_set1_ps(range.lo);
  const __mmask16 some = _mm512_cmp_ps_mask(step, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  for (int v = 0; v < 4; ++v) {
    __m512 position = _mm512_div_ps(_mm512_sub_ps(_mm512_load_ps(x + 16 * v), lo), step);
    position = _mm512_max_ps(position, _mm512_setzero_ps());  // 0 for NaN
    position = _mm512_min_ps(position, _mm512_set1_ps(kLevels));
    const __m512i code = _mm512_cvttps_epi32(_mm512_add_ps(position, _mm512_set1_ps(0.5f)));
    fixed[v] = _mm512_maskz_slli_epi32(some, code, 16);
  }
}

// Pack codes, the upper halves of 64 words, clamped to [0, 15].
GX_WIDE void pack_codes(const __m512i* fixed, uint8_t* codes) {
  alignas(64) static constexpr uint16_t kUpper[32] = {
      1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  alignas(64) static constexpr uint8_t kOrder[64] = {
      0, 2, 4, 6, 16, 18, 20, 22, 32, 34, 36, 38, 48, 50, 52, 54,
      8, 10, 12, 14, 24, 26, 28, 30, 40, 42, 44, 46, 56, 58, 60, 62};
  const __m512i upper = _mm512_load_si512(kUpper);
  const __m512i a = _mm512_permutex2var_epi16(fixed[0], upper, fixed[1]);
  const __m512i b = _mm512_permutex2var_epi16(fixed[2], upper, fixed[3]);
  const __m512i bytes = _mm512_min_epu8(_mm512_packus_epi16(a, b), _mm512_set1_epi8(kLevels));
  const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x0110));
  const __m512i ordered = _mm512_permutexvar_epi8(_mm512_load_si512(kOrder), pairs);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_castsi512_si256(ordered));
}

// finish_range of finite bounds that are not snapped to zero.
GX_WIDE __m512 finish_bound(__m512 x) {
  const __m512i bits = _mm512_slli_epi32(nearest_even(x), 16);
  return _mm512_add_ps(_mm512_castsi512_ps(bits), _mm512_setzero_ps());
}

// Ranges of a batch: bounds, and positions of numbers among the codes, scale x + offset.
struct alignas(64) Grid {
  float los[kBatch], his[kBatch], scales[kBatch], offsets[kBatch];
};

// Bounds of up to 16 ranges of finite numbers.
GX_WIDE void bound_batch(const float* total, int64_t count, const RangeRule& rule, uint16_t* lo,
                         uint16_t* hi, Grid& grid, Soon& soon) {
  __m512 lows[4], highs[4];
#pragma GCC unroll 4
  for (int64_t four = 0; four < 4; ++four) {
    __m512 least[4], most[4];
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
      soon.fetch();
      // Ranges behind the last are read too, their bounds are not.
      const float* x = total + (4 * four + j) * kRange;
      const __m512 a = _mm512_load_ps(x), b = _mm512_load_ps(x + 16);
      const __m512 c = _mm512_load_ps(x + 32), d = _mm512_load_ps(x + 48);
      least[j] = _mm512_min_ps(_mm512_min_ps(a, b), _mm512_min_ps(c, d));
      most[j] = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
    }
    lows[four] = reduce_quad<false>(least);
    highs[four] = reduce_quad<true>(most);
  }
  __m512 low = reduce_quads<false>(lows), high = reduce_quads<true>(highs);
  if (rule.include_zero) {
    _mm512_store_ps(grid.los, low);
    _mm512_store_ps(grid.his, high);
    for (int64_t j = 0; j < kBatch; ++j) {
      const Range range = finish_range({grid.los[j], grid.his[j]}, rule);
      grid.los[j] = range.lo;
      grid.his[j] = range.hi;
    }
    low = _mm512_load_ps(grid.los);
    high = _mm512_load_ps(grid.his);
  } else {
    low = finish_bound(low);
    high = finish_bound(high);
    _mm512_store_ps(grid.los, low);
    _mm512_store_ps(grid.his, high);
  }
  const auto some = static_cast<__mmask16>(0xFFFFu >> (kBatch - count));
  _mm256_mask_storeu_epi16(lo, some, narrow(low));
  _mm256_mask_storeu_epi16(hi, some, narrow(high));

  // Positions in fixed point, half a code and two units up. In a range that contains 0 they are
  // exact to a unit, so the codes are those of the division unless the fraction is below 4 units;
  // conversions that fail, of NaN or too large a number, have the fraction 0.
  const __m512 zero = _mm512_setzero_ps(), half = _mm512_set1_ps(32770.0f);
  const __mmask16 contains =
      _mm512_cmp_ps_mask(low, zero, _CMP_LE_OQ) & _mm512_cmp_ps_mask(high, zero, _CMP_GE_OQ);
  const __m512 step = _mm512_div_ps(_mm512_sub_ps(high, low), _mm512_set1_ps(kLevels));
  const __m512 scale = _mm512_div_ps(_mm512_set1_ps(65536.0f), step);
  _mm512_store_ps(grid.scales, scale);
  const __m512 offset = _mm512_fnmadd_ps(low, scale, half);
  _mm512_store_ps(grid.offsets, _mm512_mask_mov_ps(_mm512_set1_ps(NAN), contains, offset));
}

// Codes of such ranges.
GX_WIDE void encode_batch(const float* total, int64_t count, const Grid& grid, uint8_t* codes,
                          Soon& soon) {
  for (int64_t j = 0; j < count; ++j) {
    const __m512 factor = _mm512_set1_ps(grid.scales[j]), addend = _mm512_set1_ps(grid.offsets[j]);
    const float* x = total + j * kRange;
    __m512i fixed[4];
    for (int v = 0; v < 4; ++v) {
      fixed[v] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_load_ps(x + 16 * v), factor, addend));
    }
    const __m512i fraction = _mm512_min_epu16(_mm512_min_epu16(fixed[0], fixed[1]),
                                              _mm512_min_epu16(fixed[2], fixed[3]));
    const __mmask32 unsure =
        _mm512_mask_cmplt_epu16_mask(0x55555555u, fraction, _mm512_set1_epi16(4));
    if (__builtin_expect(unsure != 0, 0)) divide(x, {grid.los[j], grid.his[j]}, fixed);
    pack_codes(fixed, codes + j * kRange / 2);
  }
}

// Bounds and codes of finite numbers. The bounds of a batch are long in coming; the codes of the
// batch before are computed meanwhile.
GX_WIDE void encode_block(const float* total, int64_t ranges, const RangeRule& rule,
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

struct Avx512 {
  template <typename G>
  GX_AVX512 static int64_t add_errors(const Leaf& leaf, int64_t start, int64_t n, uint32_t bound,
                                      WideScratch& s) {
    return gx::add_errors<G>(leaf, start, n, bound, s.soon, s);
  }
  GX_AVX512 static uint32_t least_kept(const uint16_t* values, int64_t k) {
    return gx::least_kept(values, k);
  }
  GX_AVX512 static uint32_t reached_by_k(const float* total, int64_t n, int64_t k, WideTopK& s) {
    return gx::reached_by_k(total, n, k, s);
  }
  GX_AVX512 static int64_t list_candidates(const float* total, int64_t n, uint32_t bound,
                                           WideTopK& s) {
    return gx::list_candidates(total, n, bound, s);
  }
  GX_AVX512 static Kept keep_largest(float* total, int64_t count, int64_t k, uint32_t bound,
                                     int16_t* indices, uint16_t* values, WideTopK& s) {
    return gx::keep_largest(total, count, k, bound, indices, values, s);
  }
  GX_AVX512 static void encode_block(const float* total, int64_t ranges, const RangeRule& rule,
                                     uint8_t* codes, uint16_t* lo, uint16_t* hi, Soon& soon) {
    gx::encode_block(total, ranges, rule, codes, lo, hi, soon);
  }
};

}  // namespace gx
#pragma GCC diagnostic pop
#endif
