// CPU kernel that chooses the largest columns or rows of a matrix.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../common/checks.h"
#include "../registration.h"
#include "columns.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int64_t kRows = 64;      // whose sums are kept apart, whatever the number of threads
constexpr int kLanes = 16;

template <bool kSquares>
GX_INLINE float size_of(float x) {
  return kSquares ? x * x : std::fabs(x);
}

template <bool kSquares>
GX_INLINE void add_rows(const float* x, int64_t rows, int64_t n, float* sums) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) sums[j] += size_of<kSquares>(x[i * n + j]);
  }
}

template <bool kSquares>
GX_INLINE float sum_row(const float* x, int64_t n) {
  float lanes[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i] += size_of<kSquares>(x[j + i]);
  }
  for (int i = 0; j + i < n; ++i) lanes[i] += size_of<kSquares>(x[j + i]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Sums of some rows by column, or each row's own.
GX_CLONES void add_up(const float* x, int64_t rows, int64_t n, bool by_column, bool squares,
                      float* sums) {
  if (by_column) {
    squares ? add_rows<true>(x, rows, n, sums) : add_rows<false>(x, rows, n, sums);
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    sums[i] = squares ? sum_row<true>(x + i * n, n) : sum_row<false>(x + i * n, n);
  }
}

std::vector<float> all_sums(const float* x, int64_t rows, int64_t n, bool by_column,
                            bool squares) {
  const int64_t parts = num_blocks(rows, kRows);
  std::vector<float> sums(static_cast<size_t>(by_column ? parts * n : rows));
  torch::stable::parallel_for(
      0, parts, std::max<int64_t>(1, kGrain / (kRows * n)), [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
          const int64_t first = part * kRows, count = std::min(kRows, rows - first);
          add_up(x + first * n, count, n, by_column, squares,
                 sums.data() + (by_column ? part * n : first));
        }
      });
  if (by_column) {
    for (int64_t part = 1; part < parts; ++part) {
      for (int64_t j = 0; j < n; ++j) sums[j] += sums[part * n + j];
    }
    sums.resize(static_cast<size_t>(n));
  }
  return sums;
}

}  // namespace

std::vector<int64_t> largest_of(const float* x, int64_t rows, int64_t columns, int64_t k,
                                bool by_column, bool squares, const float* weights) {
  const int64_t n = by_column ? columns : rows;
  std::vector<float> scores(static_cast<size_t>(n));
  if (rows * columns > 0) scores = all_sums(x, rows, columns, by_column, squares);
  for (float& score : scores) score = squares ? std::sqrt(score) : score;
  if (weights != nullptr) {
    for (int64_t j = 0; j < n; ++j) scores[j] *= weights[j];
  }
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int64_t a, int64_t b) {
    const bool nan_a = std::isnan(scores[a]), nan_b = std::isnan(scores[b]);
    if (nan_a != nan_b) return nan_a;
    if (!nan_a && scores[a] != scores[b]) return scores[a] > scores[b];
    return a < b;
  };
  std::nth_element(order.begin(), order.begin() + k, order.end(), before);
  std::sort(order.begin(), order.begin() + k);
  order.resize(static_cast<size_t>(k));
  return order;
}

Tensor largest_columns_cpu(const Tensor& x, int64_t k, int64_t dim, bool squares,
                           const std::optional<Tensor>& weights) {
  require(x.dim() == 2 && x.scalar_type() == ScalarType::Float,
          "largest_columns: x must be a float32 matrix");
  require(dim == 0 || dim == 1, "largest_columns: dim must be 0 or 1, got ", dim);
  const int64_t n = x.size(dim);
  require(k >= 0 && k <= n, "largest_columns: k must be in [0, ", n, "], got ", k);
  if (weights) {
    require(weights->dim() == 1 && weights->size(0) == n &&
                weights->scalar_type() == ScalarType::Float && weights->device() == x.device(),
            "largest_columns: weights must be a float32 number for each");
  }
  const Tensor values = torch::stable::contiguous(x);
  std::optional<Tensor> factors;
  if (weights) factors = torch::stable::contiguous(*weights);
  const auto data = [](const Tensor& z) { return static_cast<const float*>(z.const_data_ptr()); };
  const std::vector<int64_t> found = largest_of(data(values), x.size(0), x.size(1), k, dim == 1,
                                                squares, factors ? data(*factors) : nullptr);
  const Tensor out = torch::stable::new_empty(x, {k}, ScalarType::Long);
  std::copy(found.begin(), found.end(), static_cast<int64_t*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace gx
