// CPU kernels of products with a window: dots with dense and sparse rows, sums of sparse rows.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "../common/window_products_op.h"
#include "../registration.h"

namespace gx {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kDense = 8192;  // elements of dense rows that are multiplied at a time
constexpr int64_t kGrain = 1 << 16;
constexpr int kLanes = 16;

template <typename Work>
void with_value(ScalarType dtype, const Work& work) {
  switch (dtype) {
    case ScalarType::Double: return work(double{});
    case ScalarType::Half: return work(Half{});
    case ScalarType::BFloat16: return work(BFloat16{});
    default: return work(float{});
  }
}

template <typename Work>
void with_index(ScalarType dtype, const Work& work) {
  switch (dtype) {
    case ScalarType::Short: return work(int16_t{});
    case ScalarType::Int: return work(int32_t{});
    default: return work(int64_t{});
  }
}

// The lanes of a sum in a fixed order.
double total(const double* lanes) {
  double half[kLanes / 2];
  for (int i = 0; i < kLanes / 2; ++i) half[i] = lanes[i] + lanes[i + kLanes / 2];
  double sum = 0;
  for (double x : half) sum += x;
  return sum;
}

template <typename Row, typename X>
double dense_dot(const Row* row, const X* x, int64_t n) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      lanes[j] += static_cast<double>(row[i + j]) * static_cast<double>(x[i + j]);
    }
  }
  for (int j = 0; i < n; ++i, ++j) {
    lanes[j] += static_cast<double>(row[i]) * static_cast<double>(x[i]);
  }
  return total(lanes);
}

// Sums of the columns of a table (parts, rows), one part after the other.
Tensor column_sums(const Tensor& like, const std::vector<double>& table, int64_t rows) {
  const Tensor out = torch::stable::new_empty(like, {rows}, ScalarType::Double);
  auto* sums = static_cast<double*>(out.mutable_data_ptr());
  std::fill_n(sums, rows, 0.0);
  for (size_t at = 0; at < table.size(); at += rows) {
    for (int64_t row = 0; row < rows; ++row) sums[row] += table[at + row];
  }
  return out;
}

}  // namespace

Tensor window_dots_cpu(const Tensor& rows, const Tensor& x) {
  require(rows.dim() == 2 && x.dim() == 1 && rows.size(1) == x.numel(),
          "window_dots: rows must be (m, n) and x (n,)");
  require(is_native(rows.scalar_type()) && is_wide(x.scalar_type()),
          "window_dots: rows must be floating, x float32 or float64");
  require(rows.device() == x.device(), "window_dots: all tensors must share a device");
  const Tensor matrix = torch::stable::contiguous(rows), vector = torch::stable::contiguous(x);
  const int64_t m = matrix.size(0), n = matrix.size(1), parts = num_blocks(n, kDense);
  std::vector<double> table(parts * m);
  with_value(matrix.scalar_type(), [&](auto row) {
    with_value(vector.scalar_type(), [&](auto number) {
      const auto* from = static_cast<const decltype(row)*>(matrix.const_data_ptr());
      const auto* of = static_cast<const decltype(number)*>(vector.const_data_ptr());
      const int64_t grain = std::max<int64_t>(1, kGrain / (kDense * std::max<int64_t>(m, 1)));
      torch::stable::parallel_for(0, parts, grain, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
          const int64_t start = part * kDense, count = std::min(kDense, n - start);
          for (int64_t i = 0; i < m; ++i) {
            table[part * m + i] = dense_dot(from + i * n + start, of + start, count);
          }
        }
      });
    });
  });
  return column_sums(rows, table, m);
}

Tensor sparse_window_dots_cpu(const Tensor& indices, const Tensor& values, const Tensor& x,
                              int64_t block_size, int64_t k) {
  const WindowGeometry g = require_sparse_dots(indices, values, x, block_size, k);
  const Tensor at = torch::stable::contiguous(indices), of = torch::stable::contiguous(values);
  const Tensor vector = torch::stable::contiguous(x);
  const int64_t pieces = pieces_of_block(k, g.columns);
  const int64_t parts = g.columns == 0 ? 0 : num_blocks(g.columns, k) * pieces;
  std::vector<double> table(parts * g.rows);
  std::atomic<bool> inside{true};
  with_index(at.scalar_type(), [&](auto index) {
    with_value(of.scalar_type(), [&](auto value) {
      with_value(vector.scalar_type(), [&](auto number) {
        const auto* places = static_cast<const decltype(index)*>(at.const_data_ptr());
        const auto* entries = static_cast<const decltype(value)*>(of.const_data_ptr());
        const auto* numbers = static_cast<const decltype(number)*>(vector.const_data_ptr());
        const auto work = [&](int64_t part) {
          const int64_t block = part / pieces, start = block * block_size;
          const uint64_t n = std::min(block_size, g.numel - start);
          const Entries some = piece_of(block, part % pieces, k, g.columns);
          for (int64_t row = 0; row < g.rows; ++row) {
            double sums[4] = {};
            uint64_t largest = 0;
            const int64_t base = row * g.columns;
            for (int64_t c = some.begin; c < some.end; ++c) {
              const auto i = static_cast<uint64_t>(static_cast<int64_t>(places[base + c]));
              largest = std::max(largest, i);
              if (i >= n) break;
              sums[c & 3] += static_cast<double>(entries[base + c]) *
                             static_cast<double>(numbers[start + i]);
            }
            if (some.begin < some.end && largest >= n) inside = false;
            table[part * g.rows + row] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
          }
        };
        torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
          for (int64_t part = begin; part < end; ++part) work(part);
        });
      });
    });
  });
  require(inside, "sparse_window_dots: an index points out of its block");
  return column_sums(values, table, g.rows);
}

Tensor sparse_window_combine_cpu(const Tensor& indices, const Tensor& values,
                                 const Tensor& weights, int64_t numel, int64_t block_size,
                                 int64_t k) {
  const WindowGeometry g = require_sparse_combine(indices, values, weights, numel, block_size, k);
  const Tensor out = torch::stable::new_empty(values, {numel}, sum_dtype(values));
  if (numel == 0) return out;
  const Tensor at = torch::stable::contiguous(indices), of = torch::stable::contiguous(values);
  const Tensor by = torch::stable::contiguous(weights);
  const auto* factors = static_cast<const double*>(by.const_data_ptr());
  std::atomic<bool> inside{true};
  with_index(at.scalar_type(), [&](auto index) {
    with_value(of.scalar_type(), [&](auto value) {
      using Sum = std::conditional_t<std::is_same_v<decltype(value), double>, double, float>;
      const auto* places = static_cast<const decltype(index)*>(at.const_data_ptr());
      const auto* entries = static_cast<const decltype(value)*>(of.const_data_ptr());
      auto* sums = static_cast<Sum*>(out.mutable_data_ptr());
      const auto work = [&](int64_t block) {
        const int64_t start = block * block_size;
        const uint64_t n = std::min(block_size, numel - start);
        std::fill_n(sums + start, n, Sum{0});
        const Entries some = entries_of(block, k, g.columns);
        for (int64_t row = 0; row < g.rows; ++row) {
          const auto factor = static_cast<Sum>(factors[row]);
          const int64_t base = row * g.columns;
          for (int64_t c = some.begin; c < some.end; ++c) {
            const auto i = static_cast<uint64_t>(static_cast<int64_t>(places[base + c]));
            if (i >= n) {
              inside = false;
              return;
            }
            sums[start + i] += factor * static_cast<Sum>(entries[base + c]);
          }
        }
      };
      const int64_t grain = std::max<int64_t>(1, kGrain / block_size);
      torch::stable::parallel_for(0, num_blocks(numel, block_size), grain,
                                  [&](int64_t begin, int64_t end) {
                                    for (int64_t block = begin; block < end; ++block) work(block);
                                  });
    });
  });
  require(inside, "sparse_window_combine: an index points out of its block");
  return out;
}

}  // namespace gx
