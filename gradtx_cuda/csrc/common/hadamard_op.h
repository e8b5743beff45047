// Argument checks and output allocation of the Walsh-Hadamard transform, shared by CPU and CUDA.
#pragma once

#include "checks.h"

namespace gx {

// Check x and return it contiguous, in float32 or float64.
inline Tensor prepare_hadamard(const Tensor& x) {
  require(is_native(x.scalar_type()), "hadamard: x must be float64, float32, float16 or bfloat16");
  const int64_t n = x.dim() == 0 ? -1 : x.size(x.dim() - 1);
  require(n >= 0 && (n & (n - 1)) == 0,
          "hadamard: the last dimension must be a power of two, got ", n);
  const bool is_wide =
      x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
  return torch::stable::contiguous(is_wide ? x : torch::stable::to(x, ScalarType::Float));
}

// The result in the dtype of the input.
inline Tensor finish_hadamard(const Tensor& out, const Tensor& x) {
  return out.scalar_type() == x.scalar_type() ? out : torch::stable::to(out, x.scalar_type());
}

}  // namespace gx
