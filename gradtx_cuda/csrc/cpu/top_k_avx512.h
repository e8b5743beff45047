// Exact selection of the largest magnitudes of a block with AVX-512, ties to the lower index: blocks
// of whole ranges of 64 elements.
#pragma once

#include "../common/arith.h"
#include "avx512.h"
#include "top_k_scratch.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace gx {

alignas(64) inline constexpr uint8_t kOrder[64] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
    22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
    44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};

// Append the positions of a range's set bits to a list of `count`, which has room for 64 more.
GX_WIDE int64_t list_positions(__mmask64 set, int64_t start, int64_t count, uint16_t* list) {
  const __m512i found = _mm512_maskz_compress_epi8(set, _mm512_load_si512(kOrder));
  const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(start));
  const __m512i front = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(found));
  _mm512_storeu_si512(list + count, _mm512_add_epi16(base, front));
  const int64_t more = __builtin_popcountll(_cvtmask64_u64(set));
  if (__builtin_expect(more > 32, 0)) {
    const __m512i back = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(found, 1));
    _mm512_storeu_si512(list + count + 32, _mm512_add_epi16(base, back));
  }
  return count + more;
}

// Append the positions of one range that reach a bound to a list of `count`.
GX_WIDE int64_t list_range(const __m512* x, __m512i bound, int64_t start, int64_t count,
                           WideTopK& s) {
  __mmask16 large[4];
  for (int v = 0; v < 4; ++v) large[v] = _mm512_cmpge_epu32_mask(magnitudes(x[v]), bound);
  const __mmask64 all = _mm512_kunpackd(_mm512_kunpackw(large[3], large[2]),
                                        _mm512_kunpackw(large[1], large[0]));
  return list_positions(all, start, count, s.candidates);
}

// A magnitude that at least k of n elements reach, hardly more: k of 4k groups of elements have one
// as large.
GX_WIDE uint32_t reached_by_k(const float* total, int64_t n, int64_t k, WideTopK& s) {
  const int64_t count = std::min(n, (4 * k + kLanes - 1) / kLanes * kLanes);
  std::fill_n(s.groups, count, 0.0f);
  int64_t group = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const __m512 x = read(total + i), largest = _mm512_load_ps(s.groups + group);
    _mm512_store_ps(s.groups + group, _mm512_range_ps(largest, x, 0xB));  // of the magnitudes
    group = group + kLanes == count ? 0 : group + kLanes;
  }
  int64_t reached;
  return bound_of(reinterpret_cast<const uint32_t*>(s.groups), count, k, k / 16, 0u,
                  kMagnitude<uint32_t>, reached);
}

// List what reaches a bound. Returns how many there are.
GX_WIDE int64_t list_candidates(const float* total, int64_t n, uint32_t bound, WideTopK& s) {
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(bound));
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kRange) {
    __m512 x[4];
    for (int v = 0; v < 4; ++v) x[v] = read(total + i + 16 * v);
    count = list_range(x, limit, i, count, s);
  }
  return count;
}

GX_WIDE __m512 read_some(const float* x, __mmask16 some) {
  return _mm512_maskz_loadu_ps(some, x);
}
GX_WIDE __m512 read_some(const uint16_t* x, __mmask16 some) {
  return widen(_mm256_maskz_loadu_epi16(some, x));
}
GX_WIDE void write_some(float* x, __mmask16 some, __m512 value) {
  _mm512_mask_storeu_ps(x, some, value);
}
GX_WIDE void write_some(uint16_t* x, __mmask16 some, __m512 value) {
  _mm256_mask_storeu_epi16(x, some, narrow(value));
}

// Move the k largest of the candidates, ties to the lower position, to a row of the window. All
// candidates reach the bound.
template <typename Value>
GX_WIDE Kept keep_largest(float* total, int64_t count, int64_t k, uint32_t bound, int16_t* indices,
                          Value* values, WideTopK& s) {
  for (int64_t c = 0; c < count; ++c) s.bits[c] = to_bits(total[s.candidates[c]]);
  uint32_t most = bound;
  for (int64_t c = 0; c < count; ++c) {
    s.magnitudes[c] = s.bits[c] & INT32_MAX;
    most = std::max(most, s.magnitudes[c]);
  }
  int64_t reached;
  const uint32_t least = bound_of(s.magnitudes, count, k, 0, bound, most, reached);
  int64_t ties = reached == k ? k : k - count_from(s.magnitudes, count, least + 1);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(least));
  int64_t done = 0;
  for (int64_t c = 0; c < count; c += kLanes) {
    const auto some = static_cast<__mmask16>(0xFFFFu >> std::max<int64_t>(0, c + kLanes - count));
    const __m512i m = _mm512_load_si512(s.magnitudes + c);
    const unsigned equal = _mm512_mask_cmpeq_epu32_mask(some, m, limit);
    const unsigned first = _pdep_u32(ties >= kLanes ? 0xFFFFu : (1u << ties) - 1u, equal);
    const auto keep = static_cast<__mmask16>(_mm512_mask_cmpgt_epu32_mask(some, m, limit) | first);
    ties -= __builtin_popcount(first);
    const __m256i place =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(s.candidates + c));
    const __m512 value = _mm512_load_ps(reinterpret_cast<const float*>(s.bits + c));
    const int more = __builtin_popcount(keep);
    const auto room = static_cast<__mmask16>((1u << more) - 1u);
    _mm256_mask_storeu_epi16(indices + done, room, _mm256_maskz_compress_epi16(keep, place));
    write_some(values + done, room, _mm512_maskz_compress_ps(keep, value));
    done += more;
  }
  for (int64_t c = 0; c < k; ++c) total[indices[c]] = 0.0f;
  return {least, most};
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
