// One block of affine quantisation on the host, vectorised by the compiler where it is inlined.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/quantize_affine.h"
#include "vectorize.h"

namespace gx {

constexpr int64_t kChunk = 1024;  // elements held in local buffers

GX_INLINE void store_stat(void* stats, int64_t block, float value, bool bf16) {
  if (bf16) {
    static_cast<uint16_t*>(stats)[block] = static_cast<uint16_t>(to_bits(value) >> 16);
  } else {
    static_cast<float*>(stats)[block] = value;
  }
}

GX_INLINE float load_stat(const void* stats, int64_t block, bool bf16) {
  if (bf16) return from_bits(uint32_t{static_cast<const uint16_t*>(stats)[block]} << 16);
  return static_cast<const float*>(stats)[block];
}

GX_INLINE const float* as_floats(const float* x, int64_t, float*) { return x; }

template <typename T>
GX_INLINE const float* as_floats(const T* x, int64_t n, float* buffer) {
  for (int64_t i = 0; i < n; ++i) buffer[i] = static_cast<float>(x[i]);
  return buffer;
}

// The smallest and largest value of a block, NaN if there is one.
template <typename T>
GX_INLINE Range extremes(const T* x, int64_t n) {
  float buffer[kChunk];
  int32_t low = INT32_MAX, high = INT32_MIN;
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t count = std::min(kChunk, n - start);
    const float* v = as_floats(x + start, count, buffer);
    for (int64_t i = 0; i < count; ++i) {
      low = std::min(low, order(v[i]));
      high = std::max(high, order(v[i]));
    }
  }
  return range_of_order(low, high);
}

GX_INLINE void encode_nearest(const float* v, int64_t n, Range range, int levels, uint8_t* codes) {
  const float step = grid_step(range, levels), top = static_cast<float>(levels);
  if (step == 0.0f) {
    std::fill_n(codes, n, uint8_t{0});
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(round_nearest(grid_position(v[i], range.lo, step, top)));
  }
}

template <int kBits>
GX_INLINE void pack(const uint8_t* codes, int64_t bytes, uint8_t* out) {
  constexpr int kPer = 8 / kBits;
  for (int64_t b = 0; b < bytes; ++b) {
    unsigned byte = 0;
    for (int j = 0; j < kPer; ++j) byte = (byte << kBits) | codes[b * kPer + j];
    out[b] = static_cast<uint8_t>(byte);
  }
}

template <int kBits>
GX_INLINE void unpack(const uint8_t* in, int64_t bytes, uint8_t* codes) {
  constexpr int kPer = 8 / kBits;
  for (int64_t b = 0; b < bytes; ++b) {
    for (int j = 0; j < kPer; ++j) {
      codes[b * kPer + j] =
          static_cast<uint8_t>((in[b] >> (8 - kBits * (j + 1))) & ((1 << kBits) - 1));
    }
  }
}

}  // namespace gx
