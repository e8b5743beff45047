// Argument checks and output allocation shared by the CPU and CUDA operators.
#pragma once

#include <optional>
#include <tuple>

#include "checks.h"

namespace gx {

using QuantizeOutputs = std::tuple<Tensor, Tensor, Tensor>;

inline void require_format(const char* op, int64_t bits, int64_t block_size) {
  require(bits == 2 || bits == 4 || bits == 8, op, ": bits must be 2, 4 or 8, got ", bits);
  require(block_size >= 1, op, ": block_size must be >= 1, got ", block_size);
}

inline void require_stats_dtype(const char* op, ScalarType dtype) {
  require(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, op,
          ": lo and hi must be float32 or bfloat16");
}

// Check the arguments and return x contiguous, in a dtype the kernels read.
inline Tensor prepare_quantize(const Tensor& x, int64_t bits, int64_t block_size, bool stochastic,
                               const std::optional<Tensor>& key, ScalarType stats_dtype) {
  const char* op = "quantize_affine";
  require_format(op, bits, block_size);
  require_stats_dtype(op, stats_dtype);
  require(stochastic == key.has_value(), op,
          ": a key is needed by stochastic rounding and by nothing else");
  if (stochastic) {
    require(key->scalar_type() == ScalarType::Long && key->dim() == 1 && key->numel() == 2, op,
            ": key must be an int64 tensor of shape (2,)");
    require(key->device() == x.device(), op, ": key and x must be on the same device");
  }
  require(is_floating(x.scalar_type()), op, ": x must have a floating dtype");
  const Tensor values = is_native(x.scalar_type()) ? x : torch::stable::to(x, ScalarType::Float);
  return torch::stable::contiguous(values);
}

inline QuantizeOutputs allocate_quantize(const Tensor& x, int64_t bits, int64_t block_size,
                                         ScalarType stats_dtype) {
  const int64_t blocks = num_blocks(x.numel(), block_size);
  return {torch::stable::new_empty(x, {num_bytes(x.numel(), bits)}, ScalarType::Byte),
          torch::stable::new_empty(x, {blocks}, stats_dtype),
          torch::stable::new_empty(x, {blocks}, stats_dtype)};
}

inline void require_dequantize(const Tensor& codes, const Tensor& lo, const Tensor& hi,
                               int64_t bits, int64_t block_size, int64_t numel,
                               ScalarType dtype) {
  const char* op = "dequantize_affine";
  require_format(op, bits, block_size);
  require(is_native(dtype), op, ": dtype must be float64, float32, float16 or bfloat16");
  require(numel >= 0, op, ": numel must be >= 0, got ", numel);
  require(codes.scalar_type() == ScalarType::Byte && codes.dim() == 1 &&
              codes.numel() == num_bytes(numel, bits),
          op, ": codes must be uint8 of shape (", num_bytes(numel, bits), ",)");
  const int64_t blocks = num_blocks(numel, block_size);
  for (const Tensor& stat : {lo, hi}) {
    require(stat.dim() == 1 && stat.numel() == blocks, op, ": lo and hi must have shape (", blocks,
            ",)");
    require(stat.device() == codes.device(), op, ": codes, lo and hi must share a device");
  }
  require_stats_dtype(op, lo.scalar_type());
  require(lo.scalar_type() == hi.scalar_type(), op, ": lo and hi must share a dtype");
}

}  // namespace gx
