// Products with a window of sparse rows, what one CTA does of them.
#pragma once

#include <cstdint>

#include "../common/window_entries.h"

namespace gx {

struct ProductShape {
  int64_t rows, columns, numel, block_size, k, pieces;
};

// The sum over the lanes of a warp in a fixed order; all lanes get it.
__device__ inline double warp_sum(double x) {
  for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// Every row times x over one piece of a block, a warp a row: table (parts, rows). Indices that point
// out of their block are left out: the host cannot see them without waiting.
template <typename Index, typename Value, typename X>
__device__ void dot_piece(const Index* indices, const Value* values, const X* x, double* table,
                          const ProductShape& shape, int64_t part) {
  const int64_t block = part / shape.pieces, start = block * shape.block_size;
  const int64_t rest = shape.numel - start;
  const int64_t n = rest < shape.block_size ? rest : shape.block_size;
  const Entries some = piece_of(block, part % shape.pieces, shape.k, shape.columns);
  const int lane = threadIdx.x % 32;
  for (int64_t row = threadIdx.x / 32; row < shape.rows; row += blockDim.x / 32) {
    const int64_t base = row * shape.columns;
    double sum = 0;
    for (int64_t c = some.begin + lane; c < some.end; c += 32) {
      const auto i = static_cast<int64_t>(indices[base + c]);
      if (i < 0 || i >= n) continue;
      sum += static_cast<double>(values[base + c]) * static_cast<double>(x[start + i]);
    }
    sum = warp_sum(sum);
    if (lane == 0) table[part * shape.rows + row] = sum;
  }
}

// One column of a table (parts, rows), summed by one warp.
__device__ inline void sum_column(const double* table, double* out, int64_t parts, int64_t rows,
                                  int64_t row) {
  double sum = 0;
  for (int64_t part = threadIdx.x % 32; part < parts; part += 32) sum += table[part * rows + row];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) out[row] = sum;
}

// The weighted sum of all rows over one block. The indices of a row differ, so rows are added
// without atomics, one after the other.
template <typename Index, typename Value, typename Sum>
__device__ void combine_block(const Index* indices, const Value* values, const double* weights,
                              Sum* out, const ProductShape& shape, int64_t block) {
  const int64_t start = block * shape.block_size, rest = shape.numel - start;
  const int64_t n = rest < shape.block_size ? rest : shape.block_size;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) out[start + i] = Sum{0};
  const Entries some = entries_of(block, shape.k, shape.columns);
  for (int64_t row = 0; row < shape.rows; ++row) {
    __syncthreads();
    const int64_t base = row * shape.columns;
    const auto weight = static_cast<Sum>(weights[row]);
    for (int64_t c = some.begin + threadIdx.x; c < some.end; c += blockDim.x) {
      const auto i = static_cast<int64_t>(indices[base + c]);
      if (i < 0 || i >= n) continue;
      const Sum term = weight * static_cast<Sum>(values[base + c]);
      out[start + i] += term;
    }
  }
}

}  // namespace gx
