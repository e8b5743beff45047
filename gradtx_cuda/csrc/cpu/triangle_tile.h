// Blocks of tiles of triangular factors, and of what is divided by them.
#pragma once

#include <cfloat>
#include <optional>
#include <vector>

#include "root_tile.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace gx {

constexpr int64_t kTileSize = kTile * kTile;

// In which order the rows and columns of every matrix of a stack come.
class Orders {
 public:
  Orders(const std::optional<Tensor>& order, int64_t batch, int64_t n) : n_(n) {
    if (!order.has_value()) return;
    const Tensor all = torch::stable::contiguous(*order);
    const auto* from = static_cast<const int64_t*>(all.const_data_ptr());
    for (int64_t k = 0; k < batch * n; ++k) {
      require(from[k] >= 0 && from[k] < n, "order must have numbers from 0 to n - 1");
      numbers_.push_back(static_cast<int32_t>(from[k]));
    }
  }
  // Those of one matrix, or null.
  const int32_t* of(int64_t m) const { return numbers_.empty() ? nullptr : &numbers_[m * n_]; }

 private:
  int64_t n_;
  std::vector<int32_t> numbers_;
};

// Sixteen elements of a row, of which `lanes` exist.
GX_WIDE_BASE __m512 gather_row(const float* row, const int32_t* order, __mmask16 lanes) {
  const __m512i where = _mm512_maskz_loadu_epi32(lanes, order);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, where, row, sizeof(float));
}

// `read_square` of a matrix whose rows and columns come in another order.
GX_AVX512_BF16 inline void gather_square(const float* x, int64_t n, const int32_t* order,
                                         const Place& at, float* tile) {
  const int64_t row = at.row * kTile, column = at.column * kTile;
  const __mmask16 lanes = first_lanes(n - column);
  for (int64_t r = 0; r < kTile; ++r) {
    __m512 v = _mm512_setzero_ps();
    if (row + r < n) {
      v = gather_row(x + order[row + r] * n, order + column, lanes);
    } else if (row == column) {
      v = _mm512_maskz_mov_ps(static_cast<__mmask16>(1u << r), _mm512_set1_ps(1.0f));
    }
    _mm512_storeu_ps(tile + r * kTile, v);
  }
}

// `pack` of rows of floats whose steps come in another order.
GX_AVX512_BF16 inline void gather_steps(const Rows16& x, const int32_t* order, int64_t row,
                                        int64_t end, uint32_t* panel) {
  const auto* data = static_cast<const float*>(x.data);
  const int64_t rows = x.rows - row;
  for (int64_t k = 0; k < end; k += kTile) {
    __m512i steps[kTile];
    const __mmask16 lanes = first_lanes(x.depth - k);
    for (int64_t r = 0; r < kTile; ++r) {
      if (x.step == 1) {
        steps[r] = r < rows ? _mm512_castps_si512(
                                  gather_row(data + (row + r) * x.row, order + k, lanes))
                            : _mm512_setzero_si512();
      } else {
        steps[r] = k + r < x.depth ? read_floats(data, row + order[k + r] * x.step, rows)
                                   : _mm512_setzero_si512();
      }
    }
    if (x.step == 1) transpose(steps);
    for (int64_t r = 0; r < kTile; ++r) _mm512_store_si512(panel + (k + r) * kTile, steps[r]);
  }
}

// Tiles [row, row_end) x [column, column_end), at most kBlock a side, and their sums.
struct Block {
  int64_t row, row_end, column, column_end;
  alignas(64) float sums[kBlock * kBlock][kTileSize];

  float* at(int64_t i, int64_t j) { return sums[(i - row) * kBlock + j - column]; }
  bool diagonal() const { return row == column; }
  // Tiles on and below the diagonal are all that a diagonal block of a triangle has.
  template <typename Body>
  void each(bool lower, const Body& body) {
    for (int64_t i = row; i < row_end; ++i) {
      for (int64_t j = column; j < (lower ? std::min(column_end, i + 1) : column_end); ++j) {
        body(i, j, at(i, j));
      }
    }
  }
};

// Add the products of panels a_i and b_j from step `first(i, j)` up to `end` to a block's sums, or
// take them off; `begin` is the least first step.
template <bool kMinus, typename First>
void add_products(Block& to, bool lower, const Panels& a, const Panels& b, int64_t begin,
                  int64_t end, const First& first) {
  for (int64_t s = begin; s < end; s += kDepth) {
    const int64_t stop = std::min(s + kDepth, end);
    to.each(lower, [&](int64_t i, int64_t j, float* sums) {
      const int64_t from = std::max(s, first(i, j));
      if (from >= stop) return;
      add_product<kMinus>(a.at(i, from), b.at(j, from), stop - from, sums);
    });
  }
}

GX_WIDE_BF16 __m512 lane_of(const float* row, int64_t lane) { return _mm512_set1_ps(row[lane]); }

// The rows of U of a symmetric tile U^T U, zeros below the diagonal. Returns whether there is one.
GX_AVX512_BF16 inline bool factor_tile(float* tile) {
  for (int64_t c = 0; c < kTile; ++c) {
    const float pivot = tile[c * kTile + c];
    if (!(pivot > 0.0f && pivot <= FLT_MAX)) return false;
    const auto right = static_cast<__mmask16>(0xFFFFu << c);
    const __m512 root = _mm512_sqrt_ps(_mm512_set1_ps(pivot));
    const __m512 row = _mm512_maskz_div_ps(right, _mm512_load_ps(tile + c * kTile), root);
    _mm512_store_ps(tile + c * kTile, row);
    for (int64_t r = c + 1; r < kTile; ++r) {
      const __m512 below = _mm512_load_ps(tile + r * kTile);
      _mm512_store_ps(tile + r * kTile,
                      _mm512_fnmadd_ps(lane_of(tile + c * kTile, r), row, below));
    }
  }
  return true;
}

// The rows of U^-1.
GX_AVX512_BF16 inline void invert_tile(const float* upper, float* inverse) {
  for (int64_t r = kTile - 1; r >= 0; --r) {
    __m512 row = _mm512_maskz_mov_ps(static_cast<__mmask16>(1u << r), _mm512_set1_ps(1.0f));
    for (int64_t q = r + 1; q < kTile; ++q) {
      row = _mm512_fnmadd_ps(lane_of(upper + r * kTile, q), _mm512_load_ps(inverse + q * kTile),
                             row);
    }
    _mm512_store_ps(inverse + r * kTile, _mm512_div_ps(row, lane_of(upper + r * kTile, r)));
  }
}

GX_AVX512_BF16 inline void transpose_tile(const float* tile, float* to) {
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) x[r] = _mm512_loadu_si512(tile + r * kTile);
  transpose(x);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) _mm512_storeu_si512(to + r * kTile, x[r]);
}

// tile <- tile U^-1
GX_AVX512_BF16 inline void divide_tile(float* tile, const float* inverse) {
  alignas(64) float columns[kTileSize];
  transpose_tile(tile, columns);
  multiply<false>(reinterpret_cast<const uint32_t*>(columns),
                  reinterpret_cast<const uint32_t*>(inverse), kTile, true, tile);
}

GX_AVX512_BF16 inline void write_floats(const Plain<float>& to, int64_t row, int64_t column,
                                        const float* tile) {
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) x[r] = _mm512_loadu_si512(tile + r * kTile);
  write_plain(to, row, column, x);
}

GX_AVX512_BF16 inline void pack_tile(const float* tile, const Place& at, const Sides& to,
                                     int64_t panels) {
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) x[r] = _mm512_loadu_si512(tile + r * kTile);
  write_sides<false>(x, at, to, panels);
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
