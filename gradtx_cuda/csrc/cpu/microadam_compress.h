// The compression of one full block of a MicroAdam step, for any kind of wide registers: the bits of
// microadam_block.h.
#pragma once

#include "microadam_block.h"
#include "microadam_scratch.h"

namespace gx {

// Whether these functions compute full blocks of n elements that keep k.
inline bool fits_wide(int64_t n, int64_t k, int64_t quant) {
  return quant == kRange && n % kRange == 0 && n <= kLongest && 8 * k <= n;
}

// Compress gradient and error to a row of the window and codes of what is left. Returns whether
// they are finite.
template <typename Simd, typename G>
bool compress_block_wide(const Leaf& leaf, int64_t block, const RangeRule& rule, bool last,
                         WideScratch& s) {
  const int64_t n = leaf.block_size, start = block * n, k = leaf.k, column = block * k;
  const int64_t newest = leaf.newest() * leaf.columns + column;
  uint8_t* codes = leaf.codes + start / 2;
  uint16_t *lo = leaf.lo + start / kRange, *hi = leaf.hi + start / kRange;
  s.soon.clear(5);
  if (!last) {
    s.soon.add(leaf.values + newest + k, 2 * k);
    s.soon.add(codes + n / 2, n / 2);
    s.soon.add(lo + n / kRange, 2 * n / kRange);
    s.soon.add(hi + n / kRange, 2 * n / kRange);
    s.soon.add(static_cast<const G*>(leaf.grad) + start + n, n * sizeof(G));
  }
  s.soon.spread(2 * n / kRange);

  // The block's bound of the last step, moved as far as that of the block before.
  uint32_t former = 0, bound = UINT32_MAX;
  if (leaf.powers->rows() > 1) {
    former = Simd::least_kept(leaf.values + newest, k);
    bound = former + s.drift - s.margin;
  }
  int64_t found = Simd::template add_errors<G>(leaf, start, n, bound, s);
  if (found < k + k / 2) s.margin = std::min(s.margin + s.margin / 2, 1u << 22);
  if (found > 2 * k) s.margin = std::max(s.margin - s.margin / 4, 1u << 12);
  if (found < k || found > std::max(n / 16, 2 * k)) {
    bound = Simd::reached_by_k(s.total, n, k, s);
    found = Simd::list_candidates(s.total, n, bound, s);
  }
  const int64_t row = leaf.row * leaf.columns + column;
  const Kept kept =
      Simd::keep_largest(s.total, found, k, bound, leaf.indices + row, leaf.values + row, s);
  s.drift = kept.least - former;

  if (kept.least < to_bits(INFINITY)) {
    Simd::encode_block(s.total, n / kRange, rule, codes, lo, hi, s.soon);
  } else {
    for (int64_t r = 0; r < n / kRange; ++r) {
      encode(s.total + r * kRange, kRange, rule, codes + r * kRange / 2, lo + r, hi + r);
    }
  }
  return kept.most < to_bits(INFINITY);
}

}  // namespace gx
