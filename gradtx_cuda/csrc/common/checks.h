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

// Check that memory that is written is not read elsewhere, as far as dense tensors tell.
inline void require_apart(const char* op, const Tensor& out, const Tensor& x) {
  if (!out.is_contiguous() || !x.is_contiguous() || out.numel() == 0 || x.numel() == 0) return;
  const auto begin = [](const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); };
  const auto end = [&](const Tensor& t) { return begin(t) + t.numel() * t.element_size(); };
  require(end(out) <= begin(x) || end(x) <= begin(out), op,
          ": what is overwritten must not share memory with another argument");
}

// A factor as kernels of other dtypes than float64 take it: some are infinite there, some zero.
inline double single(double value) { return static_cast<float>(value); }

// Whether kernels read and write this dtype.
inline bool is_native(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

// Whether the dtype is neither of integers nor complex; some of these no kernel reads.
inline bool is_floating(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float8_e5m2:
    case ScalarType::Float8_e4m3fn:
    case ScalarType::Float8_e5m2fnuz:
    case ScalarType::Float8_e4m3fnuz:
    case ScalarType::Float8_e8m0fnu: return true;
    default: return is_native(dtype);
  }
}

// Of codes of at most 8 bits; numel times bits may be too large a number.
inline int64_t num_bytes(int64_t numel, int64_t bits) {
  return numel / 8 * bits + (numel % 8 * bits + 7) / 8;
}

inline int64_t num_blocks(int64_t numel, int64_t block_size) {
  return numel == 0 ? 0 : (numel - 1) / block_size + 1;
}

}  // namespace gx
