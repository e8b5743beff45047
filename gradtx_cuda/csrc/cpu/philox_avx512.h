// Sixteen Philox blocks at a time in AVX-512 registers, one word of each to a register.
#pragma once

#include "../common/philox.h"
#include "avx512.h"

#if GX_HAS_AVX512
namespace gx {

// High and low words of sixteen products with a constant.
GX_WIDE void multiply_words(__m512i x, __m512i by, __m512i* high, __m512i* low) {
  const __m512i even = _mm512_mul_epu32(x, by);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), by);
  *high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_CDAB);
  *low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CDAB);
}

// words[w] is word w of the blocks from `first` on; the lower half of `first` does not overflow.
GX_WIDE void philox_words(PhiloxKey key, uint64_t first, __m512i* words) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i by0 = _mm512_set1_epi64(0xD2511F53), by1 = _mm512_set1_epi64(0xCD9E8D57);
  __m512i c0 = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lanes);
  __m512i c1 = _mm512_set1_epi32(static_cast<int>(first >> 32));
  __m512i c2 = _mm512_set1_epi32(static_cast<int>(key.counter));
  __m512i c3 = _mm512_set1_epi32(static_cast<int>(key.counter >> 32));
  __m512i k0 = _mm512_set1_epi32(static_cast<int>(key.seed));
  __m512i k1 = _mm512_set1_epi32(static_cast<int>(key.seed >> 32));
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    __m512i high0, low0, high1, low1;
    multiply_words(c0, by0, &high0, &low0);
    multiply_words(c2, by1, &high1, &low1);
    c0 = _mm512_ternarylogic_epi32(high1, c1, k0, 0x96);
    c2 = _mm512_ternarylogic_epi32(high0, c3, k1, 0x96);
    c1 = low1;
    c3 = low0;
    k0 = _mm512_add_epi32(k0, _mm512_set1_epi32(static_cast<int>(0x9E3779B9u)));
    k1 = _mm512_add_epi32(k1, _mm512_set1_epi32(static_cast<int>(0xBB67AE85u)));
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// out[4 j + w] = x[w][j].
GX_WIDE void interleave(const __m512* x, __m512* out) {
  const __m512d low[2] = {_mm512_castps_pd(_mm512_unpacklo_ps(x[0], x[1])),
                          _mm512_castps_pd(_mm512_unpacklo_ps(x[2], x[3]))};
  const __m512d high[2] = {_mm512_castps_pd(_mm512_unpackhi_ps(x[0], x[1])),
                           _mm512_castps_pd(_mm512_unpackhi_ps(x[2], x[3]))};
  const __m512 a = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
  const __m512 b = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
  const __m512 c = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
  const __m512 d = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
  const __m512 ab = _mm512_shuffle_f32x4(a, b, 0x44), cd = _mm512_shuffle_f32x4(c, d, 0x44);
  const __m512 ab2 = _mm512_shuffle_f32x4(a, b, 0xEE), cd2 = _mm512_shuffle_f32x4(c, d, 0xEE);
  out[0] = _mm512_shuffle_f32x4(ab, cd, 0x88);
  out[1] = _mm512_shuffle_f32x4(ab, cd, 0xDD);
  out[2] = _mm512_shuffle_f32x4(ab2, cd2, 0x88);
  out[3] = _mm512_shuffle_f32x4(ab2, cd2, 0xDD);
}

}  // namespace gx
#endif
