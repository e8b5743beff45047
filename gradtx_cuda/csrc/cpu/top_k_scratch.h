// Memory of one thread that selects the largest magnitudes of blocks with wide registers.
#pragma once

#include <cstdint>

#include "top_k.h"

namespace gx {

constexpr int64_t kLanes = 16;
constexpr int64_t kRange = 64;         // elements that are listed together
constexpr int64_t kLongest = 1 << 15;  // elements of a block

// Buffers of one thread.
struct alignas(64) WideTopK {
  float groups[kLongest];  // largest magnitudes
  uint16_t candidates[kLongest + 64];
  uint32_t bits[kLongest + kLanes], magnitudes[kLongest + kLanes];  // of the candidates
};

// Magnitudes of what a block keeps.
struct Kept {
  uint32_t least, most;
};

}  // namespace gx
