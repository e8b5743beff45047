// Float32 arithmetic that rounds after every operation, on host and device alike.
// Host code must be compiled with -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define GX_HD __host__ __device__ __forceinline__
#else
#define GX_HD inline __attribute__((always_inline))
#endif

namespace gx {

#if defined(__CUDA_ARCH__)
GX_HD float add(float a, float b) { return __fadd_rn(a, b); }
GX_HD float sub(float a, float b) { return __fsub_rn(a, b); }
GX_HD float mul(float a, float b) { return __fmul_rn(a, b); }
GX_HD float div(float a, float b) { return __fdiv_rn(a, b); }
GX_HD float root(float a) { return __fsqrt_rn(a); }
#else
GX_HD float add(float a, float b) { return a + b; }
GX_HD float sub(float a, float b) { return a - b; }
GX_HD float mul(float a, float b) { return a * b; }
GX_HD float div(float a, float b) { return a / b; }
GX_HD float root(float a) { return sqrtf(a); }
#endif

GX_HD uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

GX_HD float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

GX_HD float absolute(float value) { return from_bits(to_bits(value) & 0x7FFFFFFFu); }

GX_HD bool is_nan(float value) { return value != value; }

// Rounding to bfloat16; the result is returned as the float32 of equal value.

GX_HD float bf16_nearest(float value) {
  if (is_nan(value)) return value;
  const uint32_t bits = to_bits(value);
  return from_bits((bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u);
}

GX_HD float bf16_down(float value) {
  if (is_nan(value)) return value;
  const uint32_t bits = to_bits(value);
  const uint32_t towards_zero = bits & 0xFFFF0000u;
  const bool grow = bits != towards_zero && (bits >> 31) != 0;
  return from_bits(towards_zero + (grow ? 0x10000u : 0u));
}

GX_HD float bf16_up(float value) { return -bf16_down(-value); }

}  // namespace gx
