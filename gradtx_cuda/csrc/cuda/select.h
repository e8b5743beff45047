// Exact selection of the largest magnitudes of a block by one CTA, ties to the lower index.
#pragma once

#include <cstdint>

#include "../common/arith.h"

namespace gx {

constexpr int kWarpLanes = 32;
constexpr int kMaxWarps = 32;
constexpr int kDigitBits = 11;

// The k largest of a block: all keys above `least`, and the first `ties` that equal it.
template <typename Bits>
struct Selected {
  Bits least;
  uint32_t ties;
};

// Shared memory of a selection.
template <typename Bits>
struct SelectMemory {
  uint32_t counts[1 << kDigitBits];
  uint32_t above[kMaxWarps], equal[kMaxWarps];  // of what every warp looks through
  Selected<Bits> found;
};

// Find the digit of the k-th largest key, counted from above, and how many of that digit are to be
// taken; by the first warp.
__device__ inline uint32_t find_digit(const uint32_t* counts, int digits, uint32_t& k) {
  const int lane = threadIdx.x % kWarpLanes;
  for (int top = digits - kWarpLanes;; top -= kWarpLanes) {
    const int digit = top + kWarpLanes - 1 - lane;  // lane 0 has the largest
    const uint32_t count = digit >= 0 ? counts[digit] : 0;
    uint32_t reached = count;  // by this lane's digit and larger ones
    for (int offset = 1; offset < kWarpLanes; offset *= 2) {
      const int from = lane >= offset ? lane - offset : lane;
      const uint32_t other = __shfl_sync(0xFFFFFFFFu, reached, from);
      if (lane >= offset) reached += other;
    }
    const uint32_t enough = __ballot_sync(0xFFFFFFFFu, reached >= k);
    if (enough == 0 && top > 0) {
      k -= __shfl_sync(0xFFFFFFFFu, reached, kWarpLanes - 1);
      continue;
    }
    const int first = __ffs(static_cast<int>(enough)) - 1;
    k -= __shfl_sync(0xFFFFFFFFu, reached - count, first);
    return static_cast<uint32_t>(top + kWarpLanes - 1 - first);
  }
}

// Radix selection from the most significant digit on; all threads of the CTA take part.
template <typename Bits, typename Key>
__device__ Selected<Bits> select_largest(const Key& key, int64_t n, uint32_t k,
                                         SelectMemory<Bits>& memory) {
  Bits prefix = 0, mask = 0;
  int top = 8 * static_cast<int>(sizeof(Bits)) - 1;
  while (top > 0) {
    const int width = top < kDigitBits ? top : kDigitBits;
    const int digits = 1 << width, shift = top - width;
    for (int i = threadIdx.x; i < digits; i += blockDim.x) memory.counts[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const Bits x = key(i);
      if (static_cast<Bits>(x & mask) != prefix) continue;
      atomicAdd(&memory.counts[static_cast<int>(x >> shift) & (digits - 1)], 1u);
    }
    __syncthreads();
    if (threadIdx.x < kWarpLanes) {
      const uint32_t digit = find_digit(memory.counts, digits, k);
      if (threadIdx.x == 0) {
        memory.found = {static_cast<Bits>(prefix | static_cast<Bits>(digit) << shift), k};
      }
    }
    __syncthreads();
    prefix = memory.found.least;
    k = memory.found.ties;
    mask = static_cast<Bits>(mask | static_cast<Bits>(digits - 1) << shift);
    top = shift;
  }
  return {prefix, k};
}

// Call take(rank, i) for every selected index i, rank in ascending order of the indices.
template <typename Bits, typename Key, typename Take>
__device__ void for_selected(const Key& key, int64_t n, const Selected<Bits>& selected,
                             SelectMemory<Bits>& memory, const Take& take) {
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  const int warps = static_cast<int>(blockDim.x) / kWarpLanes;
  const int64_t run = ((n - 1) / (warps * kWarpLanes) + 1) * kWarpLanes;
  const int64_t begin = warp * run, end = begin + run < n ? begin + run : n;
  const uint32_t below = (1u << lane) - 1u;
  uint32_t above = 0, equal = 0;
  for (int64_t start = begin; start < end; start += kWarpLanes) {
    const bool valid = start + lane < end;
    const Bits x = valid ? key(start + lane) : Bits{0};
    above += __popc(__ballot_sync(0xFFFFFFFFu, valid && x > selected.least));
    equal += __popc(__ballot_sync(0xFFFFFFFFu, valid && x == selected.least));
  }
  if (lane == 0) {
    memory.above[warp] = above;
    memory.equal[warp] = equal;
  }
  __syncthreads();
  above = equal = 0;  // of earlier warps
  for (int w = 0; w < warp; ++w) {
    above += memory.above[w];
    equal += memory.equal[w];
  }
  uint32_t rank = above + (equal < selected.ties ? equal : selected.ties);
  for (int64_t start = begin; start < end; start += kWarpLanes) {
    const int64_t i = start + lane;
    const bool valid = i < end;
    const Bits x = valid ? key(i) : Bits{0};
    const bool tie = valid && x == selected.least;
    const uint32_t ties = __ballot_sync(0xFFFFFFFFu, tie);
    const bool kept = (valid && x > selected.least) ||
                      (tie && equal + __popc(ties & below) < selected.ties);
    const uint32_t all = __ballot_sync(0xFFFFFFFFu, kept);
    if (kept) take(static_cast<int64_t>(rank + __popc(all & below)), i);
    rank += __popc(all);
    equal += __popc(ties);
  }
  __syncthreads();
}

// Magnitudes of floating numbers are in the order of their bits without the sign.
template <typename Bits>
struct Magnitude {
  const Bits* x;
  __device__ Bits operator()(int64_t i) const {
    return static_cast<Bits>(x[i] & static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1));
  }
};

template <typename Index>
struct Store {
  Index* out;
  __device__ void operator()(int64_t rank, int64_t i) const { out[rank] = static_cast<Index>(i); }
};

// Positions of the k largest magnitudes of a block, ascending.
template <typename Bits, typename Index>
__device__ void select_block(const Bits* x, int64_t n, int64_t k, Index* out,
                             SelectMemory<Bits>& memory) {
  const Magnitude<Bits> key{x};
  const Selected<Bits> selected = select_largest(key, n, static_cast<uint32_t>(k), memory);
  for_selected(key, n, selected, memory, Store<Index>{out});
}

}  // namespace gx
