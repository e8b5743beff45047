// Symmetric systems of eight blocks at once, one in every lane of a register, for AVX-512.
//
// A matrix lies in panels of four rows: the element (4 i + a, k) of lane l is at
// panel(i)[(k * 4 + a) * 8 + l]. No operation crosses lanes.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "avx512.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace gx::fisher {

constexpr int64_t kLanes = 8, kTile = 4;
constexpr int64_t kStep = kTile * kLanes;  // numbers of one column of a panel

using Tile = __m512d[kTile][kTile];

GX_WIDE void load(const double* at, int64_t row, int64_t column, Tile& x) {
#pragma GCC unroll 4
  for (int a = 0; a < kTile; ++a) {
#pragma GCC unroll 4
    for (int b = 0; b < kTile; ++b) x[a][b] = _mm512_load_pd(at + a * row + b * column);
  }
}

GX_WIDE void store(const Tile& x, double* at, int64_t row, int64_t column) {
#pragma GCC unroll 4
  for (int a = 0; a < kTile; ++a) {
#pragma GCC unroll 4
    for (int b = 0; b < kTile; ++b) _mm512_store_pd(at + a * row + b * column, x[a][b]);
  }
}

// sums[a][b] +- the sum over k of x[k][a] y[k][b].
template <bool kMinus>
GX_WIDE void add_products(const double* x, const double* y, int64_t depth, Tile& sums) {
  for (int64_t k = 0; k < depth; ++k, x += kStep, y += kStep) {
    __m512d right[kTile];
#pragma GCC unroll 4
    for (int b = 0; b < kTile; ++b) right[b] = _mm512_load_pd(y + b * kLanes);
#pragma GCC unroll 4
    for (int a = 0; a < kTile; ++a) {
      const __m512d left = _mm512_load_pd(x + a * kLanes);
#pragma GCC unroll 4
      for (int b = 0; b < kTile; ++b) {
        sums[a][b] = kMinus ? _mm512_fnmadd_pd(left, right[b], sums[a][b])
                            : _mm512_fmadd_pd(left, right[b], sums[a][b]);
      }
    }
  }
}

// Eight registers of eight numbers become columns.
GX_WIDE void transpose(__m512d* x) {
  __m512d y[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm512_unpacklo_pd(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_pd(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d a = _mm512_shuffle_f64x2(y[i], y[i + 2], 0x88);
    const __m512d b = _mm512_shuffle_f64x2(y[i], y[i + 2], 0xDD);
    const __m512d c = _mm512_shuffle_f64x2(y[i + 4], y[i + 6], 0x88);
    const __m512d d = _mm512_shuffle_f64x2(y[i + 4], y[i + 6], 0xDD);
    x[i] = _mm512_shuffle_f64x2(a, c, 0x88);
    x[i + 4] = _mm512_shuffle_f64x2(a, c, 0xDD);
    x[i + 2] = _mm512_shuffle_f64x2(b, d, 0x88);
    x[i + 6] = _mm512_shuffle_f64x2(b, d, 0xDD);
  }
}

GX_INLINE __mmask8 first_eight(int64_t count) {
  return static_cast<__mmask8>((1u << std::clamp<int64_t>(count, 0, 8)) - 1);
}

// What eight blocks need: X, the lower triangle that becomes its Cholesky factor, columns of its
// inverse, sums of squares.
class Scratch {
 public:
  Scratch(int64_t size, int64_t depth, int64_t columns)
      : tiles_((size + kTile - 1) / kTile), depth_(depth) {
    const int64_t rows = tiles_ * kTile;
    const int64_t parts[] = {rows * depth * kLanes, kTile * kStep * tiles_ * (tiles_ + 1) / 2,
                             rows * kLanes, 2 * rows * kStep, (columns + 8) * kLanes};
    int64_t total = 0;
    for (int64_t n : parts) total += n;
    data_.reset(static_cast<double*>(
        ::operator new(static_cast<size_t>(total) * sizeof(double), std::align_val_t{64})));
    std::fill_n(data_.get(), total, 0.0);
    double** const starts[] = {&x_, &lower_, &inverse_, &columns_, &squares_};
    double* at = data_.get();
    for (int i = 0; i < 5; at += parts[i++]) *starts[i] = at;
  }

  int64_t tiles() const { return tiles_; }
  double* x(int64_t panel) const { return x_ + panel * depth_ * kStep; }
  double* lower(int64_t panel) const { return lower_ + panel * (panel + 1) / 2 * kTile * kStep; }
  double* inverse(int64_t row) const { return inverse_ + row * kLanes; }  // of L's diagonal
  double* columns(int64_t side) const { return columns_ + side * tiles_ * kTile * kStep; }
  double* squares(int64_t column) const { return squares_ + column * kLanes; }

 private:
  struct Free {
    void operator()(double* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  int64_t tiles_, depth_;
  std::unique_ptr<double, Free> data_;
  double *x_, *lower_, *inverse_, *columns_, *squares_;
};

// Rows that will be wanted next, copied together while others are computed with: each of them is on
// a page of its own, and distances that are powers of two share few lines of a cache.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const char* from, int64_t rows, int64_t stride, int64_t bytes, char* to)
      : from_(from), to_(to), rows_(rows), stride_(stride), bytes_(bytes) {}

  // All of it is to be done after so many calls of `copy`.
  void spread(int64_t calls) { pace_ = (rows_ + calls - 1) / calls; }
  void copy() {
    for (int64_t i = 0; i < pace_ && row_ < rows_; ++i, ++row_, to_ += bytes_) {
      if (row_ + kSoon < rows_) {
        const char* soon = from_ + (row_ + kSoon) * stride_;
        for (int64_t at = 0; at < bytes_; at += 64) __builtin_prefetch(soon + at, 0, 2);
      }
      std::memcpy(to_, from_ + row_ * stride_, static_cast<size_t>(bytes_));
    }
  }

 private:
  static constexpr int64_t kSoon = 2;
  const char* from_ = nullptr;
  char* to_ = nullptr;
  int64_t rows_ = 0, stride_ = 0, bytes_ = 0, row_ = 0, pace_ = 0;
};

// Lower triangle of the gram matrix: shift on the diagonal and X X^T, or what there is and X X^T.
GX_AVX512 inline void add_gram(const Scratch& s, int64_t depth, bool first, double shift,
                               Ahead ahead) {
  ahead.spread(s.tiles() * (s.tiles() + 1) / 2);
  for (int64_t i = 0; i < s.tiles(); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      ahead.copy();
      double* at = s.lower(i) + j * kTile * kStep;
      Tile sums;
      if (first) {
#pragma GCC unroll 4
        for (int a = 0; a < kTile; ++a) {
#pragma GCC unroll 4
          for (int b = 0; b < kTile; ++b) {
            sums[a][b] = _mm512_set1_pd(i == j && a == b ? shift : 0.0);
          }
        }
      } else {
        load(at, kLanes, kStep, sums);
      }
      add_products<false>(s.x(i), s.x(j), depth, sums);
      store(sums, at, kLanes, kStep);
    }
  }
}

// One tile of the diagonal becomes its Cholesky factor; lanes where that is none lose their bit.
GX_WIDE void factor_tile(Tile& x, double* inverse, __mmask8& there) {
#pragma GCC unroll 4
  for (int b = 0; b < kTile; ++b) {
#pragma GCC unroll 4
    for (int c = 0; c < b; ++c) {
#pragma GCC unroll 4
      for (int a = b; a < kTile; ++a) x[a][b] = _mm512_fnmadd_pd(x[a][c], x[b][c], x[a][b]);
    }
    const __m512d pivot = x[b][b], infinite = _mm512_set1_pd(__builtin_inf());
    there &= _mm512_cmp_pd_mask(pivot, _mm512_setzero_pd(), _CMP_GT_OQ) &
             _mm512_cmp_pd_mask(pivot, infinite, _CMP_LT_OQ);
    x[b][b] = _mm512_sqrt_pd(pivot);
    const __m512d by = _mm512_div_pd(_mm512_set1_pd(1.0), x[b][b]);
    _mm512_store_pd(inverse + b * kLanes, by);
#pragma GCC unroll 4
    for (int a = b + 1; a < kTile; ++a) x[a][b] = _mm512_mul_pd(x[a][b], by);
  }
}

// The gram matrix becomes L with L L^T equal to it. Gives the lanes where there is one.
GX_AVX512 inline __mmask8 factor(const Scratch& s) {
  __mmask8 there = 0xFF;
  for (int64_t i = 0; i < s.tiles(); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double* at = s.lower(i) + j * kTile * kStep;
      Tile sums;
      load(at, kLanes, kStep, sums);
      add_products<true>(s.lower(i), s.lower(j), j * kTile, sums);
      if (i == j) {
        factor_tile(sums, s.inverse(i * kTile), there);
      } else {
        const double* diagonal = s.lower(j) + j * kTile * kStep;
#pragma GCC unroll 4
        for (int b = 0; b < kTile; ++b) {
#pragma GCC unroll 4
          for (int c = 0; c < b; ++c) {
            const __m512d by = _mm512_load_pd(diagonal + c * kStep + b * kLanes);
#pragma GCC unroll 4
            for (int a = 0; a < kTile; ++a) {
              sums[a][b] = _mm512_fnmadd_pd(sums[a][c], by, sums[a][b]);
            }
          }
          const __m512d by = _mm512_load_pd(s.inverse(j * kTile + b));
#pragma GCC unroll 4
          for (int a = 0; a < kTile; ++a) sums[a][b] = _mm512_mul_pd(sums[a][b], by);
        }
      }
      store(sums, at, kLanes, kStep);
    }
  }
  return there;
}

// Four columns of L^-1 R from the panel `first` on, and their squares. R is X from its column
// `column` on, or the identity from that of panel `first` on.
template <bool kIdentity>
GX_AVX512 inline void solve(const Scratch& s, int64_t first, int64_t column, double* out,
                            double* squares) {
  __m512d total[kTile];
#pragma GCC unroll 4
  for (int b = 0; b < kTile; ++b) total[b] = _mm512_setzero_pd();
  for (int64_t i = first; i < s.tiles(); ++i) {
    Tile sums;
    if (kIdentity) {
#pragma GCC unroll 4
      for (int a = 0; a < kTile; ++a) {
#pragma GCC unroll 4
        for (int b = 0; b < kTile; ++b) sums[a][b] = _mm512_set1_pd(i == first && a == b ? 1 : 0);
      }
    } else {
      load(s.x(i) + column * kStep, kLanes, kStep, sums);
    }
    const int64_t from = first * kTile, skip = from * kStep;
    add_products<true>(s.lower(i) + skip, out + skip, i * kTile - from, sums);
    const double* diagonal = s.lower(i) + i * kTile * kStep;
#pragma GCC unroll 4
    for (int a = 0; a < kTile; ++a) {
#pragma GCC unroll 4
      for (int c = 0; c < a; ++c) {
        const __m512d by = _mm512_load_pd(diagonal + c * kStep + a * kLanes);
#pragma GCC unroll 4
        for (int b = 0; b < kTile; ++b) {
          sums[a][b] = _mm512_fnmadd_pd(by, sums[c][b], sums[a][b]);
        }
      }
      const __m512d by = _mm512_load_pd(s.inverse(i * kTile + a));
#pragma GCC unroll 4
      for (int b = 0; b < kTile; ++b) {
        sums[a][b] = _mm512_mul_pd(sums[a][b], by);
        total[b] = _mm512_fmadd_pd(sums[a][b], sums[a][b], total[b]);
      }
    }
    store(sums, out + i * kTile * kStep, kStep, kLanes);
  }
#pragma GCC unroll 4
  for (int b = 0; b < kTile; ++b) _mm512_store_pd(squares + b * kLanes, total[b]);
}

}  // namespace gx::fisher
#pragma GCC diagnostic pop
#endif
