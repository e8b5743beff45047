// Tiles between the products of iterations: what a product ends with is written in the layouts in
// which the next products read it.
#pragma once

#include "tile_blocks.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace gx {

// Steps of the panels that have the sixteen rows, or columns, of a tile.
template <bool kHalf>
constexpr int64_t kTileSteps = kHalf ? kTile / 2 : kTile;

// Which words of two registers a butterfly of the transposition takes: of sixteen rows of eight
// words `kStage` = 0, 1, 2 gathers 4, 8, 16 rows of a step, `kHigh` of the second half of steps.
template <int kStage, int kHigh>
struct Butterfly {
  alignas(64) int32_t lanes[kTile] = {};

  constexpr Butterfly() {
    constexpr int kRows = 4 << kStage, kHalfRows = kRows / 2, kSteps = 4 >> kStage;
    for (int lane = 0; lane < kTile; ++lane) {
      const int step = lane / kRows + kHigh * kSteps, row = lane % kHalfRows;
      const int at = kStage == 0 ? row * 2 * kSteps + step : step * kHalfRows + row;
      lanes[lane] = lane % kRows / kHalfRows * kTile + at;
    }
  }
};
template <int kStage, int kHigh>
GX_WIDE_BASE __m512i butterfly() {
  static constexpr Butterfly<kStage, kHigh> kWords;
  return _mm512_load_si512(kWords.lanes);
}
template <int kStage>
GX_WIDE_BASE void exchange(__m512i& low, __m512i& high) {
  const __m512i a = low, b = high;
  low = _mm512_permutex2var_epi32(a, butterfly<kStage, 0>(), b);
  high = _mm512_permutex2var_epi32(a, butterfly<kStage, 1>(), b);
}

// A row of bfloat16 after the other, two a register, become a step after the other: what two
// columns have in each of the sixteen rows.
GX_WIDE_BASE void steps_of_columns(__m512i* x) {
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) exchange<0>(x[i], x[i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    exchange<1>(x[i], x[i + 2]);
    exchange<1>(x[i + 1], x[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) exchange<2>(x[i], x[i + 4]);
}

// The same rows, become a step after the other: what two rows have in each of the sixteen columns.
GX_WIDE_BF16 __m512i step_of_rows(__m512i two) {
  const __m256i low = _mm512_castsi512_si256(two), high = _mm512_extracti64x4_epi64(two, 1);
  return _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

// And back.
GX_WIDE_BF16 __m512i rows_of_step(__m512i step) {
  const __m256i low = _mm512_cvtepi32_epi16(step);
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(step, 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// Where a tile begins in packed panels.
template <bool kHalf>
constexpr int64_t place_of(int64_t panel, int64_t steps, int64_t tile) {
  return (panel * steps + tile * kTileSteps<kHalf>)*kTile;
}

// Write the columns of a tile a step after the other: sixteen rows, of bfloat16 two a register.
template <bool kHalf>
GX_WIDE_BF16 void write_columns(__m512i* x, uint32_t* out) {
  // Butterflies leave steps in the order of their reversed bits.
  constexpr int kReversed[8] = {0, 4, 2, 6, 1, 5, 3, 7};
  if constexpr (kHalf) {
    steps_of_columns(x);
  } else {
    transpose(x);
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTileSteps<kHalf>; ++t) {
    _mm512_store_si512(out + (kHalf ? kReversed[t % 8] : t) * kTile, x[t]);
  }
}

// Write a tile where its columns are the rows of a panel, and where its rows are; null for neither.
template <bool kHalf>
GX_WIDE_BF16 void write_steps(__m512i* x, uint32_t* rows, uint32_t* columns) {
  __m512i packed[kTileSteps<kHalf>];
#pragma GCC unroll 16
  for (int s = 0; s < kTileSteps<kHalf>; ++s) {
    __m512i step;
    if constexpr (kHalf) {
      packed[s] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(
          _mm512_castsi512_ps(x[2 * s + 1]), _mm512_castsi512_ps(x[2 * s])));
      step = step_of_rows(packed[s]);
    } else {
      step = packed[s] = x[s];
    }
    if (rows != nullptr) _mm512_store_si512(rows + s * kTile, step);
  }
  if (columns != nullptr) write_columns<kHalf>(packed, columns);
}

// Read the rows of a tile where its columns are the rows of a panel.
template <bool kHalf>
GX_WIDE_BF16 void read_steps(const uint32_t* rows, __m512* x) {
#pragma GCC unroll 16
  for (int s = 0; s < kTileSteps<kHalf>; ++s) {
    const __m512i step = _mm512_load_si512(rows + s * kTile);
    if constexpr (kHalf) {
      x[2 * s] = _mm512_castsi512_ps(_mm512_slli_epi32(step, 16));
      x[2 * s + 1] = _mm512_castsi512_ps(
          _mm512_and_si512(step, _mm512_set1_epi32(static_cast<int32_t>(0xFFFF0000u))));
    } else {
      x[s] = _mm512_castsi512_ps(step);
    }
  }
}

GX_WIDE_BF16 __m512 rounded(__m512 x) {
  const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Matrices as they come and go, and how a tile lies in them.
template <typename T>
struct Plain {
  T* data;
  int64_t rows, columns;
  int64_t row;  // distance of rows
};

GX_WIDE_BF16 void write_row(float* out, __mmask16 lanes, __m512i x) {
  _mm512_mask_storeu_epi32(out, lanes, x);
}
GX_WIDE_BF16 void write_row(uint16_t* out, __mmask16 lanes, __m512i x) {
  const __m256i half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_castsi512_ps(x)));
  _mm256_mask_storeu_epi16(out, lanes, half);
}

// Sixteen rows of a tile that begins at this row and column.
template <typename T>
GX_WIDE_BF16 void write_plain(const Plain<T>& to, int64_t row, int64_t column, const __m512i* x) {
  const __mmask16 lanes = first_lanes(to.columns - column);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    if (row + r < to.rows) write_row(to.data + (row + r) * to.row + column, lanes, x[r]);
  }
}

// A tile of a panel of columns becomes one of a panel of rows.
template <bool kHalf>
GX_AVX512_BF16 inline void turn_tile(const uint32_t* columns, uint32_t* rows) {
  __m512i x[kTileSteps<kHalf>];
#pragma GCC unroll 16
  for (int s = 0; s < kTileSteps<kHalf>; ++s) {
    const __m512i step = _mm512_load_si512(columns + s * kTile);
    x[s] = kHalf ? rows_of_step(step) : step;
  }
  write_columns<kHalf>(x, rows);
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
