// Exact selection of the largest magnitudes of a block, ties to the lower index, on the host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "vectorize.h"

namespace gx {

// Magnitudes of floating numbers are in the order of their bits without the sign.
template <typename Bits>
constexpr Bits kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);

// The magnitude of a floating number of as many bits, x[i].
template <typename Bits>
GX_INLINE Bits magnitude(const void* x, int64_t i) {
  Bits bits;
  std::memcpy(&bits, static_cast<const char*>(x) + i * static_cast<int64_t>(sizeof bits),
              sizeof bits);
  return static_cast<Bits>(bits & kMagnitude<Bits>);
}

// Buffers of one thread; `chosen` is the result.
template <typename Bits>
struct TopK {
  std::vector<Bits> groups;      // largest magnitude of every group
  std::vector<Bits> magnitudes;  // of the candidates
  std::vector<int64_t> candidates;
  std::vector<int64_t> chosen;
};

template <typename Bits>
GX_INLINE int64_t count_from(const Bits* x, int64_t n, Bits bound) {
  // Counters as wide as the elements, emptied before they overflow.
  constexpr int64_t kRun = 1 << 14;
  int64_t total = 0;
  for (int64_t start = 0; start < n; start += kRun) {
    const int64_t stop = std::min(n, start + kRun);
    Bits count = 0;
    for (int64_t i = start; i < stop; ++i) count += x[i] >= bound ? 1 : 0;
    total += static_cast<int64_t>(count);
  }
  return total;
}

// A bound that k to k + slack elements reach, or the k-th largest element where equal ones are in
// the way; found by bisection, which vectorises. `low` is reached by k elements or more, what is
// above `high` is not. Sets `reached` to how many reach the bound.
template <typename Bits>
GX_INLINE Bits bound_of(const Bits* x, int64_t n, int64_t k, int64_t slack, Bits low, Bits high,
                        int64_t& reached) {
  reached = count_from(x, n, low);
  while (low < high && reached > k + slack) {
    const Bits middle = static_cast<Bits>(low + (high - low + 1) / 2);
    const int64_t count = count_from(x, n, middle);
    if (count >= k) {
      low = middle;
      reached = count;
    } else {
      high = static_cast<Bits>(middle - 1);
    }
  }
  return low;
}

// A magnitude that at least k elements reach: k groups have an element as large as the k-th
// largest maximum of a group. With many more groups than k hardly more than k elements reach it.
template <typename Bits>
GX_INLINE Bits reached_by_k(const void* x, int64_t n, int64_t k, std::vector<Bits>& groups) {
  const int64_t count = (4 * k + 63) / 64 * 64;
  if (2 * count > n) return 0;
  groups.resize(static_cast<size_t>(count));
  Bits* top = groups.data();
  for (int64_t g = 0; g < count; ++g) top[g] = magnitude<Bits>(x, g);
  int64_t start = count;
  for (; start + count <= n; start += count) {
    for (int64_t g = 0; g < count; ++g) top[g] = std::max(top[g], magnitude<Bits>(x, start + g));
  }
  for (int64_t g = 0; start + g < n; ++g) top[g] = std::max(top[g], magnitude<Bits>(x, start + g));
  int64_t reached;
  return bound_of(top, count, k, k / 16, Bits{0}, kMagnitude<Bits>, reached);
}

// Positions, ascending, and magnitudes of all elements that reach a bound; prepare(begin, end) comes
// before elements are looked at.
template <typename Bits, typename Prepare>
GX_INLINE void collect(const void* x, int64_t n, Bits bound, TopK<Bits>& buffers,
                       const Prepare& prepare) {
  constexpr int64_t kRun = 512;
  uint8_t flags[kRun] = {};
  size_t count = 0;
  for (int64_t start = 0; start < n; start += kRun) {
    const int64_t run = std::min(kRun, n - start);
    prepare(start, start + run);
    if (run < kRun) std::fill_n(flags, kRun, uint8_t{0});
    for (int64_t i = 0; i < run; ++i) flags[i] = magnitude<Bits>(x, start + i) >= bound ? 1 : 0;
    if (count + kRun > buffers.candidates.size()) {
      buffers.candidates.resize(2 * (count + kRun));
      buffers.magnitudes.resize(2 * (count + kRun));
    }
    for (int64_t word = 0; word < run; word += 8) {
      uint64_t eight;
      std::memcpy(&eight, flags + word, sizeof eight);
      if (eight == 0) continue;
      for (int64_t i = word; i < word + 8; ++i) {
        if (flags[i] == 0) continue;
        buffers.candidates[count] = start + i;
        buffers.magnitudes[count++] = magnitude<Bits>(x, start + i);
      }
    }
  }
  buffers.candidates.resize(count);
  buffers.magnitudes.resize(count);
}

template <typename Bits>
GX_INLINE void collect(const void* x, int64_t n, Bits bound, TopK<Bits>& buffers) {
  collect(x, n, bound, buffers, [](int64_t, int64_t) {});
}

// Fill `chosen` with the k largest of the candidates, at least k, in their order.
template <typename Bits>
GX_INLINE void take_largest(int64_t k, TopK<Bits>& buffers) {
  buffers.chosen.resize(static_cast<size_t>(k));
  const Bits* found = buffers.magnitudes.data();
  const auto count = static_cast<int64_t>(buffers.magnitudes.size());
  int64_t reached;
  const Bits bound = bound_of(found, count, k, 0, Bits{0}, kMagnitude<Bits>, reached);
  // If more than k reach the bound, it is the k-th largest magnitude and some equal it.
  const auto above = static_cast<Bits>(bound + 1);
  int64_t ties = reached == k ? k : k - count_from(found, count, above);
  size_t done = 0;
  for (size_t c = 0; c < buffers.candidates.size(); ++c) {
    const Bits m = buffers.magnitudes[c];
    if (m < bound || (m == bound && ties-- <= 0)) continue;
    buffers.chosen[done++] = buffers.candidates[c];
  }
}

// Fill `chosen` with the positions of the k largest magnitudes of n floating numbers as wide as
// Bits, ascending; 1 <= k <= n.
template <typename Bits>
GX_INLINE void select_top_k(const void* x, int64_t n, int64_t k, TopK<Bits>& buffers) {
  if (k == n) {
    buffers.chosen.resize(static_cast<size_t>(k));
    std::iota(buffers.chosen.begin(), buffers.chosen.end(), int64_t{0});
    return;
  }
  collect(x, n, reached_by_k(x, n, k, buffers.groups), buffers);
  take_largest(k, buffers);
}

}  // namespace gx
