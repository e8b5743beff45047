// Argument checks and output allocation of the block-wise selection, shared by CPU and CUDA.
#pragma once

#include "checks.h"

namespace gx {

// Whether positions may be of this dtype.
inline bool is_index(ScalarType dtype) {
  return dtype == ScalarType::Short || dtype == ScalarType::Int || dtype == ScalarType::Long;
}

// Check the arguments and return x contiguous.
inline Tensor prepare_block_top_k(const Tensor& x, int64_t block_size, int64_t k, int64_t k_tail,
                                  ScalarType dtype) {
  const char* op = "block_top_k";
  require(is_native(x.scalar_type()), op,
          ": x must be float64, float32, float16 or bfloat16");
  require(x.dim() == 1, op, ": x must be flat, got ", x.dim(), " dimensions");
  require(is_index(dtype), op, ": dtype must be int16, int32 or int64");
  const int64_t largest = dtype == ScalarType::Short ? INT16_MAX
                          : dtype == ScalarType::Int ? INT32_MAX
                                                     : INT64_MAX;
  require(block_size >= 1 && block_size <= largest, op,
          ": block_size must fit in the dtype and be >= 1, got ", block_size);
  require(k >= 1 && k <= block_size, op, ": k must be in [1, ", block_size, "], got ", k);
  const int64_t tail = x.numel() % block_size;
  require(k_tail >= (tail ? 1 : 0) && k_tail <= (tail < k ? tail : k), op,
          ": k_tail does not fit a last block of ", tail, " elements, got ", k_tail);
  return torch::stable::contiguous(x);
}

inline Tensor allocate_block_top_k(const Tensor& x, int64_t block_size, int64_t k, int64_t k_tail,
                                   ScalarType dtype) {
  return torch::stable::new_empty(x, {x.numel() / block_size * k + k_tail}, dtype);
}

}  // namespace gx
