// Argument checks and output allocation of the moments of a window, shared by CPU and CUDA.
#pragma once

#include <tuple>

#include "block_top_k_op.h"

namespace gx {

using MomentOutputs = std::tuple<Tensor, Tensor>;

inline void require_window_moments(const Tensor& indices, const Tensor& values,
                                   const Tensor& weights1, const Tensor& weights2, int64_t numel,
                                   int64_t block_size, int64_t k) {
  const char* op = "window_moments";
  require(indices.dim() == 2 && values.dim() == 2 && indices.size(0) == values.size(0) &&
              indices.size(1) == values.size(1),
          op, ": indices and values must be matrices of one shape");
  require(is_index(indices.scalar_type()), op, ": indices must be int16, int32 or int64");
  require(is_native(values.scalar_type()), op,
          ": values must be float64, float32, float16 or bfloat16");
  for (const Tensor& w : {weights1, weights2}) {
    require(w.dim() == 1 && w.numel() == indices.size(0), op, ": weights must have shape (",
            indices.size(0), ",)");
    require(w.scalar_type() == weights1.scalar_type() &&
                (w.scalar_type() == ScalarType::Float || w.scalar_type() == ScalarType::Double),
            op, ": weights must both be float32 or float64");
  }
  for (const Tensor& t : {values, weights1, weights2}) {
    require(t.device() == indices.device(), op, ": all tensors must share a device");
  }
  require(numel >= 0 && block_size >= 1 && k >= 1, op,
          ": numel must be >= 0, block_size and k >= 1");
  require(num_blocks(indices.size(1), k) <= num_blocks(numel, block_size), op, ": ",
          indices.size(1), " entries of a row, ", k, " a block, do not fit ", numel, " elements");
}

inline MomentOutputs allocate_window_moments(const Tensor& weights, int64_t numel) {
  return {torch::stable::new_empty(weights, {numel}), torch::stable::new_empty(weights, {numel})};
}

}  // namespace gx
