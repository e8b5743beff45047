// CUDA kernel of random numbers: one thread a Philox block, on the current stream.
#include "../common/philox.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/random_bits_op.h"
#include "../registration.h"
#include "launch.h"

namespace gx {
namespace {

__global__ void random_kernel(const int64_t* key, int64_t* out, int64_t numel) {
  const PhiloxKey pair{static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1])};
  const int64_t groups = (numel + 3) / 4;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < groups;
       i += int64_t{gridDim.x} * kThreads) {
    const PhiloxWords w = random_group(pair, static_cast<uint64_t>(i));
    const uint32_t words[4] = {w.w0, w.w1, w.w2, w.w3};
    for (int k = 0; k < 4 && 4 * i + k < numel; ++k) out[4 * i + k] = words[k];
  }
}

}  // namespace

Tensor random_bits_cuda(const Tensor& key, int64_t numel) {
  const torch::stable::accelerator::DeviceGuard guard(key.get_device_index());
  const Tensor pair = prepare_random_bits(key, numel);
  const Tensor out = allocate_random_bits(pair, numel);
  if (numel == 0) return out;
  random_kernel<<<ctas((numel + 3) / 4, kThreads), kThreads, 0, current_stream(pair)>>>(
      static_cast<const int64_t*>(pair.const_data_ptr()),
      static_cast<int64_t*>(out.mutable_data_ptr()), numel);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace gx
