// Products with a thin factor, on tensors.
#pragma once

#include <optional>

#include "../common/checks.h"

namespace gx {

// x <- beta x + alpha a b + gamma addend, of matrices of one dtype; with beta = 0 x is not read.
void add_thin_product(const Tensor& x, const Tensor& a, const Tensor& b, double beta, double alpha,
                      const std::optional<Tensor>& addend = std::nullopt, double gamma = 1);

// The one number of a float32 tensor.
inline float number(const Tensor& x, const char* name) {
  require(x.dim() == 0 && x.scalar_type() == ScalarType::Float, name,
          " must be one number of float32");
  return *static_cast<const float*>(x.const_data_ptr());
}

inline Tensor transposed(const Tensor& x) { return torch::stable::transpose(x, 0, 1); }

}  // namespace gx
