// CPU kernel of normal numbers: sixteen Philox blocks at a time, then Box-Muller in float64.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../registration.h"
#include "philox_avx512.h"
#include "philox_lanes.h"

namespace gx {
namespace {

constexpr int64_t kLanes = kPhiloxLanes;
constexpr int64_t kGrain = 128;  // runs worth a thread

GX_INLINE uint64_t double_bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

GX_INLINE double double_from(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// By way of a signed number: every instruction set converts those.
GX_INLINE double widened(uint32_t word) {
  return static_cast<double>(static_cast<int32_t>(word ^ 0x80000000u)) + 0x1p31;
}

// The logarithm of a normal number in (0, 1]: k log 2 + 2 artanh(s) with s = (m - 1) / (m + 1) and
// m = x / 2^k in [sqrt(1/2), sqrt(2)).
GX_INLINE double logarithm(double x) {
  constexpr uint64_t kRootHalf = 0x3FE6A09E00000000u, kOne = 0x3FF0000000000000u;
  const uint64_t shifted = double_bits(x) + (kOne - kRootHalf);
  const double k = double_from((shifted >> 52) | 0x4330000000000000u) - (0x1p52 + 1023.0);
  const double m = double_from((shifted & 0x000FFFFFFFFFFFFFu) + kRootHalf);
  const double f = m - 1.0, s = f / (f + 2.0), z = s * s;
  double sum = 1.0 / 19;
  sum = sum * z + 1.0 / 17;
  sum = sum * z + 1.0 / 15;
  sum = sum * z + 1.0 / 13;
  sum = sum * z + 1.0 / 11;
  sum = sum * z + 1.0 / 9;
  sum = sum * z + 1.0 / 7;
  sum = sum * z + 1.0 / 5;
  sum = sum * z + 1.0 / 3;
  const double twice = s + s;
  return k * 0.693147180559945309417 + (twice + twice * (z * sum));
}

// Sine and cosine of word * 2 pi / 2^32, from their series within an eighth of a turn.
GX_INLINE void sine_cosine(uint32_t word, double* sine, double* cosine) {
  // Half a pi in two pieces; what is subtracted first has no rounding.
  constexpr double kHigh = 0x1.921fb544p0, kLow = 0x1.0b4611a626331p-34;
  const double angle = widened(word) * (6.283185307179586476925 * 0x1p-32);
  const uint32_t turns = (word >> 30) + ((word >> 29) & 1u);  // nearest quarter, up to 4
  const double quarters = static_cast<double>(static_cast<int32_t>(turns));
  const double r = (angle - quarters * kHigh) - quarters * kLow, z = r * r;
  double odd = 1.0 / 355687428096000.0;
  odd = odd * z - 1.0 / 1307674368000.0;
  odd = odd * z + 1.0 / 6227020800.0;
  odd = odd * z - 1.0 / 39916800.0;
  odd = odd * z + 1.0 / 362880.0;
  odd = odd * z - 1.0 / 5040.0;
  odd = odd * z + 1.0 / 120.0;
  odd = odd * z - 1.0 / 6.0;
  double even = 1.0 / 20922789888000.0;
  even = even * z - 1.0 / 87178291200.0;
  even = even * z + 1.0 / 479001600.0;
  even = even * z - 1.0 / 3628800.0;
  even = even * z + 1.0 / 40320.0;
  even = even * z - 1.0 / 720.0;
  even = even * z + 1.0 / 24.0;
  even = even * z - 0.5;
  const uint64_t s = double_bits(r + r * (z * odd)), c = double_bits(1.0 + z * even);
  const uint64_t quadrant = turns;
  const uint64_t swap = 0u - (quadrant & 1u), different = (s ^ c) & swap;
  *sine = double_from((s ^ different) ^ ((quadrant & 2u) << 62));
  *cosine = double_from((c ^ different) ^ (((quadrant + 1) & 2u) << 62));
}

// Pairs of words as pairs of normal numbers.
GX_INLINE void box_muller(const uint32_t (*words)[kLanes], float (*numbers)[kLanes]) {
  for (int64_t pair = 0; pair < 2; ++pair) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const double u = (widened(words[2 * pair][j]) + 1.0) * 0x1p-32;
      const double radius = std::sqrt(-2.0 * logarithm(u));
      double sine, cosine;
      sine_cosine(words[2 * pair + 1][j], &sine, &cosine);
      numbers[2 * pair][j] = static_cast<float>(radius * cosine);
      numbers[2 * pair + 1][j] = static_cast<float>(radius * sine);
    }
  }
}

GX_CLONES void draw(const PhiloxJob<float>& job, int64_t begin, int64_t end) {
  for (int64_t run = begin; run < end; ++run) {
    uint32_t words[4][kLanes];
    philox_run(job.key, run, words);
    float numbers[4][kLanes];
    box_muller(words, numbers);
    float row[kPhiloxRun];
    for (int64_t j = 0; j < kLanes; ++j) {
      row[4 * j] = numbers[0][j];
      row[4 * j + 1] = numbers[1][j];
      row[4 * j + 2] = numbers[2][j];
      row[4 * j + 3] = numbers[3][j];
    }
    const int64_t n = std::min(kPhiloxRun, job.numel - run * kPhiloxRun);
    std::memcpy(job.out + run * kPhiloxRun, row, n * sizeof(float));
  }
}

#if GX_HAS_AVX512

GX_AVX512 void draw_wide(const PhiloxJob<float>& job, int64_t begin, int64_t end) {
  for (int64_t run = begin; run < end; ++run) {
    alignas(64) uint32_t words[4][kLanes];
    alignas(64) float numbers[4][kLanes];
    __m512i drawn[4];
    philox_words(job.key, static_cast<uint64_t>(run * kLanes), drawn);
    for (int w = 0; w < 4; ++w) _mm512_store_si512(words[w], drawn[w]);
    box_muller(words, numbers);
    __m512 apart[4], row[4];
    for (int w = 0; w < 4; ++w) apart[w] = read(numbers[w]);
    interleave(apart, row);
    for (int64_t w = 0; w < 4; ++w) {
      const int64_t at = run * kPhiloxRun + w * kLanes;
      _mm512_mask_storeu_ps(job.out + at, first_lanes(job.numel - at), row[w]);
    }
  }
}

#endif

}  // namespace

Tensor random_normal_cpu(const Tensor& key, int64_t numel) {
  const Tensor pair = prepare_random_bits(key, numel);
  const Tensor out = torch::stable::new_empty(pair, {numel}, ScalarType::Float);
#if GX_HAS_AVX512
  philox_parallel<float>(pair, out, kGrain, has_avx512() ? draw_wide : draw);
#else
  philox_parallel<float>(pair, out, kGrain, draw);
#endif
  return out;
}

}  // namespace gx
