// Argument checks and output allocation of the sign packing, shared by CPU and CUDA.
#pragma once

#include "checks.h"

namespace gx {

// Check x and return it contiguous, in float32 or float64.
inline Tensor prepare_pack_signs(const Tensor& x) {
  require(is_native(x.scalar_type()),
          "pack_signs: x must be float64, float32, float16 or bfloat16");
  require(x.dim() == 2, "pack_signs: x must be a matrix, got ", x.dim(), " dimensions");
  const bool is_wide =
      x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
  return torch::stable::contiguous(is_wide ? x : torch::stable::to(x, ScalarType::Float));
}

inline Tensor allocate_pack_signs(const Tensor& x) {
  return torch::stable::new_empty(x, {x.size(0), num_bytes(x.size(1), 1)}, ScalarType::Byte);
}

// Check the arguments and return bits contiguous.
inline Tensor prepare_unpack_signs(const Tensor& bits, int64_t columns) {
  require(columns >= 0, "unpack_signs: columns must be >= 0, got ", columns);
  require(bits.scalar_type() == ScalarType::Byte && bits.dim() == 2 &&
              bits.size(1) == num_bytes(columns, 1),
          "unpack_signs: bits must be uint8 of shape (rows, ", num_bytes(columns, 1), ") for ",
          columns, " columns");
  return torch::stable::contiguous(bits);
}

}  // namespace gx
