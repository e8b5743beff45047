// Argument checks and output allocation of products with a window, shared by CPU and CUDA.
#pragma once

#include "block_top_k_op.h"
#include "window_entries.h"

namespace gx {

inline bool is_wide(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double;
}

// The window of sparse rows: where the entries of which blocks are.
struct WindowGeometry {
  int64_t rows, columns, numel, block_size, k;
};

inline WindowGeometry require_sparse_rows(const char* op, const Tensor& indices,
                                          const Tensor& values, const Tensor& other, int64_t numel,
                                          int64_t block_size, int64_t k) {
  require(indices.dim() == 2 && values.dim() == 2 && indices.size(0) == values.size(0) &&
              indices.size(1) == values.size(1),
          op, ": indices and values must be matrices of one shape");
  require(is_index(indices.scalar_type()), op, ": indices must be int16, int32 or int64");
  require(is_native(values.scalar_type()), op,
          ": values must be float64, float32, float16 or bfloat16");
  for (const Tensor& t : {values, other}) {
    require(t.device() == indices.device(), op, ": all tensors must share a device");
  }
  require(numel >= 0 && block_size >= 1 && k >= 1, op,
          ": numel must be >= 0, block_size and k >= 1");
  require(num_blocks(indices.size(1), k) <= num_blocks(numel, block_size), op, ": ",
          indices.size(1), " entries of a row, ", k, " a block, do not fit ", numel, " elements");
  return {indices.size(0), indices.size(1), numel, block_size, k};
}

inline WindowGeometry require_sparse_dots(const Tensor& indices, const Tensor& values,
                                          const Tensor& x, int64_t block_size, int64_t k) {
  const char* op = "sparse_window_dots";
  require(x.dim() == 1 && is_wide(x.scalar_type()), op,
          ": x must be flat, float32 or float64");
  return require_sparse_rows(op, indices, values, x, x.numel(), block_size, k);
}

inline WindowGeometry require_sparse_combine(const Tensor& indices, const Tensor& values,
                                             const Tensor& weights, int64_t numel,
                                             int64_t block_size, int64_t k) {
  const char* op = "sparse_window_combine";
  const WindowGeometry shape =
      require_sparse_rows(op, indices, values, weights, numel, block_size, k);
  require(weights.dim() == 1 && weights.numel() == shape.rows &&
              weights.scalar_type() == ScalarType::Double,
          op, ": weights must be float64 of shape (", shape.rows, ",)");
  return shape;
}

// The dtype in which rows are added.
inline ScalarType sum_dtype(const Tensor& values) {
  return values.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace gx
