// Adam's step of one block from a window of sparse rows, with AVX2. The order of the arithmetic is
// that of microadam_window.h.
#pragma once

#include "avx2.h"
#include "microadam_entries.h"

#if GX_HAS_AVX2
namespace gx::avx2 {

// Whether there are tags for all entries of a window and the rows that were written before have
// ascending positions in a block of n.
GX_AVX2 inline bool rows_ascend(const Leaf& leaf, int64_t block) {
  const int64_t rows = leaf.powers->rows(), n = leaf.block_size, k = leaf.k;
  if (rows * k > UINT16_MAX) return false;
  for (int64_t row = 0; row < rows; ++row) {
    if (row == leaf.row) continue;
    const auto* at =
        reinterpret_cast<const uint16_t*>(leaf.indices) + row * leaf.columns + block * k;
    uint16_t falls = at[k - 1] >= n ? 1 : 0;
    for (int64_t c = 0; c + 1 < k; ++c) falls |= at[c] >= at[c + 1] ? 1 : 0;
    if (falls != 0) return false;
  }
  return true;
}

// Collect a row's entries below a position, from entry `c` on, behind `count` others: what they add
// to first and second moments.
GX_AVX2_INLINE int64_t take_below(const Leaf& leaf, int64_t row, int64_t column, int64_t below,
                                  int64_t& c, int64_t count, WideScratch& s) {
  const int64_t start = row * leaf.columns + column;
  const auto* at = reinterpret_cast<const uint16_t*>(leaf.indices) + start;
  const uint16_t* of = leaf.values + start + c;
  const auto bound = static_cast<uint16_t>(below);
  uint16_t more = 0;
  for (int64_t i = c; i < leaf.k; ++i) more += at[i] < bound ? 1 : 0;
  std::memcpy(s.places.data() + count, at + c, more * sizeof *at);
  float *first = s.first.data() + count, *second = s.second.data() + count;
  const float w1 = leaf.powers->weights1[static_cast<size_t>(row)];
  const float w2 = leaf.powers->weights2[static_cast<size_t>(row)];
  for (int64_t i = 0; i < more; ++i) {
    const float v = from_bf16(of[i]);
    first[i] = add(0.0f, mul(w1, v));
    second[i] = mul(w2, mul(v, v));
  }
  c += more;
  return count + more;
}

// Add moments of entries to those of later entries of the same position, and leave nothing.
GX_AVX2_INLINE void join_entries(int64_t entries, WideScratch& s) {
  float *first = s.first.data(), *second = s.second.data();
  uint16_t* previous = s.previous.data();
  const __m256i base = _mm256_set1_epi16(static_cast<int16_t>(s.base));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(previous + entries), _mm256_setzero_si256());
  for (int64_t e = 0; e < entries; e += 16) {
    const auto* at = reinterpret_cast<const __m256i*>(previous + e);
    const __m256i later = _mm256_subs_epu16(_mm256_loadu_si256(at), base);
    const __m256i alone = _mm256_cmpeq_epi16(later, _mm256_setzero_si256());
    uint32_t joined = ~static_cast<uint32_t>(_mm256_movemask_epi8(alone)) & 0x55555555u;
    for (; joined != 0; joined &= joined - 1) {
      const int64_t to = e + __builtin_ctz(joined) / 2, from = previous[to] - s.base - 1;
      first[to] = add(first[from], first[to]);
      second[to] = add(second[from], second[to]);
      first[from] = second[from] = 0.0f;
    }
  }
}

// Adam's updates of a stretch's entries.
GX_AVX2_INLINE void update_entries(int64_t entries, const MicroAdamRates& rates, WideScratch& s) {
  float* first = s.first.data();
  const float* second = s.second.data();
  const __m256 zero = _mm256_setzero_ps();
  for (int64_t c = 0; c < entries; c += kLanes) {
    const __m256 v = _mm256_mul_ps(_mm256_set1_ps(rates.gain2), read(second + c));
    const __m256 some = _mm256_cmp_ps(v, zero, _CMP_GT_OQ);
    const __m256 scale =
        _mm256_add_ps(_mm256_and_ps(some, _mm256_sqrt_ps(v)), _mm256_set1_ps(rates.eps));
    const __m256 m = _mm256_mul_ps(_mm256_set1_ps(rates.gain1), read(first + c));
    _mm256_storeu_ps(first + c, _mm256_div_ps(m, scale));
  }
}

// The step of a stretch of parameters. An entry that has been added to a later one changes its
// parameter before that does.
template <typename P>
GX_AVX2_INLINE void move_stretch(P* param, int64_t start, int64_t length, int64_t entries,
                                 const MicroAdamRates& rates, WideScratch& s) {
  P* moved = reinterpret_cast<P*>(s.moved.data());
  const float* update = s.first.data();
  const uint16_t* places = s.places.data();
  for (int64_t e = 0; e < entries; ++e) moved[e] = param[places[e]];
  move(moved, update, entries, rates);
  if (!others_stay(rates)) {
    for (int64_t i = start; i < start + length; ++i) {
      store(param, i, microadam_moved(load(param, i), 0.0f, rates));
    }
  }
  for (int64_t e = 0; e < entries; ++e) param[places[e]] = moved[e];
}

// The same where the others stay: entries that have been added to later ones change nothing.
GX_AVX2_INLINE void move_entries(float* param, int64_t entries, const MicroAdamRates& rates,
                                 WideScratch& s) {
  float* change = s.first.data();
  const uint16_t* places = s.places.data();
  for (int64_t e = 0; e < entries; ++e) change[e] = mul(change[e], -rates.lr);
  for (int64_t e = 0; e < entries; ++e) {
    float& p = param[places[e]];
    p = add(p, change[e]);
  }
}

// Adam's step of a full block from the window, a stretch of parameters at a time. Few positions
// have several entries: the last of those has their moments.
template <typename P>
GX_AVX2 void move_block_wide(const Leaf& leaf, int64_t block, bool last, WideScratch& s) {
  const int64_t n = leaf.block_size, column = block * leaf.k, rows = leaf.powers->rows();
  const MicroAdamRates& rates = leaf.powers->rates;
  P* param = static_cast<P*>(leaf.param) + block * n;
  expect_next(leaf, column, param, last, s);
  s.reserve(rows, leaf.k);
  for (int64_t start = 0; start < n; start += kStretch) {
    const int64_t length = std::min(kStretch, n - start);
    int64_t entries = 0;
    for (int64_t row = 0; row < rows; ++row) {
      int64_t& taken = s.taken[static_cast<size_t>(row)];
      entries = take_below(leaf, row, column, start + length, taken, entries, s);
    }
    s.make_room(entries);
    tag_entries(entries, start, s);
    avx2::join_entries(entries, s);
    s.base += static_cast<uint32_t>(entries);
    update_entries(entries, rates, s);
    if constexpr (sizeof(P) == sizeof(float)) {
      if (others_stay(rates)) {
        avx2::move_entries(param, entries, rates, s);
        continue;
      }
    }
    avx2::move_stretch(param, start, length, entries, rates, s);
  }
}

}  // namespace gx::avx2
#endif
