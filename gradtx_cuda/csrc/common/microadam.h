// Arithmetic of one MicroAdam step; gradtx.ops.microadam defines it.
#pragma once

#include <cfloat>
#include <cmath>

#include "arith.h"

namespace gx {

// Hyperparameters of one leaf at one step.
struct MicroAdamRates {
  float gain1, gain2;  // (1 - b) / (1 - b^t)
  float eps, weight_decay, lr;
};

GX_HD float microadam_gain(double b, int64_t count) {
  return static_cast<float>((1.0 - b) / (1.0 - pow(b, static_cast<double>(count))));
}

// Weight of an update that is `age` steps old.
GX_HD float microadam_weight(double b, int64_t age) {
  return static_cast<float>(pow(b, static_cast<double>(age)));
}

// The number of steps done after one more. At the largest one it goes back by a window, so that the
// rows of the window go on taking turns.
GX_HD int32_t microadam_advanced(int32_t done, int64_t window) {
  return static_cast<int32_t>((done < INT32_MAX ? done : INT32_MAX - window) + 1);
}

// Above zero, so that 0 / (0 + eps) is 0; smaller than any root, so that it changes nothing else.
GX_HD float microadam_eps(double eps) {
  return eps == 0.0 ? FLT_MIN : static_cast<float>(eps);
}

// Adam's step from the sums over the window, before decay and learning rate.
GX_HD float microadam_update(float first, float second, const MicroAdamRates& r) {
  const float v = mul(r.gain2, second);
  const float scale = v > 0.0f ? root(v) : 0.0f;
  return div(mul(r.gain1, first), add(scale, r.eps));
}

// The parameter after the step.
GX_HD float microadam_moved(float p, float update, const MicroAdamRates& r) {
  const float change = r.weight_decay != 0.0f ? add(update, mul(r.weight_decay, p)) : update;
  return add(p, mul(change, -r.lr));
}

GX_HD uint16_t to_bf16(float value) {
  if (is_nan(value)) return 0x7FC0u;
  return static_cast<uint16_t>(to_bits(bf16_nearest(value)) >> 16);
}

GX_HD float from_bf16(uint16_t bits) { return from_bits(uint32_t{bits} << 16); }

}  // namespace gx
