// The operators' kernels, one declaration a device.
#pragma once

#include "common/quantize_affine_op.h"

namespace gx {

#define GX_DECLARE(device)                                                                       \
  QuantizeOutputs quantize_affine_##device(const Tensor& x, int64_t bits, int64_t block_size,    \
                                           bool stochastic, const std::optional<Tensor>& key,    \
                                           bool include_zero, ScalarType stats_dtype);           \
  Tensor dequantize_affine_##device(const Tensor& codes, const Tensor& lo, const Tensor& hi,     \
                                    int64_t bits, int64_t block_size, int64_t numel,             \
                                    ScalarType dtype);
GX_DECLARE(cpu)
GX_DECLARE(cuda)
#undef GX_DECLARE

}  // namespace gx
