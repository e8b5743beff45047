// Adam's step of one block from a window of sparse rows, with AVX-512.
#pragma once

#include "avx512.h"
#include "microadam_block.h"
#include "microadam_scratch.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace gx {

// Whether all positions of a window are in a block of n elements.
GX_WIDE bool points_inside(const Leaf& leaf, int64_t column, int64_t k, int64_t n) {
  __m512i most = _mm512_setzero_si512();
  for (size_t row = 0; row < leaf.weights1.size(); ++row) {
    const int16_t* at = leaf.indices + static_cast<int64_t>(row) * leaf.columns + column;
    for (int64_t c = 0; c < k; c += 32) {
      const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 32 - k);
      most = _mm512_max_epu16(most, _mm512_maskz_loadu_epi16(some, at + c));
    }
  }
  return _mm512_cmpge_epu16_mask(most, _mm512_set1_epi16(static_cast<int16_t>(n))) == 0;
}

// What a row of the window adds to first and second moments.
GX_WIDE void weigh(const uint16_t* values, int64_t k, float weight1, float weight2, float* first,
                   float* second) {
  const __m512 w1 = _mm512_set1_ps(weight1), w2 = _mm512_set1_ps(weight2);
  for (int64_t c = 0; c < k; c += kLanes) {
    const auto some = static_cast<__mmask16>(0xFFFFu >> std::max<int64_t>(0, c + kLanes - k));
    const __m512 v = widen(_mm256_maskz_loadu_epi16(some, values + c));
    _mm512_storeu_ps(first + c, _mm512_add_ps(_mm512_setzero_ps(), _mm512_mul_ps(w1, v)));
    _mm512_storeu_ps(second + c, _mm512_mul_ps(w2, _mm512_mul_ps(v, v)));
  }
}

// Number the entries of a row of the window from `entry` and gather their parameters. `tags` keeps
// the first entry of every position; entries that have one before them are added to `repeated`.
template <typename P>
GX_WIDE int64_t tag_row(const uint16_t* at, int64_t k, int64_t entry, const P* param, P* moved,
                        int64_t count, Soon& soon, WideScratch& s) {
  uint16_t* repeated = s.repeated.data();
  const uint32_t base = s.base;
  uint32_t tag = base + 1 + static_cast<uint32_t>(entry);
  for (int64_t first = 0; first < k; first += kLanes) {
    soon.fetch(kRowCalls);
    const int64_t last = std::min(k, first + kLanes);
#pragma GCC unroll 4
    for (int64_t c = first; c < last; ++c, ++tag) {
      const size_t i = at[c];
      const uint32_t old = s.tags[i];
      repeated[count] = static_cast<uint16_t>(tag);
      count += old > base ? 1 : 0;
      s.tags[i] = static_cast<uint16_t>(old > base ? old : tag);
      moved[entry + c] = param[i];
    }
  }
  return count;
}

// microadam_moved
GX_WIDE __m512 move(__m512 p, __m512 update, const MicroAdamRates& rates) {
  const auto decays = static_cast<__mmask16>(rates.weight_decay != 0.0f ? 0xFFFFu : 0u);
  const __m512 decay = _mm512_mul_ps(_mm512_set1_ps(rates.weight_decay), p);
  const __m512 change = _mm512_mask_add_ps(update, decays, update, decay);
  return _mm512_add_ps(p, _mm512_mul_ps(change, _mm512_set1_ps(-rates.lr)));
}

// The parameters after the step, of all entries.
template <typename P>
GX_WIDE void move_entries(const float* firsts, const float* seconds, int64_t count,
                          const MicroAdamRates& rates, P* moved) {
  for (int64_t c = 0; c < count; c += kLanes) {
    const __m512 first = _mm512_loadu_ps(firsts + c), second = _mm512_loadu_ps(seconds + c);
    const __m512 v = _mm512_mul_ps(_mm512_set1_ps(rates.gain2), second);
    const __mmask16 some = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 scale =
        _mm512_add_ps(_mm512_maskz_sqrt_ps(some, v), _mm512_set1_ps(rates.eps));
    const __m512 m = _mm512_mul_ps(_mm512_set1_ps(rates.gain1), first);
    write(moved + c, move(read(moved + c), _mm512_div_ps(m, scale), rates));
  }
}

// The step of parameters that have no entry. Nothing changes without decay.
template <typename P>
GX_WIDE void move_others(P* param, int64_t n, const MicroAdamRates& rates) {
  if (rates.weight_decay == 0.0f && rates.lr > 0.0f && rates.lr < INFINITY) return;
  for (int64_t i = 0; i < n; i += kLanes) {
    write(param + i, move(read(param + i), _mm512_setzero_ps(), rates));
  }
}

// Adam's step of a block from the window. Few positions have several entries: the first of those
// gets the moments, further ones none.
template <typename P>
GX_WIDE void move_block(const Leaf& leaf, int64_t column, int64_t k, int64_t n, P* param,
                        Soon& soon, WideScratch& s) {
  const auto rows = static_cast<int64_t>(leaf.weights1.size()), entries = rows * k;
  s.reserve(entries);
  float *first = s.first.data(), *second = s.second.data();
  P* moved = reinterpret_cast<P*>(s.moved.data());
  int64_t repeated = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = row * leaf.columns + column, entry = row * k;
    const auto* at = reinterpret_cast<const uint16_t*>(leaf.indices) + start;
    weigh(leaf.values + start, k, leaf.weights1[static_cast<size_t>(row)],
          leaf.weights2[static_cast<size_t>(row)], first + entry, second + entry);
    repeated = tag_row(at, k, entry, param, moved, repeated, soon, s);
  }
  for (int64_t r = 0; r < repeated; ++r) {
    const int64_t entry = s.repeated[static_cast<size_t>(r)] - s.base - 1;
    const int16_t i = leaf.indices[entry / k * leaf.columns + column + entry % k];
    const int64_t earlier = s.tags[i] - s.base - 1;
    first[earlier] = add(first[earlier], first[entry]);
    second[earlier] = add(second[earlier], second[entry]);
  }
  s.base += static_cast<uint32_t>(entries);
  move_entries(first, second, entries, leaf.rates, moved);
  move_others(param, n, leaf.rates);
  for (int64_t row = rows; row-- > 0;) {
    const auto* at =
        reinterpret_cast<const uint16_t*>(leaf.indices) + row * leaf.columns + column;
    for (int64_t c = k; c-- > 0;) param[at[c]] = moved[row * k + c];  // first entries come last
  }
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
