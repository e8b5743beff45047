// Columns of a row-major matrix laid out as rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vectorize.h"

namespace gx {

constexpr int kTileSide = 16;
constexpr int kTileArea = kTileSide * kTileSide;

// Interleave both halves: rotates the bits of every position by one.
template <typename T>
GX_INLINE void perfect_shuffle(const T* x, T* y) {
  for (int i = 0; i < kTileArea / 2; ++i) {
    y[2 * i] = x[i];
    y[2 * i + 1] = x[i + kTileArea / 2];
  }
}

// A square tile: four shuffles swap the bits of its columns and rows.
template <typename T>
GX_INLINE void transpose_tile(const T* in, int64_t in_row, T* out, int64_t out_row) {
  T a[kTileArea], b[kTileArea];
  for (int64_t i = 0; i < kTileSide; ++i) {
    for (int j = 0; j < kTileSide; ++j) a[i * kTileSide + j] = in[i * in_row + j];
  }
  perfect_shuffle(a, b);
  perfect_shuffle(b, a);
  perfect_shuffle(a, b);
  perfect_shuffle(b, a);
  for (int64_t i = 0; i < kTileSide; ++i) {
    for (int j = 0; j < kTileSide; ++j) out[i * out_row + j] = a[i * kTileSide + j];
  }
}

// At most `kTileSide` columns of `n` numbers.
template <typename T>
GX_INLINE void transpose_columns(const T* in, int64_t in_row, int64_t n, int64_t columns, T* out,
                                 int64_t out_row) {
  const int64_t whole = columns == kTileSide ? n - n % kTileSide : 0;
  for (int64_t i = 0; i < whole; i += kTileSide) {
    transpose_tile(in + i * in_row, in_row, out + i, out_row);
  }
  for (int64_t i = whole; i < n; ++i) {
    for (int64_t j = 0; j < columns; ++j) out[j * out_row + i] = in[i * in_row + j];
  }
}

}  // namespace gx
