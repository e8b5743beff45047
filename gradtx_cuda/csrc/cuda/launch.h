// How CUDA kernels are launched: grid sizes and the current stream.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>

#include "../common/checks.h"

namespace gx {

constexpr int kThreads = 256;
constexpr int64_t kMaxCtas = 1 << 20;

inline int ctas(int64_t items, int64_t per_cta) {
  return static_cast<int>(std::min((items - 1) / per_cta + 1, kMaxCtas));
}

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  const auto status = aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream);
  require(status == TORCH_SUCCESS, "gradtx: torch has no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace gx
