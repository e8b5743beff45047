// Argument checks and output allocation of random numbers, shared by CPU and CUDA.
#pragma once

#include "checks.h"

namespace gx {

// The key, contiguous.
inline Tensor prepare_random_bits(const Tensor& key, int64_t numel) {
  require(key.scalar_type() == ScalarType::Long && key.dim() == 1 && key.size(0) == 2,
          "random_bits: key must be int64 of shape (2,)");
  require(numel >= 0, "random_bits: numel must be >= 0, got ", numel);
  return torch::stable::contiguous(key);
}

inline Tensor allocate_random_bits(const Tensor& key, int64_t numel) {
  return torch::stable::new_empty(key, {numel});
}

}  // namespace gx
