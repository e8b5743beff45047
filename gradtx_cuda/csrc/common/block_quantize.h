// Arithmetic of power-law block codes; gradtx.ops.block_quantize defines it.
#pragma once

#include "arith.h"

namespace gx {

GX_HD float top_level(int bits, bool is_signed) {
  return static_cast<float>(is_signed ? (1 << (bits - 1)) - 1 : 1 << bits);
}

// What a value counts for in its block's scale; NaN stays NaN.
GX_HD float block_magnitude(float x, bool is_signed) {
  return absolute(!is_signed && x < 0.0f ? 0.0f : x);
}

// Magnitudes compare like the integers of equal bits, and NaN is the largest: maxima are exact and
// do not depend on the order.
GX_HD uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

// The scale that is stored: NaN where a magnitude was not finite; 2**-100 is the least that a block
// with signs may have.
GX_HD float finish_scale(uint32_t largest, bool is_signed) {
  if (is_signed && largest < 0x0D800000u) return 0.0f;
  return from_bits(largest < 0x7F800000u ? largest : 0x7FC00000u);
}

// What signed values are multiplied with before the root is taken.
GX_HD float signed_factor(float scale, float top) {
  return scale > 0.0f ? div(mul(top, top), scale) : 0.0f;
}

// The product is exact in double, so this rounds once.
GX_HD float signed_square(float magnitude, float factor) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(magnitude, factor, -0.25f);
#else
  return static_cast<float>(static_cast<double>(magnitude) * static_cast<double>(factor) - 0.25);
#endif
}

// Whether a value is too large for a level.
GX_HD bool above_level(float x, int level, float scale, float top) {
  const float border = div(sub(static_cast<float>(level * (level + 1)), 0.75f), mul(top, top));
  return mul(mul(border, border), scale) < x;
}

// The code of one value; scale may be zero or NaN.
GX_HD int power_code(float x, float scale, float top, bool is_signed) {
  if (is_signed) {
    const float square = signed_square(absolute(x), signed_factor(scale, top));
    const int level = static_cast<int>(rintf(root(square > 0.0f ? square : 0.0f)));
    return (x < 0.0f ? -level : level) + static_cast<int>(top) + 1;
  }
  const float ratio = div(x, scale);
  const float square = mul(root(ratio > 0.0f ? ratio : 0.0f), mul(top, top));
  int level = static_cast<int>(add(root(add(square, 1.0f)), 0.5f));  // it or a neighbour
  level -= level > 1 && !above_level(x, level - 1, scale, top);
  level += above_level(x, level, scale, top);
  return level - 1;
}

GX_HD float power_value(int code, float scale, float top, bool is_signed) {
  if (is_signed) {
    const float base = div(static_cast<float>(code - static_cast<int>(top) - 1), top);
    return mul(mul(base, absolute(base)), scale);
  }
  const float base = div(static_cast<float>(code + 1), top);
  const float square = mul(base, base);
  return mul(mul(square, square), scale);
}

}  // namespace gx
