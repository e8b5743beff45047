// Argument checks and output allocation of the block quantizer, shared by CPU and CUDA.
#pragma once

#include <tuple>

#include "checks.h"

namespace gx {

using BlockOutputs = std::tuple<Tensor, Tensor>;

inline void require_block_format(const char* op, int64_t bits, int64_t block_size) {
  require(bits == 4 || bits == 8, op, ": bits must be 4 or 8, got ", bits);
  require(block_size >= 1, op, ": block_size must be >= 1, got ", block_size);
}

// Check the arguments and return x contiguous, in float32.
inline Tensor prepare_block_quantize(const Tensor& x, int64_t bits, int64_t block_size) {
  const char* op = "block_quantize";
  require_block_format(op, bits, block_size);
  require(is_native(x.scalar_type()), op,
          ": x must be float64, float32, float16 or bfloat16");
  require(x.dim() == 1, op, ": x must be flat, got ", x.dim(), " dimensions");
  const bool is_float = x.scalar_type() == ScalarType::Float;
  return torch::stable::contiguous(is_float ? x : torch::stable::to(x, ScalarType::Float));
}

inline BlockOutputs allocate_block_quantize(const Tensor& x, int64_t bits, int64_t block_size) {
  return {torch::stable::new_empty(x, {num_bytes(x.numel(), bits)}, ScalarType::Byte),
          torch::stable::new_empty(x, {num_blocks(x.numel(), block_size)}, ScalarType::Float)};
}

inline void require_block_dequantize(const Tensor& codes, const Tensor& scale, int64_t numel,
                                     int64_t bits, int64_t block_size) {
  const char* op = "block_dequantize";
  require_block_format(op, bits, block_size);
  require(numel >= 0, op, ": numel must be >= 0, got ", numel);
  require(codes.scalar_type() == ScalarType::Byte && codes.dim() == 1 &&
              codes.numel() == num_bytes(numel, bits),
          op, ": codes must be torch.uint8 of shape (", num_bytes(numel, bits), ",)");
  require(scale.scalar_type() == ScalarType::Float && scale.dim() == 1 &&
              scale.numel() == num_blocks(numel, block_size),
          op, ": scale must be torch.float32 of shape (", num_blocks(numel, block_size), ",)");
  require(scale.device() == codes.device(), op, ": scale and codes must share a device");
}

}  // namespace gx
