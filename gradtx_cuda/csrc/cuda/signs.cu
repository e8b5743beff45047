// CUDA kernels that pack and unpack signs: one thread a byte, on the current stream.
#include "../common/signs.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/signs_op.h"
#include "../registration.h"
#include "launch.h"

namespace gx {
namespace {

// The elements of one byte.
struct ByteSpan {
  int64_t first;
  int count;
};

__device__ ByteSpan byte_span(int64_t byte, int64_t bytes_per_row, int64_t columns) {
  const int64_t row = byte / bytes_per_row, column = (byte - row * bytes_per_row) * 8;
  return {row * columns + column, static_cast<int>(min(int64_t{8}, columns - column))};
}

template <typename T>
__global__ void pack_kernel(const T* x, uint8_t* bits, int64_t bytes, int64_t bytes_per_row,
                            int64_t columns) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < bytes;
       i += int64_t{gridDim.x} * kThreads) {
    const ByteSpan span = byte_span(i, bytes_per_row, columns);
    bits[i] = sign_byte(x + span.first, span.count);
  }
}

__global__ void unpack_kernel(const uint8_t* bits, bool* out, int64_t bytes, int64_t bytes_per_row,
                              int64_t columns) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < bytes;
       i += int64_t{gridDim.x} * kThreads) {
    const ByteSpan span = byte_span(i, bytes_per_row, columns);
    const uint8_t byte = bits[i];
    for (int j = 0; j < span.count; ++j) out[span.first + j] = sign_bit(byte, j);
  }
}

template <typename T>
void launch_pack(const Tensor& x, const Tensor& bits) {
  pack_kernel<T><<<ctas(bits.numel(), kThreads), kThreads, 0, current_stream(x)>>>(
      static_cast<const T*>(x.const_data_ptr()), static_cast<uint8_t*>(bits.mutable_data_ptr()),
      bits.numel(), bits.size(1), x.size(1));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

Tensor pack_signs_cuda(const Tensor& x) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor values = prepare_pack_signs(x);
  const Tensor bits = allocate_pack_signs(values);
  if (bits.numel() == 0) return bits;
  if (values.scalar_type() == ScalarType::Double) {
    launch_pack<double>(values, bits);
  } else {
    launch_pack<float>(values, bits);
  }
  return bits;
}

Tensor unpack_signs_cuda(const Tensor& bits, int64_t columns) {
  const torch::stable::accelerator::DeviceGuard guard(bits.get_device_index());
  const Tensor bytes = prepare_unpack_signs(bits, columns);
  const Tensor out = torch::stable::new_empty(bytes, {bytes.size(0), columns}, ScalarType::Bool);
  if (bytes.numel() == 0) return out;
  unpack_kernel<<<ctas(bytes.numel(), kThreads), kThreads, 0, current_stream(bytes)>>>(
      static_cast<const uint8_t*>(bytes.const_data_ptr()),
      static_cast<bool*>(out.mutable_data_ptr()), bytes.numel(), bytes.size(1), columns);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace gx
