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

// The scale that is stored: NaN where a magnitude was not finite.
GX_HD float finish_scale(uint32_t largest) {
  return from_bits(largest < 0x7F800000u ? largest : 0x7FC00000u);
}

// The code of one value; scale may be zero or NaN.
GX_HD int power_code(float x, float scale, float top, bool is_signed) {
  float ratio = div(block_magnitude(x, is_signed), scale);
  ratio = ratio > 0.0f ? ratio : 0.0f;  // NaN becomes 0
  if (is_signed) {
    const float shifted = sub(mul(ratio, mul(top, top)), 0.25f);
    const int level = static_cast<int>(add(root(shifted > 0.0f ? shifted : 0.0f), 0.5f));
    return (x < 0.0f ? -level : level) + static_cast<int>(top) + 1;
  }
  const float shifted = add(mul(root(ratio), mul(top, top)), 1.0f);
  return static_cast<int>(add(root(shifted), 0.5f)) - 1;
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
