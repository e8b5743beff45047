// CPU kernel of orthonormal bases: the inverse of R from the Cholesky decomposition of Y^T Y in
// float64, and Q = Y R^-1 in float32; once more where Y is not close to orthogonal.
#include <cmath>
#include <vector>

#include "../registration.h"
#include "skinny_product.h"

namespace gx {
namespace {

#if GX_HAS_AVX512

constexpr int64_t kMostRank = 256;
constexpr int64_t kGramRows = 8, kGramColumns = 16, kGramDepth = 64, kGramParts = 16;
// Pivots of Y^T Y over its diagonal, and the largest and smallest diagonal.
constexpr double kPivot = 1e-12, kLarge = 1e60, kSmall = 1e-60;
// What Y R^-1 amplifies rounding by, squared: at most so much at first, and for the result.
constexpr double kRough = 1e10, kExact = 16;

// An upper triangle of rank x rank numbers in rows of `stride`.
struct Triangle {
  int64_t rank, stride;
  std::vector<double> x;

  explicit Triangle(int64_t r)
      : rank(r), stride(num_blocks(r, kGramColumns) * kGramColumns), x(stride * stride) {}
  double* row(int64_t i) { return x.data() + i * stride; }
};

// A tile of x^T x at (i, j), for the rows of x.
GX_AVX512 void gram_tile(const double* x, int64_t stride, int64_t depth, int64_t i, int64_t j,
                         double* out) {
  __m512d sums[kGramRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kGramRows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_pd();
  for (int64_t k = 0; k < depth; ++k, x += stride) {
    const __m512d low = _mm512_loadu_pd(x + j), high = _mm512_loadu_pd(x + j + 8);
#pragma GCC unroll 8
    for (int r = 0; r < kGramRows; ++r) {
      const __m512d left = _mm512_set1_pd(x[i + r]);
      sums[r][0] = _mm512_fmadd_pd(left, low, sums[r][0]);
      sums[r][1] = _mm512_fmadd_pd(left, high, sums[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kGramRows; ++r) {
    double* at = out + (i + r) * stride + j;
    _mm512_storeu_pd(at, _mm512_add_pd(_mm512_loadu_pd(at), sums[r][0]));
    _mm512_storeu_pd(at + 8, _mm512_add_pd(_mm512_loadu_pd(at + 8), sums[r][1]));
  }
}

GX_AVX512 void add_gram(const float* y, int64_t rows, Triangle& gram) {
  const int64_t rank = gram.rank, stride = gram.stride;
  std::vector<double> wide(kGramDepth * stride);
  for (int64_t start = 0; start < rows; start += kGramDepth) {
    const int64_t depth = std::min(kGramDepth, rows - start);
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = y + (start + k) * rank;
      for (int64_t j = 0; j < rank; ++j) wide[k * stride + j] = from[j];
    }
    for (int64_t j = 0; j < stride; j += kGramColumns) {
      for (int64_t i = 0; i < j + kGramColumns; i += kGramRows) {
        gram_tile(wide.data(), stride, depth, i, j, gram.x.data());
      }
    }
  }
}

// Y^T Y, of parts of the rows in parallel: as many whatever the number of threads, and so the same
// bits.
Triangle gram_of(const float* y, int64_t rows, int64_t rank) {
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>(kGramParts, rows * rank * rank / kGrain));
  std::vector<Triangle> grams(parts, Triangle(rank));
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const Share run = share(rows, parts, begin);
      add_gram(y + run.begin * rank, run.size, grams[begin]);
    }
  });
  for (int64_t i = 1; i < parts; ++i) {
    for (size_t j = 0; j < grams[0].x.size(); ++j) grams[0].x[j] += grams[i].x[j];
  }
  return std::move(grams[0]);
}

// x[j] -= the sum of c[k * c_stride] * rows[k * stride + j] over k, for 32 columns j.
GX_WIDE void subtract_rows(double* x, const double* c, int64_t c_stride, const double* rows,
                           int64_t stride, int64_t count, int64_t columns) {
  __m512d sums[4];
  __mmask8 masks[4];
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    masks[v] = static_cast<__mmask8>(first_lanes(std::max<int64_t>(0, columns - 8 * v)));
    sums[v] = _mm512_maskz_loadu_pd(masks[v], x + 8 * v);
  }
  for (int64_t k = 0; k < count; ++k) {
    const __m512d factor = _mm512_set1_pd(c[k * c_stride]);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m512d row = _mm512_maskz_loadu_pd(masks[v], rows + k * stride + 8 * v);
      sums[v] = _mm512_fnmadd_pd(factor, row, sums[v]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) _mm512_mask_storeu_pd(x + 8 * v, masks[v], sums[v]);
}

// G <- R with R^T R = G, if there is an R that is exact enough; below it lies anything.
GX_AVX512 bool factor(Triangle& g, const std::vector<double>& diagonal) {
  for (int64_t k = 0; k < g.rank; ++k) {
    double* row = g.row(k);
    for (int64_t j = k; j < g.rank; j += 32) {
      subtract_rows(row + j, g.row(0) + k, g.stride, g.row(0) + j, g.stride, k, g.rank - j);
    }
    if (!(row[k] > kPivot * diagonal[k])) return false;
    const double scale = 1 / std::sqrt(row[k]);
    for (int64_t j = k; j < g.rank; ++j) row[j] *= scale;
  }
  return true;
}

// R <- R^-1, from the last row up; below it lie zeros.
GX_AVX512 void invert(Triangle& r) {
  std::vector<double> above(r.rank);
  for (int64_t i = r.rank - 1; i >= 0; --i) {
    double* row = r.row(i);
    const double scale = 1 / row[i];
    std::copy(row + i, row + r.rank, above.begin() + i);
    std::fill(row, row + r.rank, 0.0);
    row[i] = 1;
    for (int64_t j = i; j < r.rank; j += 32) {
      const int64_t last = std::min(r.rank, j + 32);  // R^-1[k, j] = 0 for k > j
      subtract_rows(row + j, &above[i] + 1, 1, r.row(i + 1) + j, r.stride, last - i - 1,
                    r.rank - j);
    }
    for (int64_t j = i; j < r.rank; ++j) row[j] *= scale;
  }
}

// The largest sum over k of (R^-1[k, j] |y_k|)^2.
double amplification(Triangle& inverse, const std::vector<double>& diagonal) {
  std::vector<double> sums(inverse.rank);
  for (int64_t k = 0; k < inverse.rank; ++k) {
    const double* row = inverse.row(k);
    for (int64_t j = k; j < inverse.rank; ++j) sums[j] += row[j] * row[j] * diagonal[k];
  }
  return *std::max_element(sums.begin(), sums.end());
}

// q <- y R^-1 and what that amplifies rounding by; nothing, and infinity, without an R.
double divide(const float* y, float* q, int64_t rows, int64_t rank) {
  Triangle r = gram_of(y, rows, rank);
  std::vector<double> diagonal(rank);
  for (int64_t k = 0; k < rank; ++k) {
    diagonal[k] = r.row(k)[k];
    if (!(diagonal[k] > kSmall && diagonal[k] < kLarge)) return HUGE_VAL;
  }
  if (!factor(r, diagonal)) return HUGE_VAL;
  invert(r);
  const double grown = amplification(r, diagonal);
  if (!(grown < kRough)) return HUGE_VAL;
  std::vector<float> inverse(rank * r.stride);
  for (int64_t i = 0; i < rank; ++i) {
    for (int64_t j = i; j < rank; ++j) {
      inverse[i * r.stride + j] = static_cast<float>(r.row(i)[j]);
    }
  }
  multiply({{y, rank, 1}, {inverse.data(), r.stride, 1}, q, rank, 1, 0}, rows, rank, rank);
  return grown;
}

// The largest entry of each column, the first of equals, becomes positive.
GX_AVX512 void make_canonical(float* q, int64_t rows, int64_t rank) {
  for (int64_t j = 0; j < rank; j += kLane) {
    const __mmask16 mask = first_lanes(rank - j);
    __m512 largest = _mm512_setzero_ps(), magnitude = _mm512_setzero_ps();
    for (int64_t i = 0; i < rows; ++i) {
      const __m512 x = _mm512_maskz_loadu_ps(mask, q + i * rank + j), size = _mm512_abs_ps(x);
      const __mmask16 more = _mm512_cmp_ps_mask(size, magnitude, _CMP_GT_OQ);
      largest = _mm512_mask_mov_ps(largest, more, x);
      magnitude = _mm512_mask_mov_ps(magnitude, more, size);
    }
    const __m512 sign = _mm512_and_ps(largest, _mm512_set1_ps(-0.0f));
    for (int64_t i = 0; i < rows; ++i) {
      float* at = q + i * rank + j;
      _mm512_mask_storeu_ps(at, mask, _mm512_xor_ps(_mm512_maskz_loadu_ps(mask, at), sign));
    }
  }
}

bool orthonormalize(const float* y, float* q, int64_t rows, int64_t rank) {
  if (!has_avx512() || rows < rank || rank == 0 || rank > kMostRank) return false;
  double grown = divide(y, q, rows, rank);
  if (grown > kExact && grown < kRough) {
    const std::vector<float> near(q, q + rows * rank);
    grown = divide(near.data(), q, rows, rank);
  }
  if (!(grown <= kExact)) return false;
  make_canonical(q, rows, rank);
  return true;
}

#else

bool orthonormalize(const float*, float*, int64_t, int64_t) { return false; }

#endif

}  // namespace

Tensor orthonormalize__cpu(const Tensor& y, const Tensor& q) {
  require(y.dim() == 3 && q.dim() == 3, "orthonormalize_: y and q must be batches of matrices");
  for (int64_t i = 0; i < 3; ++i) {
    require(y.size(i) == q.size(i), "orthonormalize_: y and q must have the same shape");
  }
  require(y.size(1) >= y.size(2), "orthonormalize_: matrices must not have more columns than rows");
  require_apart("orthonormalize_", q, y);
  require(y.is_contiguous() && q.is_contiguous() && y.scalar_type() == ScalarType::Float &&
              q.scalar_type() == ScalarType::Float,
          "orthonormalize_: y and q must be contiguous and float32");
  const int64_t batch = y.size(0), rows = y.size(1), rank = y.size(2), size = rows * rank;
  const Tensor exact = torch::stable::new_empty(y, {batch}, ScalarType::Bool);
  const float* from = static_cast<const float*>(y.const_data_ptr());
  float* to = static_cast<float*>(q.mutable_data_ptr());
  bool* flags = static_cast<bool*>(exact.mutable_data_ptr());
  const auto work = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      flags[i] = orthonormalize(from + i * size, to + i * size, rows, rank);
    }
  };
  if (batch == 1) {
    work(0, 1);  // in parallel within
  } else {
    torch::stable::parallel_for(0, batch, 1, work);
  }
  return exact;
}

}  // namespace gx
