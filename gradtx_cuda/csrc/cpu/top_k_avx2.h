// Exact selection of the largest magnitudes of a block with AVX2, ties to the lower index: blocks of
// whole ranges of 64 elements.
#pragma once

#include "../common/microadam.h"
#include "avx2.h"
#include "top_k_scratch.h"

#if GX_HAS_AVX2
namespace gx::avx2 {

// What is above this reaches the bound; no magnitude is above INT32_MAX.
GX_AVX2_INLINE __m256i below(uint32_t bound) {
  return _mm256_set1_epi32(static_cast<int>(std::min(bound, 1u << 31) - 1));
}

// A bit for each of 32 elements: whether its magnitude is above a limit.
GX_AVX2_INLINE uint64_t above(const __m256* x, __m256i limit) {
  __m256i large[4];
  for (int v = 0; v < 4; ++v) large[v] = _mm256_cmpgt_epi32(magnitudes(x[v]), limit);
  const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(large[0], large[1]),
                                           _mm256_packs_epi32(large[2], large[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const int bits = _mm256_movemask_epi8(_mm256_permutevar8x32_epi32(mixed, order));
  return static_cast<uint32_t>(bits);
}

// Append the positions of a range's set bits to a list of `count`, which has room for 64 more. A
// range hardly ever has more than four: no branch depends on how many there are.
GX_AVX2_INLINE int64_t list_positions(uint64_t set, int64_t start, int64_t count, uint16_t* list) {
  const int64_t more = __builtin_popcountll(set);
  for (int64_t done = 0;; done += 4) {
    for (int64_t j = done; j < done + 4; ++j) {
      list[count + j] = static_cast<uint16_t>(start + static_cast<int64_t>(_tzcnt_u64(set)));
      set = _blsr_u64(set);
    }
    if (__builtin_expect(done + 4 >= more, 1)) return count + more;
  }
}

// Append the positions of one range that reach a bound to a list of `count`.
GX_AVX2_INLINE int64_t list_range(const __m256* x, __m256i limit, int64_t start, int64_t count,
                                  WideTopK& s) {
  const uint64_t set = above(x, limit) | above(x + 4, limit) << 32;
  return list_positions(set, start, count, s.candidates);
}

// A magnitude that at least k of n elements reach, hardly more: k of 4k groups of elements have one
// as large.
GX_AVX2_INLINE uint32_t reached_by_k(const float* total, int64_t n, int64_t k, WideTopK& s) {
  const int64_t count = std::min(n, (4 * k + kLanes - 1) / kLanes * kLanes);
  auto* groups = reinterpret_cast<__m256i*>(s.groups);
  std::fill_n(s.groups, count, 0.0f);
  int64_t group = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const __m256i largest = _mm256_load_si256(groups + group);
    _mm256_store_si256(groups + group, _mm256_max_epu32(largest, magnitudes(read(total + i))));
    group = (group + 1) * kLanes == count ? 0 : group + 1;
  }
  int64_t reached;
  return bound_of(reinterpret_cast<const uint32_t*>(s.groups), count, k, k / 16, 0u,
                  kMagnitude<uint32_t>, reached);
}

// List what reaches a bound. Returns how many there are.
GX_AVX2_INLINE int64_t list_candidates(const float* total, int64_t n, uint32_t bound,
                                       WideTopK& s) {
  const __m256i limit = below(bound);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kRange) {
    __m256 x[8];
    for (int v = 0; v < 8; ++v) x[v] = read(total + i + 8 * v);
    count = list_range(x, limit, i, count, s);
  }
  return count;
}

GX_INLINE void write_bits(const uint32_t* bits, int64_t n, float* values) {
  std::memcpy(values, bits, static_cast<size_t>(n) * sizeof *bits);
}
GX_INLINE void write_bits(const uint32_t* bits, int64_t n, uint16_t* values) {
  for (int64_t c = 0; c < n; ++c) values[c] = to_bf16(from_bits(bits[c]));
}

// Move the k largest of the candidates, ties to the lower position, to a row of the window. All
// candidates reach the bound.
template <typename Value>
GX_AVX2_INLINE Kept keep_largest(float* total, int64_t count, int64_t k, uint32_t bound,
                                 int16_t* indices, Value* values, WideTopK& s) {
  for (int64_t c = 0; c < count; ++c) s.bits[c] = to_bits(total[s.candidates[c]]);
  uint32_t most = bound;
  for (int64_t c = 0; c < count; ++c) {
    s.magnitudes[c] = s.bits[c] & INT32_MAX;
    most = std::max(most, s.magnitudes[c]);
  }
  int64_t reached;
  const uint32_t least = bound_of(s.magnitudes, count, k, 0, bound, most, reached);
  int64_t ties = reached == k ? k : k - count_from(s.magnitudes, count, least + 1);
  int64_t done = 0;
  for (int64_t c = 0; c < count; ++c) {  // no branch depends on what is kept
    const uint32_t m = s.magnitudes[c];
    const bool tie = m == least, keep = m > least || (tie && ties > 0);
    s.candidates[done] = s.candidates[c];
    s.bits[done] = s.bits[c];
    ties -= tie ? 1 : 0;
    done += keep ? 1 : 0;
  }
  std::memcpy(indices, s.candidates, static_cast<size_t>(k) * sizeof *indices);
  write_bits(s.bits, k, values);
  for (int64_t c = 0; c < k; ++c) total[indices[c]] = 0.0f;
  return {least, most};
}

}  // namespace gx::avx2
#endif
