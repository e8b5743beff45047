// Adam's step of one block from a window of sparse rows, with AVX-512.
#pragma once

#include "avx512.h"
#include "microadam_entries.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace gx {

// Whether there are tags for all entries of a window and the rows that were written before have
// ascending positions in a block of n.
GX_AVX512 inline bool rows_ascend(const Leaf& leaf, int64_t block) {
  const int64_t rows = leaf.powers->rows();
  const int64_t n = leaf.block_size, k = leaf.k;
  if (rows * k > UINT16_MAX) return false;
  for (int64_t row = 0; row < rows; ++row) {
    if (row == leaf.row) continue;
    const int64_t start = row * leaf.columns + block * k;
    const auto* at = reinterpret_cast<const uint16_t*>(leaf.indices) + start;
    __mmask32 falls = at[k - 1] >= n;
    for (int64_t c = 0; c + 1 < k; c += 32) {
      const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 33 - k);
      falls |= _mm512_mask_cmpge_epu16_mask(some, _mm512_maskz_loadu_epi16(some, at + c),
                                            _mm512_maskz_loadu_epi16(some, at + c + 1));
    }
    if (falls != 0) return false;
  }
  return true;
}

// What values of a row of the window add to first and second moments.
GX_WIDE void weigh(__m256i values, __m512 weight1, __m512 weight2, float* first, float* second) {
  const __m512 v = widen(values);
  _mm512_storeu_ps(first, _mm512_add_ps(_mm512_setzero_ps(), _mm512_mul_ps(weight1, v)));
  _mm512_storeu_ps(second, _mm512_mul_ps(weight2, _mm512_mul_ps(v, v)));
}

// Collect a row's entries below a position, from entry `c` on, behind `count` others.
GX_WIDE int64_t take_below(const Leaf& leaf, int64_t row, int64_t column, int64_t k, int64_t below,
                           int64_t& c, int64_t count, WideScratch& s) {
  const int64_t start = row * leaf.columns + column;
  const int16_t* at = leaf.indices + start;
  const uint16_t* of = leaf.values + start;
  const __m512 w1 = _mm512_set1_ps(leaf.powers->weights1[static_cast<size_t>(row)]);
  const __m512 w2 = _mm512_set1_ps(leaf.powers->weights2[static_cast<size_t>(row)]);
  const __m512i bound = _mm512_set1_epi16(static_cast<int16_t>(below));
  for (int64_t more = 32; more == 32 && c < k; c += more, count += more) {
    const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 32 - k);
    const __m512i places = _mm512_maskz_loadu_epi16(some, at + c);
    const __m512i values = _mm512_maskz_loadu_epi16(some, of + c);
    _mm512_storeu_si512(s.places.data() + count, places);
    weigh(_mm512_castsi512_si256(values), w1, w2, s.first.data() + count, s.second.data() + count);
    weigh(_mm512_extracti64x4_epi64(values, 1), w1, w2, s.first.data() + count + kLanes,
          s.second.data() + count + kLanes);
    more = __builtin_popcount(_mm512_mask_cmplt_epu16_mask(some, places, bound));
  }
  return count;
}

// Add moments of entries to those of later entries of the same position, and leave nothing.
GX_WIDE void join_entries(int64_t entries, WideScratch& s) {
  float *first = s.first.data(), *second = s.second.data();
  const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(s.base));
  for (int64_t e = 0; e < entries; e += 32) {
    const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, e + 32 - entries);
    const __m512i previous = _mm512_maskz_loadu_epi16(some, s.previous.data() + e);
    uint32_t joined = _mm512_cmpgt_epu16_mask(previous, base);
    for (; joined != 0; joined &= joined - 1) {
      const int64_t to = e + __builtin_ctz(joined), from = s.previous[to] - s.base - 1;
      first[to] = add(first[from], first[to]);
      second[to] = add(second[from], second[to]);
      first[from] = second[from] = 0.0f;
    }
  }
}

// microadam_moved
GX_WIDE __m512 move(__m512 p, __m512 update, const MicroAdamRates& rates) {
  const auto decays = static_cast<__mmask16>(rates.weight_decay != 0.0f ? 0xFFFFu : 0u);
  const __m512 decay = _mm512_mul_ps(_mm512_set1_ps(rates.weight_decay), p);
  const __m512 change = _mm512_mask_add_ps(update, decays, update, decay);
  return _mm512_add_ps(p, _mm512_mul_ps(change, _mm512_set1_ps(-rates.lr)));
}

// Adam's update of sixteen entries.
GX_WIDE __m512 update_of(const float* first, const float* second, const MicroAdamRates& rates) {
  const __m512 v = _mm512_mul_ps(_mm512_set1_ps(rates.gain2), _mm512_loadu_ps(second));
  const __mmask16 some = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 scale =
      _mm512_add_ps(_mm512_maskz_sqrt_ps(some, v), _mm512_set1_ps(rates.eps));
  const __m512 m = _mm512_mul_ps(_mm512_set1_ps(rates.gain1), _mm512_loadu_ps(first));
  return _mm512_div_ps(m, scale);
}

// The step of a stretch of parameters. An entry that has been added to a later one changes its
// parameter before that does.
template <typename P>
GX_WIDE void move_stretch(P* param, int64_t start, int64_t length, int64_t entries,
                          const MicroAdamRates& rates, WideScratch& s) {
  P* moved = reinterpret_cast<P*>(s.moved.data());
  const float *first = s.first.data(), *second = s.second.data();
  const uint16_t* places = s.places.data();
  for (int64_t e = 0; e < entries; ++e) moved[e] = param[places[e]];
  for (int64_t c = 0; c < entries; c += kLanes) {
    write(moved + c, move(read(moved + c), update_of(first + c, second + c, rates), rates));
  }
  for (int64_t i = start; !others_stay(rates) && i < start + length; i += kLanes) {
    write(param + i, move(read(param + i), _mm512_setzero_ps(), rates));
  }
  for (int64_t e = 0; e < entries; ++e) param[places[e]] = moved[e];
}

// The same where the others stay: entries that have been added to later ones change nothing.
GX_WIDE void move_entries(float* param, int64_t entries, const MicroAdamRates& rates,
                          WideScratch& s) {
  const float *first = s.first.data(), *second = s.second.data();
  float* change = s.moved.data();
  for (int64_t c = 0; c < entries; c += kLanes) {
    const __m512 update = update_of(first + c, second + c, rates);
    _mm512_storeu_ps(change + c, _mm512_mul_ps(update, _mm512_set1_ps(-rates.lr)));
  }
  for (int64_t e = 0; e < entries; ++e) {
    float& p = param[s.places[static_cast<size_t>(e)]];
    p = add(p, change[e]);
  }
}

// Adam's step of a full block from the window, a stretch of parameters at a time. Few positions
// have several entries: the last of those has their moments.
template <typename P>
GX_AVX512 void move_block_wide(const Leaf& leaf, int64_t block, bool last, WideScratch& s) {
  const int64_t n = leaf.block_size, k = leaf.k, column = block * k;
  const int64_t rows = leaf.powers->rows();
  const MicroAdamRates& rates = leaf.powers->rates;
  P* param = static_cast<P*>(leaf.param) + block * n;
  expect_next(leaf, column, param, last, s);
  s.reserve(rows, k);
  for (int64_t start = 0; start < n; start += kStretch) {
    const int64_t length = std::min(kStretch, n - start);
    int64_t entries = 0;
    for (int64_t row = 0; row < rows; ++row) {
      int64_t& taken = s.taken[static_cast<size_t>(row)];
      entries = take_below(leaf, row, column, k, start + length, taken, entries, s);
    }
    s.make_room(entries);
    tag_entries(entries, start, s);
    join_entries(entries, s);
    s.base += static_cast<uint32_t>(entries);
    if constexpr (sizeof(P) == sizeof(float)) {
      if (others_stay(rates)) {
        move_entries(param, entries, rates, s);
        continue;
      }
    }
    move_stretch(param, start, length, entries, rates, s);
  }
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
