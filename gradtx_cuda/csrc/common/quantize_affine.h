// Arithmetic of affine block quantisation; gradtx.ops.quantize defines it.
#pragma once

#include <cmath>

#include "arith.h"

namespace gx {

struct Range {
  float lo, hi;
};

struct RangeRule {
  int bits;
  bool stochastic;
  bool include_zero;
  bool bf16;  // dtype of the stored range: bfloat16, else float32
};

// Integers in the order of the floats; NaNs lie outside the infinities.
GX_HD int32_t order(float value) {
  const auto bits = static_cast<int32_t>(to_bits(value));
  return bits ^ ((bits >> 31) & INT32_MAX);
}

GX_HD float from_order(int32_t rank) {
  return from_bits(static_cast<uint32_t>(rank ^ ((rank >> 31) & INT32_MAX)));
}

// The range of floats from the extremes of their order, NaN if there is one among them.
GX_HD Range range_of_order(int32_t low, int32_t high) {
  const int32_t infinity = 0x7F800000;
  if (high > infinity || low < ~infinity) return {from_bits(0x7FC00000u), from_bits(0x7FC00000u)};
  return {from_order(low), from_order(high)};
}

GX_HD float grid_step(Range range, int levels) {
  return div(sub(range.hi, range.lo), static_cast<float>(levels));
}

// Move the range so that 0 is an exact grid point.
GX_HD Range snap_to_zero(Range range, const RangeRule& rule) {
  const int levels = (1 << rule.bits) - 1;
  const float lo = range.lo > 0.0f ? 0.0f : range.lo;
  const float hi = range.hi < 0.0f ? 0.0f : range.hi;
  const int spare = rule.stochastic && lo < 0.0f && hi > 0.0f ? 1 : 0;
  float step = div(sub(hi, lo), static_cast<float>(levels - spare));
  if (!(step < from_bits(0x7F800000u))) return {lo, hi};
  if (!(step > 0.0f)) return {0.0f, 0.0f};

  const int wanted = (rule.bf16 ? 8 : 24) - rule.bits;
  const int significant = wanted > 1 ? wanted : 1;
  const uint32_t mask = (1u << (24 - significant)) - 1u;
  step = from_bits((to_bits(step) + mask) & ~mask);

  const float position = div(-lo, step);
  float zero = rule.stochastic ? ceilf(position) : floorf(add(position, 0.5f));
  if (zero > static_cast<float>(levels)) zero = static_cast<float>(levels);
  return {-mul(zero, step), mul(sub(static_cast<float>(levels), zero), step)};
}

// From a block's extremes to the range that is stored.
GX_HD Range finish_range(Range range, const RangeRule& rule) {
  if (rule.include_zero) range = snap_to_zero(range, rule);
  if (rule.bf16 && rule.stochastic) {
    range = {bf16_down(range.lo), bf16_up(range.hi)};
  } else if (rule.bf16) {
    range = {bf16_nearest(range.lo), bf16_nearest(range.hi)};
  }
  return {add(range.lo, 0.0f), add(range.hi, 0.0f)};  // -0 becomes +0
}

// Position on the grid, clamped to [0, levels]; 0 for NaN.
GX_HD float grid_position(float x, float lo, float step, float levels) {
  float position = div(sub(x, lo), step);
  position = position > 0.0f ? position : 0.0f;
  return position < levels ? position : levels;
}

GX_HD int round_nearest(float position) { return static_cast<int>(add(position, 0.5f)); }

GX_HD int round_stochastic(float position, float rho) {
  const int below = static_cast<int>(position);
  const float fraction = sub(position, static_cast<float>(below));
  return below + (add(fraction, rho) >= 1.0f ? 1 : 0);
}

GX_HD float decode(int code, float lo, float step) {
  return add(mul(static_cast<float>(code), step), lo);
}

}  // namespace gx
