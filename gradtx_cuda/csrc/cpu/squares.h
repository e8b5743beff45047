// Sums of squares of float32 rows and columns: in float32, in float64 where that would not do.
#pragma once

#include "skinny_tile.h"

#if GX_HAS_AVX512
namespace gx {

// Between these a sum in float32 has lost nothing to the ends of its range.
constexpr float kLeastSum = 1e-20f, kMostSum = 1e30f;

GX_WIDE __m512d add_squares(__m256 x, __m512d sum) {
  const __m512d wide = _mm512_cvtps_pd(x);
  return _mm512_fmadd_pd(wide, wide, sum);
}

// The same of any numbers, of a row and of sixteen columns.
GX_WIDE double wide_squares(const float* x, int64_t count) {
  __m512d sums[2] = {};
  for (int64_t j = 0; j < count; j += kLane) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(count - j), x + j);
    sums[0] = add_squares(_mm512_castps512_ps256(v), sums[0]);
    sums[1] = add_squares(_mm512_extractf32x8_ps(v, 1), sums[1]);
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(sums[0], sums[1]));
}
GX_WIDE void wide_squares(const float* x, int64_t step, int64_t count, __mmask16 mask,
                          double* out) {
  __m512d sums[2] = {};
  for (int64_t i = 0; i < count; ++i) {
    const __m512 v = _mm512_maskz_loadu_ps(mask, x + i * step);
    sums[0] = add_squares(_mm512_castps512_ps256(v), sums[0]);
    sums[1] = add_squares(_mm512_extractf32x8_ps(v, 1), sums[1]);
  }
  _mm512_storeu_pd(out, sums[0]);
  _mm512_storeu_pd(out + kLane / 2, sums[1]);
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
    out[i] += sum > kLeastSum && sum < kMostSum ? sum : wide_squares(x.at(i, 0), columns);
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
    const __m512 found =
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    const __mmask16 fits = _mm512_cmp_ps_mask(found, _mm512_set1_ps(kLeastSum), _CMP_GT_OQ) &
                           _mm512_cmp_ps_mask(found, _mm512_set1_ps(kMostSum), _CMP_LT_OQ);
    float narrow[kLane];
    double wide[kLane];
    write(narrow, found);
    if ((fits & mask) != mask) wide_squares(x.at(0, j), x.row, rows, mask, wide);
    for (int64_t k = 0; k < std::min(kLane, columns - j); ++k) {
      out[j + k] += fits >> k & 1 ? narrow[k] : wide[k];
    }
  }
}

}  // namespace gx
#endif
