// What is done with the tiles of products in Newton-Schulz iterations.
#pragma once

#include "packed_tile.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace gx {

// What is done with the tiles of a product that is symmetric: beta c + the sums.
template <bool kHalf>
struct SquareEnd {
  const std::vector<Place>& places;
  const float* c;      // tile by tile; or null
  float beta, alpha;   // of c, and of the sums
  bool rounds_c;       // c is rounded to what is multiplied before
  bool rounds;         // and the result
  float* tiles;        // or null
  uint32_t* packed;
  int64_t steps;

  void fetch(int64_t u) const {
    if (c == nullptr) return;
    for (int64_t r = 0; r < kTile; ++r) __builtin_prefetch(c + (u * kTile + r) * kTile);
  }
  GX_AVX512_BF16 void finish(int64_t u, const float* sums) const;
};

template <bool kHalf>
GX_AVX512_BF16 inline void SquareEnd<kHalf>::finish(int64_t u, const float* sums) const {
  const Place& at = places[u];
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    __m512 sum = _mm512_mul_ps(_mm512_set1_ps(alpha), _mm512_load_ps(sums + r * kTile));
    if (c != nullptr) {
      __m512 added = _mm512_load_ps(c + (u * kTile + r) * kTile);
      if (kHalf && rounds_c) added = rounded(added);
      sum = _mm512_fmadd_ps(_mm512_set1_ps(beta), added, sum);
    }
    if (kHalf && rounds) sum = rounded(sum);
    x[r] = _mm512_castps_si512(sum);
  }
  if (at.row == at.column) mirror(x);
  if (tiles != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) _mm512_store_si512(tiles + (u * kTile + r) * kTile, x[r]);
  }
  uint32_t* mirrored = packed + place_of<kHalf>(at.row, steps, at.column);
  write_steps<kHalf>(x, packed + place_of<kHalf>(at.column, steps, at.row),
                     at.row == at.column ? nullptr : mirrored);
}

// A matrix Y that is at least as long as wide, as panels of its columns.
struct Long {
  uint32_t* data;
  int64_t steps;

  template <bool kHalf>
  uint32_t* tile(int64_t i, int64_t j) const {
    return data + place_of<kHalf>(j, steps, i);
  }
};

// How elements of this type are multiplied.
template <bool kHalf, typename T>
constexpr Factor kFactorOf = sizeof(T) == 2 ? Factor::kHalf
                                            : (kHalf ? Factor::kRounded : Factor::kFloat);

// The sum of squares of rows, as they are multiplied.
template <bool kHalf, typename T>
GX_AVX512_BF16 inline double squares(const Plain<const T>& x, int64_t begin, int64_t end) {
  __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t k = 0; k < x.columns; k += kTile) {
      const __m512 v = read_wide<kFactorOf<kHalf, T>>(x.data, r * x.row + k, x.columns - k);
      const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
      const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
      sums[0] = _mm512_fmadd_pd(low, low, sums[0]);
      sums[1] = _mm512_fmadd_pd(high, high, sums[1]);
    }
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(sums[0], sums[1]));
}

// Tile (i, j) of a matrix, divided by its size, is a tile of Y or of its transpose.
template <bool kHalf, typename T>
GX_AVX512_BF16 inline void read_tile(const Plain<const T>& x, int64_t i, int64_t j, float size,
                                     bool tall, const Long& y) {
  const int64_t column = j * kTile, left = x.columns - column;
  __m512i tile[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    const int64_t row = i * kTile + r;
    const __m512 v = row < x.rows
                         ? read_wide<kFactorOf<kHalf, T>>(x.data, row * x.row + column, left)
                         : _mm512_setzero_ps();
    tile[r] = _mm512_castps_si512(_mm512_div_ps(v, _mm512_set1_ps(size)));
  }
  if (tall) {
    write_steps<kHalf>(tile, y.tile<kHalf>(i, j), nullptr);
  } else {
    write_steps<kHalf>(tile, nullptr, y.tile<kHalf>(j, i));
  }
}

// What is done with the tiles of some rows of Y Q: a Y + Y Q is Y from now on, or the result.
template <bool kHalf, typename T>
struct LongEnd {
  const std::vector<Place>& places;
  int64_t first;  // of the rows of tiles
  float a;        // or 0 for no sum
  Long y;
  bool is_last, tall;
  float scale;  // of the result
  Plain<T> out;

  void fetch(int64_t u) const {
    const uint32_t* tile = y.tile<kHalf>(first + places[u].row, places[u].column);
    for (int64_t s = 0; s < kTileSteps<kHalf>; ++s) __builtin_prefetch(tile + s * kTile, 1);
  }
  GX_AVX512_BF16 void finish(int64_t u, const float* sums) const;
};

template <bool kHalf, typename T>
GX_AVX512_BF16 inline void LongEnd<kHalf, T>::finish(int64_t u, const float* sums) const {
  const int64_t i = first + places[u].row, j = places[u].column;
  uint32_t* tile = y.tile<kHalf>(i, j);
  __m512 old[kTile];
  __m512i x[kTile];
  if (a != 0.0f) read_steps<kHalf>(tile, old);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    __m512 sum = _mm512_load_ps(sums + r * kTile);
    if (a != 0.0f) sum = _mm512_fmadd_ps(_mm512_set1_ps(a), old[r], sum);
    if (kHalf) sum = rounded(sum);
    if (is_last) sum = _mm512_mul_ps(sum, _mm512_set1_ps(scale));
    x[r] = _mm512_castps_si512(sum);
  }
  if (!is_last) {
    write_steps<kHalf>(x, tile, nullptr);
  } else if (tall) {
    write_plain(out, i * kTile, j * kTile, x);
  } else {
    transpose(x);
    write_plain(out, j * kTile, i * kTile, x);
  }
}

// Add a to the diagonal of tile (i, i), which is tile u.
template <bool kHalf>
GX_AVX512_BF16 inline void add_diagonal(float a, bool rounds, float* tile, uint32_t* packed) {
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    const __mmask16 lane = static_cast<__mmask16>(1u << r);
    __m512 row = _mm512_load_ps(tile + r * kTile);
    row = _mm512_mask_add_ps(row, lane, row, _mm512_set1_ps(a));
    if (kHalf && rounds) row = rounded(row);
    _mm512_store_ps(tile + r * kTile, row);
    x[r] = _mm512_castps_si512(row);
  }
  write_steps<kHalf>(x, packed, nullptr);
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
