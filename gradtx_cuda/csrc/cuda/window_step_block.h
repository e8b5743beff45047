// One block of a sparse M-FAC step by one CTA; gradtx.ops.window_step defines it.
#pragma once

#include "../common/microadam.h"
#include "../common/window_entries.h"
#include "select.h"
#include "window_products_block.h"

namespace gx {

// A leaf whose gradient is pushed.
struct PushLeaf {
  const void* grad;
  float* error;
  int16_t* indices;
  void* values;
  int32_t* written;
  uint8_t* there;   // by row
  uint8_t* finite;
  double* table;    // dots by block and row
  double* dots;     // by row
  int64_t numel, columns, first_block;
  float sign;
  int32_t block_size, k;
  bool bf16_grad, bf16_values;
};

// A leaf that moves.
struct MoveLeaf {
  void* param;
  float* momentum;  // or null
  const int16_t* indices;
  const void* values;
  const double* weights;
  int64_t numel, columns, first_block;
  float lr, decay, mu;
  int32_t block_size, k;
  bool bf16_param, bf16_values;
};

__device__ inline float load_single(const void* x, int64_t i, bool bf16) {
  return bf16 ? from_bf16(static_cast<const uint16_t*>(x)[i]) : static_cast<const float*>(x)[i];
}

__device__ inline void store_single(void* x, int64_t i, float value, bool bf16) {
  if (bf16) {
    static_cast<uint16_t*>(x)[i] = to_bf16(value);
  } else {
    static_cast<float*>(x)[i] = value;
  }
}

__device__ inline int64_t size_of_block(int64_t numel, int32_t block_size, int64_t block) {
  const int64_t rest = numel - block * block_size;
  return rest < block_size ? rest : block_size;
}

// Whether the gradient of a block is finite; one thread that finds another number says so.
__device__ inline void check_block(const PushLeaf& leaf, int64_t block, int32_t* bad) {
  const int64_t start = block * leaf.block_size;
  const int64_t n = size_of_block(leaf.numel, leaf.block_size, block);
  bool finite = true;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float g = load_single(leaf.grad, start + i, leaf.bf16_grad);
    finite = finite && (to_bits(g) & 0x7F800000u) != 0x7F800000u;
  }
  if (!finite) {
    *leaf.finite = 0;
    *bad = 1;
  }
}

// Which rows of a leaf count once `done` pushes have become one more.
__device__ inline void find_rows(const PushLeaf& leaf, int32_t done, int64_t window) {
  const int64_t last = int64_t{microadam_advanced(done, window)} - 1;
  for (int64_t r = threadIdx.x; r < window; r += blockDim.x) {
    const int64_t oldest = last - ((last - r) % window + window) % window;
    leaf.there[r] = r == done % window || leaf.written[r] >= oldest;
  }
}

struct SumMagnitude {
  const float* total;
  __device__ uint32_t operator()(int64_t i) const { return to_bits(total[i]) & 0x7FFFFFFFu; }
};

// Moves an entry to the window, and to a dense block as it is kept there.
struct PushEntry {
  float* total;
  float* fresh;
  int16_t* indices;
  void* values;
  int64_t at;
  bool bf16;
  __device__ void operator()(int64_t rank, int64_t i) const {
    indices[at + rank] = static_cast<int16_t>(i);
    store_single(values, at + rank, total[i], bf16);
    fresh[i] = load_single(values, at + rank, bf16);
    total[i] = 0.0f;
  }
};

// Push one block; `fresh` has room for its elements.
__device__ inline void push_block(const PushLeaf& leaf, int32_t done, int64_t window, int64_t block,
                                  float* fresh, SelectMemory<uint32_t>& memory) {
  const int64_t start = block * leaf.block_size;
  const int64_t n = size_of_block(leaf.numel, leaf.block_size, block);
  const Entries some = entries_of(block, leaf.k, leaf.columns);
  const int64_t count = some.end - some.begin, row = done % window;
  float* total = leaf.error + start;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const float g = load_single(leaf.grad, start + i, leaf.bf16_grad);
    total[i] = add(mul(leaf.sign, g), total[i]);
    fresh[i] = 0.0f;
  }
  __syncthreads();
  const SumMagnitude key{total};
  const Selected<uint32_t> selected =
      select_largest(key, n, static_cast<uint32_t>(count), memory);
  const PushEntry push{total,       fresh,     leaf.indices, leaf.values,
                       row * leaf.columns + some.begin, leaf.bf16_values};
  for_selected(key, n, selected, memory, push);  // ends with a barrier
  const int lane = threadIdx.x % kWarpLanes, warps = static_cast<int>(blockDim.x) / kWarpLanes;
  for (int64_t r = threadIdx.x / kWarpLanes; r < window; r += warps) {
    double sum = 0;
    const int64_t base = r * leaf.columns;
    for (int64_t c = some.begin + lane; c < some.end && leaf.there[r]; c += kWarpLanes) {
      const int64_t i = leaf.indices[base + c];
      if (i < 0 || i >= n) continue;
      sum += static_cast<double>(load_single(leaf.values, base + c, leaf.bf16_values)) *
             static_cast<double>(fresh[i]);
    }
    sum = warp_sum(sum);
    if (lane == 0) leaf.table[block * window + r] = sum;
  }
  __syncthreads();
}

// The dots of a leaf from those of its blocks, a warp a row; then its newest row has been written.
__device__ inline void finish_push(const PushLeaf& leaf, int32_t done, int64_t window,
                                   int64_t blocks) {
  for (int64_t r = threadIdx.x / kWarpLanes; r < window; r += blockDim.x / kWarpLanes) {
    sum_column(leaf.table, leaf.dots, blocks, window, r);
  }
  if (threadIdx.x == 0) leaf.written[done % window] = done;
}

// Add up the window over one block and move its parameters; `sums` has room for its elements. The
// indices of a row differ: no atomics.
__device__ inline void move_block(const MoveLeaf& leaf, int64_t window, int64_t block,
                                  float* sums) {
  const int64_t start = block * leaf.block_size;
  const int64_t n = size_of_block(leaf.numel, leaf.block_size, block);
  const Entries some = entries_of(block, leaf.k, leaf.columns);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sums[i] = 0.0f;
  for (int64_t r = 0; r < window; ++r) {
    const auto weight = static_cast<float>(leaf.weights[r]);
    if (weight == 0.0f) continue;
    __syncthreads();
    const int64_t base = r * leaf.columns;
    for (int64_t c = some.begin + threadIdx.x; c < some.end; c += blockDim.x) {
      const int64_t i = leaf.indices[base + c];
      if (i < 0 || i >= n) continue;
      sums[i] = add(sums[i], mul(weight, load_single(leaf.values, base + c, leaf.bf16_values)));
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    float u = sums[i];
    if (leaf.momentum != nullptr) {
      u = add(u, mul(leaf.mu, leaf.momentum[start + i]));
      leaf.momentum[start + i] = u;
    }
    const float p = load_single(leaf.param, start + i, leaf.bf16_param);
    const float change = leaf.decay != 0.0f ? add(u, mul(leaf.decay, p)) : u;
    store_single(leaf.param, start + i, add(p, mul(change, -leaf.lr)), leaf.bf16_param);
  }
  __syncthreads();
}

}  // namespace gx
