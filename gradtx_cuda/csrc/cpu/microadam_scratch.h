// Memory of one thread that computes MicroAdam steps with wide registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "soon.h"
#include "top_k_scratch.h"

namespace gx {

constexpr int64_t kBatch = 16;   // ranges whose bounds are computed together
constexpr int64_t kFew = 8;      // entries between which memory is asked for
constexpr int64_t kStretch = 1 << 12;  // parameters that stay in the first cache with their tags

// Buffers of one thread.
struct alignas(64) WideScratch : WideTopK {
  float total[kLongest];
  uint16_t tags[kStretch] = {};  // those above `base` are of entries
  uint32_t base = 0;
  std::vector<float> first, second, moved;  // of the entries of a window
  std::vector<uint16_t> places, previous;
  std::vector<int64_t> taken;               // entries of every row
  Soon soon;
  uint32_t drift = 0;  // of the bits of the least magnitude kept, since the last step
  uint32_t margin = 1 << 19;  // below the expected bound

  // For a window of which nothing is taken.
  void reserve(int64_t rows, int64_t k) {
    const auto size = static_cast<size_t>(rows * k + 2 * kLanes);
    for (std::vector<float>* x : {&first, &second, &moved}) x->resize(std::max(x->size(), size));
    for (std::vector<uint16_t>* x : {&places, &previous}) x->resize(first.size());
    taken.assign(static_cast<size_t>(rows), 0);
  }

  // For the tags of so many entries.
  void make_room(int64_t entries) {
    if (base + entries <= UINT16_MAX) return;
    std::fill_n(tags, kStretch, uint16_t{0});
    base = 0;
  }
};

}  // namespace gx
