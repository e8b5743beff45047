// One block of a MicroAdam step by one CTA; gradtx.ops.microadam defines it.
#pragma once

#include "../common/microadam.h"
#include "../common/quantize_affine.h"
#include "select.h"

namespace gx {

constexpr int kErrorBits = 4, kErrorLevels = 15;

// A leaf at one step. What depends on the number of steps done is computed on the device.
struct MicroAdamLeaf {
  void* param;
  const void* grad;
  uint8_t* codes;
  uint16_t* lo;
  uint16_t* hi;
  int32_t* step;
  int16_t* indices;
  uint16_t* values;
  uint8_t* finite;
  int64_t numel, columns, first_block;
  double b1, b2;
  float eps, weight_decay, lr, sign;
  int32_t block_size, k, window;
  bool bf16_param, bf16_grad;
};

struct MicroAdamOptions {
  int32_t quant;
  bool include_zero, window_correction;
};

// Static shared memory of a CTA.
struct MicroAdamMemory {
  SelectMemory<uint32_t> select;
  MicroAdamRates rates;
  int32_t row, rows;  // of the window: to be written; written so far, this one included
};

struct TotalMagnitude {
  const float* total;
  __device__ uint32_t operator()(int64_t i) const { return to_bits(total[i]) & 0x7FFFFFFFu; }
};

// Moves an entry to the window.
struct KeepEntry {
  float* total;
  int16_t* indices;
  uint16_t* values;
  __device__ void operator()(int64_t rank, int64_t i) const {
    indices[rank] = static_cast<int16_t>(i);
    values[rank] = to_bf16(total[i]);
    total[i] = 0.0f;
  }
};

__device__ inline float load_number(const void* x, int64_t i, bool bf16) {
  return bf16 ? from_bf16(static_cast<const uint16_t*>(x)[i]) : static_cast<const float*>(x)[i];
}

__device__ inline void store_number(void* x, int64_t i, float value, bool bf16) {
  if (bf16) {
    static_cast<uint16_t*>(x)[i] = to_bf16(value);
  } else {
    static_cast<float*>(x)[i] = value;
  }
}

// total = sign * gradient + error; a byte of codes, two elements, at a time.
__device__ inline void add_errors(const MicroAdamLeaf& leaf, int64_t start, int n, int quant,
                                  float* total) {
  const uint8_t* codes = leaf.codes + start / 2;
  const int64_t first_range = start / quant;
  for (int i = 2 * static_cast<int>(threadIdx.x); i < n; i += 2 * static_cast<int>(blockDim.x)) {
    const int64_t range = first_range + i / quant;
    const Range bounds{from_bf16(leaf.lo[range]), from_bf16(leaf.hi[range])};
    const float step = grid_step(bounds, kErrorLevels);
    const int byte = codes[i / 2];
    for (int j = 0; j < 2 && i + j < n; ++j) {
      const float g = load_number(leaf.grad, start + i + j, leaf.bf16_grad);
      const float error = decode(j == 0 ? byte >> 4 : byte & 15, bounds.lo, step);
      total[i + j] = add(mul(leaf.sign, g), error);
    }
  }
}

// Quantise what is left, one warp a range.
__device__ inline void encode_ranges(const MicroAdamLeaf& leaf, int64_t start, int n, int quant,
                                     bool include_zero, const float* total) {
  const int lane = threadIdx.x % kWarpLanes, warps = static_cast<int>(blockDim.x) / kWarpLanes;
  const RangeRule rule{kErrorBits, false, include_zero, true};
  for (int range = threadIdx.x / kWarpLanes; range * quant < n; range += warps) {
    const float* x = total + range * quant;
    const int count = min(quant, n - range * quant);
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int i = lane; i < count; i += kWarpLanes) {
      low = min(low, order(x[i]));
      high = max(high, order(x[i]));
    }
    for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) {
      low = min(low, __shfl_xor_sync(0xFFFFFFFFu, low, offset));
      high = max(high, __shfl_xor_sync(0xFFFFFFFFu, high, offset));
    }
    const Range bounds = finish_range(range_of_order(low, high), rule);
    const int64_t at = start + range * quant;
    if (lane == 0) {
      leaf.lo[at / quant] = static_cast<uint16_t>(to_bits(bounds.lo) >> 16);
      leaf.hi[at / quant] = static_cast<uint16_t>(to_bits(bounds.hi) >> 16);
    }
    const float step = grid_step(bounds, kErrorLevels);
    for (int i = 2 * lane; i < count; i += 2 * kWarpLanes) {
      int byte = 0;
      for (int j = 0; j < 2; ++j) {
        const bool coded = i + j < count && step != 0.0f;
        const float p = coded ? grid_position(x[i + j], bounds.lo, step, kErrorLevels) : 0.0f;
        byte = byte << 4 | round_nearest(p);
      }
      leaf.codes[(at + i) / 2] = static_cast<uint8_t>(byte);
    }
  }
}

// Add up the window over elements [begin, end) of the block and move their parameters; `first` has
// room for twice as many floats. The indices of a row differ: no atomics.
__device__ inline void move_tile(const MicroAdamLeaf& leaf, int64_t start, int begin, int end,
                                 int64_t column, int k, const float* weights, float* first,
                                 const MicroAdamMemory& memory) {
  const int size = end - begin, threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  float* second = first + size;
  for (int i = thread; i < 2 * size; i += threads) first[i] = 0.0f;
  for (int row = 0; row < memory.rows; ++row) {
    __syncthreads();
    const int age = (memory.row - row + leaf.window) % leaf.window;
    const float w1 = weights[2 * age], w2 = weights[2 * age + 1];
    for (int c = thread; c < k; c += threads) {
      const int64_t entry = row * leaf.columns + column + c;
      const int i = leaf.indices[entry];
      if (i < begin || i >= end) continue;
      const float v = from_bf16(leaf.values[entry]);
      first[i - begin] = add(first[i - begin], mul(w1, v));
      second[i - begin] = add(second[i - begin], mul(w2, mul(v, v)));
    }
  }
  __syncthreads();
  for (int i = thread; i < size; i += threads) {
    const bool entry = first[i] != 0.0f || second[i] != 0.0f;
    const float update = entry ? microadam_update(first[i], second[i], memory.rates) : 0.0f;
    const int64_t at = start + begin + i;
    const float p = load_number(leaf.param, at, leaf.bf16_param);
    store_number(leaf.param, at, microadam_moved(p, update, memory.rates), leaf.bf16_param);
  }
  __syncthreads();
}

// `buffer` holds a float more than the longest block has elements, `weights` two for every row of
// the window.
__device__ inline void step_block(const MicroAdamLeaf& leaf, int64_t block,
                                  const MicroAdamOptions& options, float* buffer, float* weights,
                                  MicroAdamMemory& memory) {
  const int64_t start = block * leaf.block_size, rest = leaf.numel - start;
  const int n = static_cast<int>(rest < leaf.block_size ? rest : leaf.block_size);
  const int64_t column = block * leaf.k;
  const int k = static_cast<int>(min(static_cast<int64_t>(leaf.k), leaf.columns - column));
  const int32_t done = *leaf.step;
  for (int age = threadIdx.x; age < leaf.window; age += blockDim.x) {
    weights[2 * age] = microadam_weight(leaf.b1, age);
    weights[2 * age + 1] = microadam_weight(leaf.b2, age);
  }
  if (threadIdx.x == 0) {
    memory.row = done % leaf.window;
    memory.rows = done < leaf.window ? done + 1 : leaf.window;
    const int64_t count = options.window_correction ? memory.rows : int64_t{done} + 1;
    memory.rates = {microadam_gain(leaf.b1, count), microadam_gain(leaf.b2, count), leaf.eps,
                    leaf.weight_decay, leaf.lr};
  }
  add_errors(leaf, start, n, options.quant, buffer);
  __syncthreads();

  const TotalMagnitude key{buffer};
  const Selected<uint32_t> selected =
      select_largest(key, n, static_cast<uint32_t>(k), memory.select);
  const int64_t row = memory.row * leaf.columns + column;
  for_selected(key, n, selected, memory.select,
               KeepEntry{buffer, leaf.indices + row, leaf.values + row});
  encode_ranges(leaf, start, n, options.quant, options.include_zero, buffer);
  __syncthreads();

  const int tile = (n + 1) / 2;
  for (int begin = 0; begin < n; begin += tile) {
    move_tile(leaf, start, begin, min(begin + tile, n), column, k, weights, buffer, memory);
  }
}

// Whether all that this thread sees of a block of the gradient is finite.
__device__ inline bool is_finite(const MicroAdamLeaf& leaf, int64_t block) {
  const int64_t start = block * leaf.block_size, rest = leaf.numel - start;
  const int64_t n = rest < leaf.block_size ? rest : leaf.block_size;
  bool bad = false;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const uint32_t bits = to_bits(load_number(leaf.grad, start + i, leaf.bf16_grad));
    bad = bad || (bits & 0x7F800000u) == 0x7F800000u;
  }
  return !bad;
}

}  // namespace gx
