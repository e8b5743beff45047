// Packing of signs; gradtx.ops.signs defines it.
#pragma once

#include "arith.h"

namespace gx {

// The byte of up to eight elements; element j is bit j.
template <typename T>
GX_HD uint8_t sign_byte(const T* x, int count) {
  unsigned byte = 0;
  for (int j = 0; j < count; ++j) byte |= static_cast<unsigned>(x[j] > T{0}) << j;
  return static_cast<uint8_t>(byte);
}

GX_HD bool sign_bit(uint8_t byte, int j) { return (byte >> j & 1) != 0; }

}  // namespace gx
