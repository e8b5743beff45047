// Register tiles and packed panels of float32 matrix products, for AVX-512.
#pragma once

#include <algorithm>

#include "avx512.h"

#if GX_HAS_AVX512
namespace gx {

constexpr int64_t kLane = 16;
constexpr int64_t kTileRows = 6, kTileVectors = 4;  // 24 of 32 registers hold sums

// An operand: the element (i, j) is data[i * row + j * column].
struct Operand {
  const float* data;
  int64_t row, column;

  const float* at(int64_t i, int64_t j) const { return data + i * row + j * column; }
};

// C <- beta C + alpha A B + gamma D, where C and D have contiguous rows; beta = 0 does not read C,
// and D may be null. If asked for, the squares of A's rows and of B's columns are added up, where
// rows are contiguous.
struct Product {
  Operand a, b;
  float* c;
  int64_t ldc;
  float alpha, beta;
  const float* d = nullptr;
  int64_t ldd = 0;
  float gamma = 1;
  double* a_squares = nullptr;
  double* b_squares = nullptr;

  // From the element (i, j) of C on.
  void move(int64_t i, int64_t j) {
    c += i * ldc + j;
    if (d != nullptr) d += i * ldd + j;
  }
};

// One tile of Rows x Vectors registers over `depth`; `last` masks the last column of registers.
// Meanwhile depth / 4 rows of `next.b`, a panel's width of it, come nearer, and the next tile of C.
// B is packed at `keep` on the way unless that is null.
template <int Rows, int Vectors>
GX_AVX512 void multiply_tile(const Product& p, int64_t depth, __mmask16 last, const Product& next,
                             float* keep) {
  const float* const more = next.d != nullptr ? next.d : next.c;
  const int64_t ld_more = next.d != nullptr ? next.ldd : next.ldc;
  __m512 sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_setzero_ps();
  }
  const float* a = p.a.data;
  const float* b = p.b.data;
  for (int64_t k = 0; k < depth; ++k, a += p.a.column, b += p.b.row) {
    __builtin_prefetch(next.b.at(k / kTileVectors, k % kTileVectors * kLane), 0, 2);
    if (const int64_t r = k / 8; r < Rows) {
      const float* line = k % 8 < 4 ? next.c + r * next.ldc : more + r * ld_more;
      __builtin_prefetch(line + k % 4 * kLane, 1);
    }
    __m512 right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      right[v] = _mm512_maskz_loadu_ps(v + 1 == Vectors ? last : 0xFFFF, b + v * kLane);
    }
    if (keep != nullptr) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) write(keep + v * kLane, right[v]);
      keep += Vectors * kLane;
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const __m512 left = _mm512_set1_ps(a[r * p.a.row]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_fmadd_ps(left, right[v], sums[r][v]);
    }
  }
  const __m512 alpha = _mm512_set1_ps(p.alpha), beta = _mm512_set1_ps(p.beta);
  const __m512 gamma = _mm512_set1_ps(p.gamma);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      float* c = p.c + r * p.ldc + v * kLane;
      const __mmask16 mask = v + 1 == Vectors ? last : 0xFFFF;
      __m512 sum = p.alpha == 1 ? sums[r][v] : _mm512_mul_ps(alpha, sums[r][v]);
      if (p.beta != 0) sum = _mm512_fmadd_ps(beta, _mm512_maskz_loadu_ps(mask, c), sum);
      if (p.d != nullptr) {
        const float* d = p.d + r * p.ldd + v * kLane;
        sum = _mm512_fmadd_ps(gamma, _mm512_maskz_loadu_ps(mask, d), sum);
      }
      _mm512_mask_storeu_ps(c, mask, sum);
    }
  }
}

using Tile = void (*)(const Product& p, int64_t depth, __mmask16 last, const Product& next,
                      float* keep);

inline Tile tile_of(int64_t rows, int64_t vectors) {
#define GX_TILES(r) \
  { multiply_tile<r, 1>, multiply_tile<r, 2>, multiply_tile<r, 3>, multiply_tile<r, 4> }
  static constexpr Tile kTiles[kTileRows][kTileVectors] = {GX_TILES(1), GX_TILES(2), GX_TILES(3),
                                                           GX_TILES(4), GX_TILES(5), GX_TILES(6)};
#undef GX_TILES
  return kTiles[rows - 1][vectors - 1];
}

// out[j * stride + i] = x[i * ld + j] for i < rows <= 16 and j < columns <= 16; 0 for other i.
GX_AVX512 inline void transpose16(const float* x, int64_t ld, int64_t rows, int64_t columns,
                                  float* out, int64_t stride) {
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    r[i] = _mm512_castps_si512(
        i < rows ? _mm512_maskz_loadu_ps(first_lanes(columns), x + i * ld) : _mm512_setzero_ps());
  }
  transpose(r);
  for (int j = 0; j < columns; ++j) write(out + j * stride, _mm512_castsi512_ps(r[j]));
}

// A panel of a right operand with contiguous columns: `vectors` registers a row, zeros beyond
// `width`.
GX_AVX512 inline void pack_right(const Operand& b, int64_t depth, int64_t width, int64_t vectors,
                                 float* out) {
  const int64_t stride = vectors * kLane;
  for (int64_t j = 0; j < stride; j += kLane) {
    for (int64_t k = 0; k < depth; k += kLane) {
      transpose16(b.at(k, j), b.column, std::min(kLane, width - j), std::min(kLane, depth - k),
                  out + k * stride + j, stride);
    }
  }
}

// A few rows of a left operand whose columns are contiguous, `rows` numbers a column.
GX_AVX512 inline void pack_left(const Operand& a, int64_t rows, int64_t depth, float* out) {
  const __mmask16 mask = first_lanes(rows);
  for (int64_t k = 0; k < depth; ++k) {
    _mm512_mask_storeu_ps(out + k * rows, mask, _mm512_maskz_loadu_ps(mask, a.at(0, k)));
  }
}

}  // namespace gx
#endif
