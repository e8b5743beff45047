// Memory that a thread wants soon.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "vectorize.h"

namespace gx {

// It travels while other things are computed, a few lines at a time, because a core waits when too
// many are under way.
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

}  // namespace gx
