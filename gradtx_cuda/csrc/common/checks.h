// Argument checks and sizes that several operators share.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace gx {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// Whether kernels read and write this dtype.
inline bool is_native(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline int64_t num_bytes(int64_t numel, int64_t bits) { return (numel * bits + 7) / 8; }

inline int64_t num_blocks(int64_t numel, int64_t block_size) {
  return numel == 0 ? 0 : (numel - 1) / block_size + 1;
}

}  // namespace gx
