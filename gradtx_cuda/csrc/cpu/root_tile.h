// What is done with the tiles of products of square matrices in iterations for inverse roots.
#pragma once

#include <atomic>

#include "packed_tile.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace gx {

// A packed matrix: as panels of its rows, to stand left in a product, and as panels of its columns,
// to stand right. Both are the same memory of one that is symmetric; null is what nobody reads.
struct Sides {
  uint32_t *left, *right;
};

template <bool kHalf>
GX_WIDE_BF16 void write_sides(__m512i* x, const Place& at, const Sides& to, int64_t panels) {
  const int64_t steps = panels * kTileSteps<kHalf>;
  uint32_t* right = nullptr;
  uint32_t* left = nullptr;
  if (to.right != nullptr) right = to.right + place_of<kHalf>(at.column, steps, at.row);
  if (to.left != nullptr) left = to.left + place_of<kHalf>(at.row, steps, at.column);
  write_steps<kHalf>(x, right, left);
}

// Fetch what a tile will be written to.
template <bool kHalf>
inline void fetch_sides(const Place& at, const Sides& to, int64_t panels) {
  const int64_t steps = panels * kTileSteps<kHalf>;
  for (int64_t s = 0; s < kTileSteps<kHalf>; ++s) {
    if (to.right != nullptr) {
      __builtin_prefetch(to.right + place_of<kHalf>(at.column, steps, at.row) + s * kTile, 1);
    }
    if (to.left != nullptr) {
      __builtin_prefetch(to.left + place_of<kHalf>(at.row, steps, at.column) + s * kTile, 1);
    }
  }
}

// Write alpha times the product, less another matrix, plus a multiple of I. With `mirrors` tiles on
// and above the diagonal are the whole.
template <bool kHalf>
struct ProductEnd {
  const std::vector<Place>& places;
  int64_t panels;
  bool mirrors;
  float alpha, unit;
  Sides to;
  const uint32_t* minus = nullptr;  // in float32, packed to stand right; may be written too

  void fetch(int64_t u) const { fetch_sides<kHalf>(places[u], to, panels); }
  GX_AVX512_BF16 void finish(int64_t u, const float* sums) const;
};

template <bool kHalf>
GX_AVX512_BF16 inline void ProductEnd<kHalf>::finish(int64_t u, const float* sums) const {
  const Place& at = places[u];
  const bool diagonal = at.row == at.column;
  const uint32_t* less = minus + place_of<false>(at.column, panels * kTile, at.row);
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    const __mmask16 lane = diagonal ? static_cast<__mmask16>(1u << r) : __mmask16{0};
    __m512 sum = _mm512_mul_ps(_mm512_set1_ps(alpha), _mm512_loadu_ps(sums + r * kTile));
    if (minus != nullptr) sum = _mm512_sub_ps(sum, _mm512_loadu_ps(less + r * kTile));
    x[r] = _mm512_castps_si512(_mm512_mask_add_ps(sum, lane, sum, _mm512_set1_ps(unit)));
  }
  if (mirrors && diagonal) mirror(x);
  write_sides<kHalf>(x, at, to, panels);
}

// Write M of coupled Newton iterations, which the product is, and W = (1 + 1 / p) I - M / p.
template <bool kHalf>
struct NewtonEnd {
  const std::vector<Place>& places;
  int64_t n, panels;
  bool mirrors;
  float p, unit;           // unit is 1 + 1 / p
  Sides m, w;              // as M's products have them
  Sides wide_w, x;         // W and scale W in float32; or null
  float scale, tol;
  std::atomic<bool>* far;  // set where an entry of |M - I| reaches tol; or null

  void fetch(int64_t u) const {
    fetch_sides<kHalf>(places[u], m, panels);
    fetch_sides<kHalf>(places[u], w, panels);
  }
  GX_AVX512_BF16 void finish(int64_t u, const float* sums) const;
};

template <bool kHalf>
GX_AVX512_BF16 inline void NewtonEnd<kHalf>::finish(int64_t u, const float* sums) const {
  const Place& at = places[u];
  const bool diagonal = at.row == at.column;
  __m512i tile[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) tile[r] = _mm512_loadu_si512(sums + r * kTile);
  if (mirrors && diagonal) mirror(tile);
  write_sides<kHalf>(tile, at, m, panels);
  const __mmask16 columns = first_lanes(n - at.column * kTile);
  __mmask16 near = 0xFFFF;
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    const __mmask16 lane = diagonal ? static_cast<__mmask16>(1u << r) : __mmask16{0};
    const __m512 row = _mm512_castsi512_ps(tile[r]);
    const __m512 off = _mm512_mask_sub_ps(row, lane, row, _mm512_set1_ps(1.0f));
    const __mmask16 within =
        _mm512_cmp_ps_mask(_mm512_abs_ps(off), _mm512_set1_ps(tol), _CMP_LT_OQ);
    if (at.row * kTile + r < n) near &= within | static_cast<__mmask16>(~columns);
    const __m512 part = _mm512_div_ps(row, _mm512_set1_ps(-p));
    tile[r] = _mm512_castps_si512(_mm512_mask_add_ps(part, lane, part, _mm512_set1_ps(unit)));
  }
  if (far != nullptr && near != 0xFFFF) far->store(true, std::memory_order_relaxed);
  write_sides<kHalf>(tile, at, w, panels);
  if (wide_w.right != nullptr) write_sides<false>(tile, at, wide_w, panels);
  if (x.left == nullptr) return;
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    tile[r] = _mm512_castps_si512(
        _mm512_mul_ps(_mm512_castsi512_ps(tile[r]), _mm512_set1_ps(scale)));
  }
  write_sides<false>(tile, at, x, panels);
}

// Read a tile of a matrix (n, n), which goes on beyond its edges as I does.
GX_AVX512_BF16 inline void read_square(const float* x, int64_t n, const Place& at, float* tile) {
  const int64_t row = at.row * kTile, column = at.column * kTile;
  const __mmask16 lanes = first_lanes(n - column);
  for (int64_t r = 0; r < kTile; ++r) {
    __m512 v = _mm512_setzero_ps();
    if (row + r < n) {
      v = _mm512_maskz_loadu_ps(lanes, x + (row + r) * n + column);
    } else if (row == column) {
      v = _mm512_maskz_mov_ps(static_cast<__mmask16>(1u << r), _mm512_set1_ps(1.0f));
    }
    _mm512_storeu_ps(tile + r * kTile, v);
  }
}

// Write a tile of a matrix (n, n) that is packed in float32 to stand left.
GX_AVX512_BF16 inline void write_square(const uint32_t* left, int64_t panels, const Place& at,
                                        float* out, int64_t n) {
  const uint32_t* steps = left + place_of<false>(at.row, panels * kTile, at.column);
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int s = 0; s < kTile; ++s) x[s] = _mm512_load_si512(steps + s * kTile);
  transpose(x);
  write_plain(Plain<float>{out, n, n, n}, at.row * kTile, at.column * kTile, x);
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
