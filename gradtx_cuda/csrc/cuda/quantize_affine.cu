// CUDA kernels of affine block quantisation: a range pass and an encode pass on the current stream.
// Minimum and maximum do not depend on the order of the reduction, so results are deterministic.
#include "../common/quantize_affine.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/philox.h"
#include "../common/quantize_affine_op.h"
#include "../registration.h"
#include "launch.h"

namespace gx {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kWarp = 32;
constexpr int kPerThread = 8;           // elements: whole bytes, whole groups of random words
constexpr int64_t kWarpBlockLimit = 2048;  // longer blocks get all threads of a CTA

__device__ float fetch_stat(const float* stats, int64_t i) { return stats[i]; }
__device__ float fetch_stat(const uint16_t* stats, int64_t i) {
  return from_bits(uint32_t{stats[i]} << 16);
}
__device__ void put_stat(float* stats, int64_t i, float value) { stats[i] = value; }
__device__ void put_stat(uint16_t* stats, int64_t i, float value) {
  stats[i] = static_cast<uint16_t>(to_bits(value) >> 16);
}

// NaN wins over every number.
__device__ Range merge(Range a, Range b) {
  return {is_nan(a.lo) || a.lo < b.lo ? a.lo : b.lo, is_nan(a.hi) || a.hi > b.hi ? a.hi : b.hi};
}

__device__ Range merge_warp(Range range) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Range other{__shfl_xor_sync(0xFFFFFFFFu, range.lo, offset),
                      __shfl_xor_sync(0xFFFFFFFFu, range.hi, offset)};
    range = merge(range, other);
  }
  return range;
}

// One team of kTeam threads a block: a warp, or the whole CTA.
template <typename T, typename S, int kTeam>
__global__ void range_kernel(const T* x, S* lo, S* hi, int64_t numel, int64_t block_size,
                             int64_t blocks, RangeRule rule) {
  constexpr int kTeams = kThreads / kTeam;
  __shared__ Range partial[kThreads / kWarp];
  const int lane = threadIdx.x % kTeam;
  for (int64_t block = int64_t{blockIdx.x} * kTeams + threadIdx.x / kTeam; block < blocks;
       block += int64_t{gridDim.x} * kTeams) {
    const int64_t first = block * block_size;
    const int64_t count = min(block_size, numel - first);
    // Threads beyond a short block repeat its first element.
    const float start = static_cast<float>(x[first + (lane < count ? lane : 0)]);
    Range range{start, start};
    for (int64_t i = lane + kTeam; i < count; i += kTeam) {
      const float value = static_cast<float>(x[first + i]);
      range = merge(range, {value, value});
    }
    range = merge_warp(range);
    if (kTeam > kWarp) {
      if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = range;
      __syncthreads();
      range = partial[0];
      for (int w = 1; w < kThreads / kWarp; ++w) range = merge(range, partial[w]);
      __syncthreads();
    }
    if (lane == 0) {
      range = finish_range(range, rule);
      put_stat(lo, block, range.lo);
      put_stat(hi, block, range.hi);
    }
  }
}

// The grid of the block that holds an element; advances with the element.
template <typename S>
struct GridCursor {
  const S* lo;
  const S* hi;
  int64_t block_size;
  int levels;
  int64_t block;
  int64_t left;  // elements of the current block still to come
  Range range;
  float step;

  __device__ GridCursor(const S* lo, const S* hi, int64_t block_size, int levels, int64_t element)
      : lo(lo), hi(hi), block_size(block_size), levels(levels), block(element / block_size) {
    left = block_size - (element - block * block_size);
    load();
  }

  __device__ void load() {
    range = {fetch_stat(lo, block), fetch_stat(hi, block)};
    step = grid_step(range, levels);
  }

  __device__ void advance() {
    if (--left > 0) return;
    ++block;
    left = block_size;
    load();
  }
};

template <typename T, typename S>
__global__ void encode_kernel(const T* x, const S* lo, const S* hi, uint8_t* codes, int64_t numel,
                              int64_t block_size, RangeRule rule, const int64_t* key) {
  const int bits = rule.bits, levels = (1 << bits) - 1;
  const float top = static_cast<float>(levels);
  PhiloxKey philox_key{0, 0};
  if (rule.stochastic) {
    philox_key = {static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1])};
  }
  const int64_t chunks = (numel - 1) / kPerThread + 1;
  for (int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x; chunk < chunks;
       chunk += int64_t{gridDim.x} * kThreads) {
    const int64_t first = chunk * kPerThread;
    const int count = static_cast<int>(min(int64_t{kPerThread}, numel - first));
    GridCursor<S> grid(lo, hi, block_size, levels, first);
    uint64_t packed = 0;  // first element in the highest of kPerThread * bits bits
    for (int half = 0; half < 2; ++half) {
      PhiloxWords words{0, 0, 0, 0};
      if (rule.stochastic) {
        words = random_group(philox_key, static_cast<uint64_t>(first) / 4 + half);
      }
      const uint32_t word[4] = {words.w0, words.w1, words.w2, words.w3};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 4 * half + j;
        int code = 0;
        if (i < count) {
          if (grid.step != 0.0f) {
            const float value = static_cast<float>(x[first + i]);
            const float position = grid_position(value, grid.range.lo, grid.step, top);
            code = rule.stochastic ? round_stochastic(position, uniform24(word[j]))
                                   : round_nearest(position);
          }
          if (i + 1 < count) grid.advance();
        }
        packed = (packed << bits) | static_cast<uint64_t>(code);
      }
    }
    const int bytes = (count * bits + 7) / 8;
    uint8_t* out = codes + first * bits / 8;
    for (int b = 0; b < bytes; ++b) out[b] = static_cast<uint8_t>(packed >> (8 * (bits - 1 - b)));
  }
}

template <typename T, typename S>
__global__ void decode_kernel(const uint8_t* codes, const S* lo, const S* hi, T* out, int64_t numel,
                              int64_t block_size, int bits) {
  const int levels = (1 << bits) - 1;
  const int64_t chunks = (numel - 1) / kPerThread + 1;
  for (int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x; chunk < chunks;
       chunk += int64_t{gridDim.x} * kThreads) {
    const int64_t first = chunk * kPerThread;
    const int count = static_cast<int>(min(int64_t{kPerThread}, numel - first));
    const uint8_t* in = codes + first * bits / 8;
    GridCursor<S> grid(lo, hi, block_size, levels, first);
    for (int i = 0; i < count; ++i) {
      const int bit = i * bits;
      const int code = (in[bit / 8] >> (8 - bits - bit % 8)) & levels;
      out[first + i] = static_cast<T>(decode(code, grid.range.lo, grid.step));
      if (i + 1 < count) grid.advance();
    }
  }
}

template <typename T, typename S>
void launch_quantize(const Tensor& x, const QuantizeOutputs& outputs, int64_t block_size,
                     const RangeRule& rule, const int64_t* key) {
  const auto& [codes, lo, hi] = outputs;
  const int64_t numel = x.numel(), blocks = lo.numel();
  const T* values = static_cast<const T*>(x.const_data_ptr());
  S* low = static_cast<S*>(lo.mutable_data_ptr());
  S* high = static_cast<S*>(hi.mutable_data_ptr());
  const cudaStream_t stream = current_stream(x);
  if (block_size <= kWarpBlockLimit) {
    range_kernel<T, S, kWarp><<<ctas(blocks, kThreads / kWarp), kThreads, 0, stream>>>(
        values, low, high, numel, block_size, blocks, rule);
  } else {
    range_kernel<T, S, kThreads><<<ctas(blocks, 1), kThreads, 0, stream>>>(
        values, low, high, numel, block_size, blocks, rule);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  encode_kernel<T, S><<<ctas(numel, kThreads * kPerThread), kThreads, 0, stream>>>(
      values, low, high, static_cast<uint8_t*>(codes.mutable_data_ptr()), numel, block_size, rule,
      key);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename S>
void launch_dequantize(const Tensor& codes, const Tensor& lo, const Tensor& hi, const Tensor& out,
                       int64_t block_size, int bits) {
  const int64_t numel = out.numel();
  decode_kernel<T, S>
      <<<ctas(numel, kThreads * kPerThread), kThreads, 0, current_stream(codes)>>>(
          static_cast<const uint8_t*>(codes.const_data_ptr()),
          static_cast<const S*>(lo.const_data_ptr()), static_cast<const S*>(hi.const_data_ptr()),
          static_cast<T*>(out.mutable_data_ptr()), numel, block_size, bits);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Call work(T{}, S{}) for the dtype T of the values and S of the ranges (bfloat16 as uint16_t).
template <typename Work>
void with_dtypes(ScalarType values, ScalarType stats, const Work& work) {
  const auto with_stats = [&](auto value) {
    if (stats == ScalarType::BFloat16) {
      work(value, uint16_t{});
    } else {
      work(value, float{});
    }
  };
  switch (values) {
    case ScalarType::Double: return with_stats(double{});
    case ScalarType::Half: return with_stats(Half{});
    case ScalarType::BFloat16: return with_stats(BFloat16{});
    default: return with_stats(float{});
  }
}

}  // namespace

QuantizeOutputs quantize_affine_cuda(const Tensor& x, int64_t bits, int64_t block_size,
                                     bool stochastic, const std::optional<Tensor>& key,
                                     bool include_zero, ScalarType stats_dtype) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor values = prepare_quantize(x, bits, block_size, stochastic, key, stats_dtype);
  const QuantizeOutputs outputs = allocate_quantize(values, bits, block_size, stats_dtype);
  if (values.numel() == 0) return outputs;

  const std::optional<Tensor> words =
      stochastic ? std::optional(torch::stable::contiguous(*key)) : std::nullopt;
  const auto* key_data = words ? static_cast<const int64_t*>(words->const_data_ptr()) : nullptr;
  const RangeRule rule{static_cast<int>(bits), stochastic, include_zero,
                       stats_dtype == ScalarType::BFloat16};
  with_dtypes(values.scalar_type(), stats_dtype, [&](auto value, auto stat) {
    launch_quantize<decltype(value), decltype(stat)>(values, outputs, block_size, rule, key_data);
  });
  return outputs;
}

Tensor dequantize_affine_cuda(const Tensor& codes, const Tensor& lo, const Tensor& hi, int64_t bits,
                              int64_t block_size, int64_t numel, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(codes.get_device_index());
  require_dequantize(codes, lo, hi, bits, block_size, numel, dtype);
  const Tensor out = torch::stable::new_empty(codes, {numel}, dtype);
  if (numel == 0) return out;

  const Tensor bytes = torch::stable::contiguous(codes);
  const Tensor low = torch::stable::contiguous(lo), high = torch::stable::contiguous(hi);
  with_dtypes(dtype, low.scalar_type(), [&](auto value, auto stat) {
    launch_dequantize<decltype(value), decltype(stat)>(bytes, low, high, out, block_size,
                                                       static_cast<int>(bits));
  });
  return out;
}

}  // namespace gx
