// Sums of squares of float32 rows and columns: in float32, in float64 where that would not do.
#pragma once

#include "skinny_tile.h"

#if GX_HAS_AVX512
namespace gx {

// Between these a sum in float32 has lost nothing to the ends of its range.
constexpr float kLeastSum = 1e-20f, kMostSum = 1e30f;

// The same for any numbers.
inline double wide_squares(const float* x, int64_t step, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i * step]) * x[i * step];
  return sum;
}

GX_WIDE float total(const __m512* sums) {
  const __m512 even = _mm512_add_ps(sums[0], sums[1]), odd = _mm512_add_ps(sums[2], sums[3]);
  return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

// For rows of which the elements lie side by side.
GX_AVX512 inline void add_row_squares(const Operand& x, int64_t rows, int64_t columns,
                                      double* out) {
  for (int64_t i = 0; i < rows; ++i) {
    __m512 sums[4] = {};
    int64_t j = 0;
    for (; j + 4 * kLane <= columns; j += 4 * kLane) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        const __m512 v = read(x.at(i, j + s * kLane));
        sums[s] = _mm512_fmadd_ps(v, v, sums[s]);
      }
    }
    for (; j < columns; j += kLane) {
      const __m512 v = _mm512_maskz_loadu_ps(first_lanes(columns - j), x.at(i, j));
      sums[0] = _mm512_fmadd_ps(v, v, sums[0]);
    }
    const float sum = total(sums);
    out[i] += sum > kLeastSum && sum < kMostSum ? sum : wide_squares(x.at(i, 0), 1, columns);
  }
}

// For a few columns of such rows.
GX_AVX512 inline void add_column_squares(const Operand& x, int64_t rows, int64_t columns,
                                         double* out) {
  for (int64_t j = 0; j < columns; j += kLane) {
    const __mmask16 mask = first_lanes(columns - j);
    __m512 sums[4] = {};
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        const __m512 v = _mm512_maskz_loadu_ps(mask, x.at(i + s, j));
        sums[s] = _mm512_fmadd_ps(v, v, sums[s]);
      }
    }
    for (; i < rows; ++i) {
      const __m512 v = _mm512_maskz_loadu_ps(mask, x.at(i, j));
      sums[0] = _mm512_fmadd_ps(v, v, sums[0]);
    }
    float found[kLane];
    write(found, _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    for (int64_t k = 0; k < std::min(kLane, columns - j); ++k) {
      const bool fits = found[k] > kLeastSum && found[k] < kMostSum;
      out[j + k] += fits ? found[k] : wide_squares(x.at(0, j + k), x.row, rows);
    }
  }
}

}  // namespace gx
#endif
