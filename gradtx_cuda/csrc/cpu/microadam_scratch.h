// Memory of one thread that computes MicroAdam steps with AVX-512, and memory that it wants soon.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "vectorize.h"

namespace gx {

constexpr int64_t kLanes = 16;
constexpr int64_t kRange = 64;   // elements of a range
constexpr int64_t kBatch = 16;   // ranges whose bounds are computed together
constexpr int64_t kFew = 5;      // entries that take as long as a range
constexpr int64_t kLongest = 1 << 15;  // elements of a block
constexpr int64_t kStretch = 1 << 12;  // parameters that stay in the first cache with their tags

// Memory that will be wanted soon. It travels while other things are computed, a few lines at a
// time, because a core waits when too many are under way.
class Soon {
 public:
  // Room for so many runs, of which there are none yet.
  void clear(size_t most) {
    if (runs_.size() < most) runs_.resize(most);
    count_ = run_ = 0;
    lines_ = 0;
    line_ = end_ = nullptr;
  }
  GX_INLINE void add(const void* data, int64_t bytes) {
    const char* start = static_cast<const char*>(data);
    runs_[count_++] = {start, start + bytes};
    lines_ += (bytes + 63) / 64;
  }
  // Everything is to be under way after so many calls of `fetch`.
  void spread(int64_t calls) { pace_ = (lines_ + calls - 1) / calls; }

  GX_INLINE void fetch() {
    for (int64_t i = 0; i < pace_; ++i, line_ += 64) {
      if (__builtin_expect(line_ >= end_, 0)) {
        if (run_ == count_) return;
        line_ = runs_[run_].first;
        end_ = runs_[run_++].second;
      }
      __builtin_prefetch(line_, 0, 2);
    }
  }

 private:
  std::vector<std::pair<const char*, const char*>> runs_;
  size_t count_ = 0, run_ = 0;
  const char *line_ = nullptr, *end_ = nullptr;
  int64_t lines_ = 0, pace_ = 0;
};

// Buffers of one thread.
struct alignas(64) WideScratch {
  float total[kLongest];
  float groups[kLongest];  // largest magnitudes
  uint16_t candidates[kLongest + 64];
  uint32_t bits[kLongest + kLanes], magnitudes[kLongest + kLanes];  // of the candidates
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
