// CUDA kernels of the Walsh-Hadamard transform: stages inside shared memory, then across it.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cmath>

#include "../common/hadamard_op.h"
#include "../registration.h"
#include "launch.h"

namespace gx {
namespace {

constexpr int64_t kTileBytes = 32768;  // of shared memory

// All stages of a tile of consecutive elements, with a product at the end.
template <typename T>
__global__ void tile_kernel(const T* in, T* out, int64_t tiles, int tile, T scale) {
  extern __shared__ unsigned char memory[];
  T* x = reinterpret_cast<T*>(memory);
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t start = t * tile;
    for (int i = threadIdx.x; i < tile; i += kThreads) x[i] = in[start + i];
    for (int half = 1; half < tile; half *= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < tile / 2; pair += kThreads) {
        const int low = (pair / half) * 2 * half + pair % half;
        const T a = x[low], b = x[low + half];
        x[low] = a + b;
        x[low + half] = a - b;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tile; i += kThreads) out[start + i] = x[i] * scale;
    __syncthreads();
  }
}

// One stage whose partners lie in different tiles, in place.
template <typename T>
__global__ void stage_kernel(T* x, int64_t pairs, int64_t half, T scale) {
  for (int64_t pair = int64_t{blockIdx.x} * kThreads + threadIdx.x; pair < pairs;
       pair += int64_t{gridDim.x} * kThreads) {
    const int64_t low = (pair / half) * 2 * half + pair % half;
    const T a = x[low], b = x[low + half];
    x[low] = (a + b) * scale;
    x[low + half] = (a - b) * scale;
  }
}

template <typename T>
void launch(const Tensor& x, const Tensor& out) {
  const int64_t n = x.size(x.dim() - 1), numel = x.numel();
  const int64_t tile = std::min<int64_t>(n, kTileBytes / sizeof(T));
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(n)));
  const cudaStream_t stream = current_stream(x);
  T* result = static_cast<T*>(out.mutable_data_ptr());
  tile_kernel<T><<<ctas(numel / tile, 1), kThreads, tile * sizeof(T), stream>>>(
      static_cast<const T*>(x.const_data_ptr()), result, numel / tile, static_cast<int>(tile),
      tile == n ? scale : T{1});
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  for (int64_t half = tile; half < n; half *= 2) {
    stage_kernel<T><<<ctas(numel / 2, kThreads), kThreads, 0, stream>>>(
        result, numel / 2, half, 2 * half == n ? scale : T{1});
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

}  // namespace

Tensor hadamard_cuda(const Tensor& x) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor values = prepare_hadamard(x);
  const Tensor out = torch::stable::empty_like(values);
  if (values.numel() != 0) {
    if (values.scalar_type() == ScalarType::Double) {
      launch<double>(values, out);
    } else {
      launch<float>(values, out);
    }
  }
  return finish_hadamard(out, x);
}

}  // namespace gx
