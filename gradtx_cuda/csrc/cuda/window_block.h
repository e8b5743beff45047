// The moments of one block of a window of sparse rows by one CTA.
#pragma once

#include <cstdint>

#include "../common/window_entries.h"

namespace gx {

struct WindowShape {
  int64_t rows, columns, numel, block_size, k;
};

// The indices of a row differ, so rows are added without atomics, one after the other. Indices that
// point out of their block are left out: the host cannot see them without waiting.
template <typename Index, typename Value, typename Weight>
__device__ void add_window(const Index* indices, const Value* values, const Weight* weights1,
                           const Weight* weights2, Weight* first, Weight* second,
                           const WindowShape& shape, int64_t block) {
  const int64_t start = block * shape.block_size, rest = shape.numel - start;
  const int64_t n = rest < shape.block_size ? rest : shape.block_size;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    first[start + i] = Weight{0};
    second[start + i] = Weight{0};
  }
  const Entries entries = entries_of(block, shape.k, shape.columns);
  for (int64_t row = 0; row < shape.rows; ++row) {
    __syncthreads();
    const int64_t entry = row * shape.columns, to = entry + entries.end;
    for (int64_t c = entry + entries.begin + threadIdx.x; c < to; c += blockDim.x) {
      const auto i = static_cast<int64_t>(indices[c]);
      if (i < 0 || i >= n) continue;
      const auto v = static_cast<Weight>(values[c]);
      first[start + i] += weights1[row] * v;
      second[start + i] += weights2[row] * (v * v);
    }
  }
}

}  // namespace gx
