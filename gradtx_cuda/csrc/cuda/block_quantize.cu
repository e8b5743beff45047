// CUDA kernels of the power-law block quantizer: a scale pass and an encode pass on the current
// stream. The largest magnitude does not depend on the order of the reduction.
#include "../common/block_quantize.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/block_quantize_op.h"
#include "../registration.h"
#include "launch.h"

namespace gx {
namespace {

constexpr int kWarp = 32;
constexpr int kPerThread = 8;  // elements: whole bytes

// One warp a block.
template <bool kSigned>
__global__ void scale_kernel(const float* x, float* scale, int64_t numel, int64_t block_size,
                             int64_t blocks) {
  constexpr int kTeams = kThreads / kWarp;
  const int lane = threadIdx.x % kWarp;
  for (int64_t block = int64_t{blockIdx.x} * kTeams + threadIdx.x / kWarp; block < blocks;
       block += int64_t{gridDim.x} * kTeams) {
    const int64_t first = block * block_size;
    const int64_t count = min(block_size, numel - first);
    uint32_t largest = 0;
    for (int64_t i = lane; i < count; i += kWarp) {
      largest = larger(largest, to_bits(block_magnitude(x[first + i], kSigned)));
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      largest = larger(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, offset));
    }
    if (lane == 0) scale[block] = finish_scale(largest, kSigned);
  }
}

// The scale of the block that holds an element; advances with the element.
struct ScaleCursor {
  const float* scale;
  int64_t block_size;
  int64_t block;
  int64_t left;  // elements of the current block still to come
  float value;

  __device__ ScaleCursor(const float* scale, int64_t block_size, int64_t element)
      : scale(scale), block_size(block_size), block(element / block_size) {
    left = block_size - (element - block * block_size);
    value = scale[block];
  }

  __device__ void advance() {
    if (--left > 0) return;
    left = block_size;
    value = scale[++block];
  }
};

template <int kBits, bool kSigned>
__global__ void encode_kernel(const float* x, const float* scale, uint8_t* codes, int64_t numel,
                              int64_t block_size) {
  const float top = top_level(kBits, kSigned);
  const int64_t chunks = (numel - 1) / kPerThread + 1;
  for (int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x; chunk < chunks;
       chunk += int64_t{gridDim.x} * kThreads) {
    const int64_t first = chunk * kPerThread;
    const int count = static_cast<int>(min(int64_t{kPerThread}, numel - first));
    ScaleCursor cursor(scale, block_size, first);
    uint64_t packed = 0;  // first element in the highest of kPerThread * kBits bits
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      int code = 0;
      if (i < count) {
        code = power_code(x[first + i], cursor.value, top, kSigned);
        if (i + 1 < count) cursor.advance();
      }
      packed = (packed << kBits) | static_cast<uint64_t>(code);
    }
    const int bytes = (count * kBits + 7) / 8;
    uint8_t* out = codes + first * kBits / 8;
    for (int b = 0; b < bytes; ++b) out[b] = static_cast<uint8_t>(packed >> (8 * (kBits - 1 - b)));
  }
}

template <int kBits, bool kSigned>
__global__ void decode_kernel(const uint8_t* codes, const float* scale, float* out, int64_t numel,
                              int64_t block_size) {
  const float top = top_level(kBits, kSigned);
  const int64_t chunks = (numel - 1) / kPerThread + 1;
  for (int64_t chunk = int64_t{blockIdx.x} * kThreads + threadIdx.x; chunk < chunks;
       chunk += int64_t{gridDim.x} * kThreads) {
    const int64_t first = chunk * kPerThread;
    const int count = static_cast<int>(min(int64_t{kPerThread}, numel - first));
    const uint8_t* in = codes + first * kBits / 8;
    ScaleCursor cursor(scale, block_size, first);
    for (int i = 0; i < count; ++i) {
      const int bit = i * kBits;
      const int code = in[bit / 8] >> (8 - kBits - bit % 8) & ((1 << kBits) - 1);
      out[first + i] = power_value(code, cursor.value, top, kSigned);
      if (i + 1 < count) cursor.advance();
    }
  }
}

template <int kBits, bool kSigned>
void launch_quantize(const Tensor& x, const BlockOutputs& outputs, int64_t block_size) {
  const auto& [codes, scale] = outputs;
  const int64_t numel = x.numel(), blocks = scale.numel();
  const float* values = static_cast<const float*>(x.const_data_ptr());
  float* scales = static_cast<float*>(scale.mutable_data_ptr());
  const cudaStream_t stream = current_stream(x);
  scale_kernel<kSigned><<<ctas(blocks, kThreads / kWarp), kThreads, 0, stream>>>(
      values, scales, numel, block_size, blocks);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  encode_kernel<kBits, kSigned><<<ctas(numel, kThreads * kPerThread), kThreads, 0, stream>>>(
      values, scales, static_cast<uint8_t*>(codes.mutable_data_ptr()), numel, block_size);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <int kBits, bool kSigned>
void launch_dequantize(const Tensor& codes, const Tensor& scale, const Tensor& out,
                       int64_t block_size) {
  const int64_t numel = out.numel();
  decode_kernel<kBits, kSigned>
      <<<ctas(numel, kThreads * kPerThread), kThreads, 0, current_stream(codes)>>>(
          static_cast<const uint8_t*>(codes.const_data_ptr()),
          static_cast<const float*>(scale.const_data_ptr()),
          static_cast<float*>(out.mutable_data_ptr()), numel, block_size);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

BlockOutputs block_quantize_cuda(const Tensor& x, int64_t bits, int64_t block_size,
                                 bool is_signed) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor values = prepare_block_quantize(x, bits, block_size);
  const BlockOutputs outputs = allocate_block_quantize(values, bits, block_size);
  if (values.numel() == 0) return outputs;
  if (bits == 4) {
    (is_signed ? launch_quantize<4, true> : launch_quantize<4, false>)(values, outputs, block_size);
  } else {
    (is_signed ? launch_quantize<8, true> : launch_quantize<8, false>)(values, outputs, block_size);
  }
  return outputs;
}

Tensor block_dequantize_cuda(const Tensor& codes, const Tensor& scale, int64_t numel, int64_t bits,
                             int64_t block_size, bool is_signed) {
  const torch::stable::accelerator::DeviceGuard guard(codes.get_device_index());
  require_block_dequantize(codes, scale, numel, bits, block_size);
  const Tensor out = torch::stable::new_empty(scale, {numel}, ScalarType::Float);
  if (numel == 0) return out;
  const Tensor bytes = torch::stable::contiguous(codes);
  const Tensor scales = torch::stable::contiguous(scale);
  if (bits == 4) {
    (is_signed ? launch_dequantize<4, true> : launch_dequantize<4, false>)(bytes, scales, out,
                                                                           block_size);
  } else {
    (is_signed ? launch_dequantize<8, true> : launch_dequantize<8, false>)(bytes, scales, out,
                                                                           block_size);
  }
  return out;
}

}  // namespace gx
