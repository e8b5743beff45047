// Entries of a window's rows that have ascending positions, a stretch of parameters at a time, for
// any kind of wide registers.
#pragma once

#include "microadam_block.h"
#include "microadam_scratch.h"

namespace gx {

// Ask for what the step of the next block reads.
template <typename P>
GX_INLINE void expect_next(const Leaf& leaf, int64_t column, const P* param, bool last,
                           WideScratch& s) {
  const int64_t n = leaf.block_size, k = leaf.k, rows = leaf.powers->rows();
  s.soon.clear(static_cast<size_t>(2 * rows + 1));
  for (int64_t r = 0; r < rows && !last; ++r) {
    s.soon.add(leaf.indices + r * leaf.columns + column + k, 2 * k);
    s.soon.add(leaf.values + r * leaf.columns + column + k, 2 * k);
  }
  if (!last) s.soon.add(param + n, n * sizeof(P));
  s.soon.spread((rows * k + kFew - 1) / kFew);
}

// `tags` keeps the last entry of every position and `previous` what it kept before.
GX_INLINE void tag_entries(int64_t entries, int64_t start, WideScratch& s) {
  const uint16_t* places = s.places.data();
  uint16_t* previous = s.previous.data();
  uint32_t tag = s.base;
  for (int64_t first = 0; first < entries; first += kFew) {
    s.soon.fetch();
    const int64_t last = std::min(entries, first + kFew);
#pragma GCC unroll 8
    for (int64_t e = first; e < last; ++e) {
      const int64_t i = places[e];
      previous[e] = s.tags[i - start];
      s.tags[i - start] = static_cast<uint16_t>(++tag);
    }
  }
}

// Whether only parameters that have entries move.
GX_INLINE bool others_stay(const MicroAdamRates& rates) {
  return rates.weight_decay == 0.0f && rates.lr > 0.0f && rates.lr < INFINITY;
}

}  // namespace gx
