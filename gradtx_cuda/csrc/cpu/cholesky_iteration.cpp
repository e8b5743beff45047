// CPU kernel of steps of the LR algorithm: P^T S P + ridge I = L L^T, L^T L = M M^T, M^T M, packed between products.
#include <array>
#include <limits>
#include <optional>

#include "../registration.h"
#include "packed_squares.h"
#include "symmetric_product_tile.h"
#include "triangle_tile.h"

namespace gx {
namespace {

constexpr float kLeast = 0x1p-6f;  // of a share; what is less exact is of no use

using Iterated = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using OptionalTensor = std::optional<Tensor>;

// What the reference makes of other dtypes, and on other processors.
Iterated reference_iteration(const Tensor& s, const OptionalTensor& order,
                             const OptionalTensor& ridge) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(s), from(order), from(ridge)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::cholesky_iteration_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2]), to<Tensor>(stack[3])};
}

#if GX_HAS_AVX512

// One matrix.
class Iteration {
 public:
  static int64_t words(int64_t n) {
    const int64_t panels = (n + kTile - 1) / kTile;
    return 3 * SquareProducts::words<false>(n) + panels * kTileSize;
  }

  Iteration(const SquareProducts& products, uint32_t* scratch)
      : products_(products), n_(products.n), panels_(products.panels), steps_(panels_ * kTile) {
    const int64_t words = SquareProducts::words<false>(n_);
    for (uint32_t** x : {&rows_, &first_, &second_}) *x = std::exchange(scratch, scratch + words);
    inverses_ = reinterpret_cast<float*>(scratch);
  }

  // Returns the least squared pivot of M as a share of the diagonal of L^T L, or 0.
  float run(const float* s, const int32_t* order, float ridge, float* next, float* first,
            float* second) {
    least_ = std::numeric_limits<float>::infinity();
    const auto read = [&](Block& block) {
      block.each(block.diagonal(), [&](int64_t i, int64_t j, float* sums) {
        if (order != nullptr) {
          gather_square(s, n_, order, place(i, j), sums);
        } else {
          read_square(s, n_, place(i, j), sums);
        }
        if (i != j) return;
        for (int64_t lane = 0; lane < std::min(kTile, n_ - i * kTile); ++lane) {
          sums[lane * kTile + lane] += ridge;
        }
      });
    };
    if (!factor(read, {rows_, first_}, false)) return 0.0f;
    write_lower(first);
    const auto multiply = [&](Block& block) { multiply_columns(first_, block); };
    if (!factor(multiply, {rows_, second_}, true)) return 0.0f;
    write_lower(second);
    write_square_of(second_, next);
    return least_;
  }

 private:
  static Place place(int64_t i, int64_t j) {
    return {static_cast<int32_t>(i), static_cast<int32_t>(j), 0};
  }
  Block block_of(int64_t row, int64_t column) const {
    Block block;
    block.row = row;
    block.row_end = std::min(row + kBlock, panels_);
    block.column = column;
    block.column_end = std::min(column + kBlock, panels_);
    return block;
  }

  // The lower triangular factor of what `begin` puts into the sums of a block. Returns whether
  // there is one.
  template <typename Begin>
  bool factor(const Begin& begin, const Sides& to, bool measures) {
    for (int64_t column = 0; column < panels_; column += kBlock) {
      Block block = block_of(column, column);
      begin(block);
      if (!finish(block, to, measures)) return false;
      const int64_t below = column + kBlock;
      const int64_t blocks = (std::max(panels_ - below, int64_t{0}) + kBlock - 1) / kBlock;
      products_.for_each(blocks, kBlock * kBlock * kTile * (column + 1) * kTile, [&](int64_t b) {
        Block other = block_of(below + b * kBlock, column);
        begin(other);
        finish(other, to, false);
      });
    }
    return true;
  }

  bool finish(Block& block, const Sides& to, bool measures) {
    const Panels rows{to.left, steps_};
    const bool diagonal = block.diagonal();
    float before[kBlock * kTile];
    if (measures) {
      for (int64_t k = 0; k < (block.row_end - block.row) * kTile; ++k) {
        const int64_t j = block.row + k / kTile, lane = k % kTile;
        before[k] = block.at(j, j)[lane * kTile + lane];
      }
    }
    const int64_t start = block.column * kTile;
    add_products<true>(block, diagonal, rows, rows, 0, start,
                       [](int64_t, int64_t) { return int64_t{0}; });
    for (int64_t j = block.column; j < block.column_end; ++j) {
      float* inverse = inverses_ + j * kTileSize;
      for (int64_t i = diagonal ? j : block.row; i < block.row_end; ++i) {
        float* sums = block.at(i, j);
        if (j > block.column) {
          add_product<true>(rows.at(i, start), rows.at(j, start), j * kTile - start, sums);
        }
        if (i != j) {
          divide_tile(sums, inverse);
          pack_tile(sums, place(i, j), to, panels_);
          continue;
        }
        if (!factor_tile(sums)) return false;
        invert_tile(sums, inverse);
        alignas(64) float lower[kTileSize];
        transpose_tile(sums, lower);
        pack_tile(lower, place(i, j), to, panels_);
        if (!measures) continue;
        for (int64_t lane = 0; lane < kTile; ++lane) {
          const float pivot = sums[lane * kTile + lane];
          least_ = std::min(least_, pivot * pivot / before[(j - block.column) * kTile + lane]);
          if (!(least_ >= kLeast)) return false;
        }
      }
    }
    return true;
  }

  void write_lower(float* out) const {
    products_.for_each(panels_, kTile * steps_, [&](int64_t u) {
      const int64_t i = panels_ - 1 - u, right = std::min((i + 1) * kTile, n_);
      for (int64_t r = i * kTile; r < right; ++r) {
        std::fill_n(out + r * n_ + right, n_ - right, 0.0f);
      }
      for (int64_t j = 0; j <= i; ++j) write_square(rows_, panels_, place(i, j), out, n_);
    });
  }

  // A block on or below the diagonal of X^T X, of the columns of a lower triangular matrix.
  void multiply_columns(const uint32_t* x, Block& block) const {
    const Panels columns{x, steps_};
    block.each(block.diagonal(),
               [](int64_t, int64_t, float* sums) { std::fill_n(sums, kTileSize, 0.0f); });
    add_products<false>(block, block.diagonal(), columns, columns, block.row * kTile, steps_,
                        [](int64_t i, int64_t) { return i * kTile; });
  }

  void write_square_of(const uint32_t* x, float* out) const {
    std::vector<std::pair<int64_t, int64_t>> corners;
    for (int64_t row = 0; row < panels_; row += kBlock) {
      for (int64_t column = 0; column <= row; column += kBlock) corners.emplace_back(row, column);
    }
    const Result<float> to{out, n_, nullptr, 0, false, 0.0f, 1.0f};
    const auto write = [&](int64_t i, int64_t j, float* sums) {
      transpose_tile(sums, sums);
      gx::finish(to, place(j, i), sums);
    };
    products_.for_each(corners.size(), kBlock * kBlock * kTile * steps_, [&](int64_t c) {
      Block block = block_of(corners[c].first, corners[c].second);
      multiply_columns(x, block);
      block.each(block.diagonal(), write);
    });
  }

  const SquareProducts& products_;
  const int64_t n_, panels_, steps_;
  uint32_t *rows_, *first_, *second_;  // rows of L, then of M; columns of L; columns of M
  float* inverses_;                    // of the tiles on the diagonal, transposed
  float least_ = 0.0f;
};

Iterated iterate(const Tensor& s, const OptionalTensor& order, const OptionalTensor& ridge) {
  const int64_t batch = s.size(0), n = s.size(1), size = n * n;
  const auto square = [&] { return torch::stable::new_empty(s, {batch, n, n}); };
  const Tensor next = square(), first = square(), second = square();
  const Tensor least = torch::stable::new_empty(s, {batch});
  const Tensor from = torch::stable::contiguous(s);
  const auto* data = static_cast<const float*>(from.const_data_ptr());
  const auto to = [](const Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); };
  float *next_to = to(next), *first_to = to(first), *second_to = to(second), *share = to(least);
  std::fill_n(share, batch, std::numeric_limits<float>::infinity());
  const Orders orders(order, batch, n);
  OptionalTensor added;
  if (ridge.has_value()) added = torch::stable::contiguous(*ridge);
  const float* ridges =
      added.has_value() ? static_cast<const float*>(added->const_data_ptr()) : nullptr;
  if (batch * size == 0) return {next, first, second, least};
  for_squares(batch, n, Iteration::words(n),
              [&](const SquareProducts& products, uint32_t* scratch, int64_t m) {
                const int64_t at = m * size;
                Iteration iteration(products, scratch);
                share[m] = iteration.run(data + at, orders.of(m),
                                         ridges == nullptr ? 0.0f : ridges[m], next_to + at,
                                         first_to + at, second_to + at);
                if (share[m] > 0.0f) return;
                for (float* x : {next_to, first_to, second_to}) {
                  std::fill_n(x + at, size, std::numeric_limits<float>::quiet_NaN());
                }
              });
  return {next, first, second, least};
}
#endif

}  // namespace

Iterated cholesky_iteration_cpu(const Tensor& s, const std::optional<Tensor>& order,
                                const std::optional<Tensor>& ridge) {
  const ScalarType dtype = s.scalar_type();
  require(s.dim() == 3 && s.size(1) == s.size(2), "cholesky_iteration: s must be (batch, n, n)");
  require(dtype == ScalarType::Float || dtype == ScalarType::Double,
          "cholesky_iteration: s must be float32 or float64");
  require(!order.has_value() ||
              (order->dim() == 2 && order->size(0) == s.size(0) && order->size(1) == s.size(1) &&
               order->scalar_type() == ScalarType::Long),
          "cholesky_iteration: order must be (batch, n) of int64");
  require(!ridge.has_value() || (ridge->dim() == 1 && ridge->size(0) == s.size(0) &&
                                 ridge->scalar_type() == dtype),
          "cholesky_iteration: ridge must be (batch,) of the dtype of s");
#if GX_HAS_AVX512
  if (dtype == ScalarType::Float && has_float_tiles()) return iterate(s, order, ridge);
#endif
  return reference_iteration(s, order, ridge);
}

}  // namespace gx
