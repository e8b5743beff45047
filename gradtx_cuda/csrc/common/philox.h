// Philox-4x32-10 as gradtx.core.random defines it.
#pragma once

#include "arith.h"

namespace gx {

struct PhiloxKey {
  uint64_t seed;
  uint64_t counter;
};

struct PhiloxWords {
  uint32_t w0, w1, w2, w3;
};

GX_HD PhiloxWords philox(PhiloxWords c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c.w0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c.w2;
    c = PhiloxWords{static_cast<uint32_t>(p1 >> 32) ^ c.w1 ^ k0, static_cast<uint32_t>(p1),
                    static_cast<uint32_t>(p0 >> 32) ^ c.w3 ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Words of elements 4 * group .. 4 * group + 3 of the key's stream.
GX_HD PhiloxWords random_group(PhiloxKey key, uint64_t group) {
  const PhiloxWords counter{static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32),
                            static_cast<uint32_t>(key.counter),
                            static_cast<uint32_t>(key.counter >> 32)};
  return philox(counter, static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
}

// Uniform in [0, 1) with 24 bits.
GX_HD float uniform24(uint32_t word) {
  return mul(static_cast<float>(static_cast<int32_t>(word >> 8)), 0x1p-24f);
}

}  // namespace gx
