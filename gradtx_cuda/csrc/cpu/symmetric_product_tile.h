// Where a tile of a symmetric product goes: beta c + alpha sums, rounded and mirrored.
#pragma once

#include "tile_blocks.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace gx {

// The result, and what is added to it.
template <typename T>
struct Result {
  T* out;
  int64_t n;
  const void* c;  // or null
  int64_t c_row;
  bool half_c;
  float beta, alpha;
};

// Write sixteen rows and, mirrored, sixteen columns.
GX_WIDE_BF16 void write_tile(const Result<float>& to, const Place& at, __m512i* x) {
  const int64_t i = at.row * kTile, j = at.column * kTile, n = to.n;
  const int64_t rows = std::min(kTile, n - i), columns = std::min(kTile, n - j);
  const __mmask16 lanes = first_lanes(columns);
  float* out = to.out + i * n + j;
  for (int64_t r = 0; r < rows; ++r, out += n) _mm512_mask_storeu_epi32(out, lanes, x[r]);
  if (i == j) return;
  transpose(x);
  out = to.out + j * n + i;
  for (int64_t r = 0; r < columns; ++r, out += n) _mm512_storeu_si512(out, x[r]);
}
GX_WIDE_BF16 void write_tile(const Result<uint16_t>& to, const Place& at, __m512i* x) {
  const int64_t i = at.row * kTile, j = at.column * kTile;
  const __mmask16 lanes = first_lanes(to.n - j);
  const int64_t rows = to.n - i, columns = to.n - j;
  __m512i pairs[8], quads[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    const __m512 even = _mm512_castsi512_ps(x[2 * r]), odd = _mm512_castsi512_ps(x[2 * r + 1]);
    pairs[r] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    uint16_t* out = to.out + (i + 2 * r) * to.n + j;
    if (2 * r < rows) {
      _mm256_mask_storeu_epi16(out, lanes, _mm512_castsi512_si256(pairs[r]));
    }
    if (2 * r + 1 < rows) {
      _mm256_mask_storeu_epi16(out + to.n, lanes, _mm512_extracti64x4_epi64(pairs[r], 1));
    }
  }
  if (i == j) return;
  // Both numbers of a column side by side.
  const __m512i zipped = _mm512_or_si512(
      _mm512_cvtepu16_epi32(_mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)),
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23,
                                                               22, 21, 20, 19, 18, 17, 16)),
                        16));
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) pairs[r] = _mm512_permutexvar_epi16(zipped, pairs[r]);
#pragma GCC unroll 4
  for (int r = 0; r < 8; r += 2) {
    quads[r] = _mm512_unpacklo_epi32(pairs[r], pairs[r + 1]);
    quads[r + 1] = _mm512_unpackhi_epi32(pairs[r], pairs[r + 1]);
  }
  const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {  // columns 4 l + t lie in quarters l
    const int q = t / 2;
    const __m512i a = t % 2 == 0 ? _mm512_unpacklo_epi64(quads[q], quads[q + 2])
                                 : _mm512_unpackhi_epi64(quads[q], quads[q + 2]);
    const __m512i b = t % 2 == 0 ? _mm512_unpacklo_epi64(quads[q + 4], quads[q + 6])
                                 : _mm512_unpackhi_epi64(quads[q + 4], quads[q + 6]);
    const __m512i halves[2] = {_mm512_permutex2var_epi64(a, low, b),
                               _mm512_permutex2var_epi64(a, high, b)};
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) {
      if (4 * l + t >= columns) continue;
      uint16_t* out = to.out + (j + 4 * l + t) * to.n + i;
      const __m256i column = l % 2 == 0 ? _mm512_castsi512_si256(halves[l / 2])
                                        : _mm512_extracti64x4_epi64(halves[l / 2], 1);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), column);
    }
  }
}

// Fetch while the tile is multiplied what its end touches.
template <typename T>
GX_AVX512_BF16 inline void prefetch(const Result<T>& to, const Place& at) {
  const int64_t i = at.row * kTile, j = at.column * kTile;
  for (int64_t r = i; r < std::min(i + kTile, to.n); ++r) {
    __builtin_prefetch(to.out + r * to.n + j, 1);
    if (to.c != nullptr) {
      __builtin_prefetch(static_cast<const char*>(to.c) +
                         (r * to.c_row + j) * (to.half_c ? 2 : 4));
    }
  }
  for (int64_t r = j; r < std::min(j + kTile, to.n); ++r) {
    __builtin_prefetch(to.out + r * to.n + i, 1);
  }
}

// Sixteen rows of beta c + alpha times the sums, where `rows` and `columns` of c exist.
template <Factor kFactor, typename T>
GX_WIDE_BF16 void add_c(const Result<T>& to, int64_t at, int64_t rows, int64_t columns,
                        __m512i* x) {
  const __m512 beta = _mm512_set1_ps(to.beta);
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    if (r >= rows) break;
    const __m512 c = read_wide<kFactor>(to.c, at + r * to.c_row, columns);
    x[r] = _mm512_castps_si512(_mm512_fmadd_ps(beta, c, _mm512_castsi512_ps(x[r])));
  }
}
template <Factor kFactor, typename T>
GX_WIDE_BF16 void add_c(const Result<T>& to, const Place& at, __m512i* x) {
  const int64_t i = at.row * kTile, j = at.column * kTile;
  if (to.n - j >= kTile) {
    add_c<kFactor>(to, i * to.c_row + j, kTile, kTile, x);
  } else {
    add_c<kFactor>(to, i * to.c_row + j, to.n - i, to.n - j, x);
  }
}

template <typename T>
GX_AVX512_BF16 inline void finish(const Result<T>& to, const Place& at, const float* sums) {
  const __m512 alpha = _mm512_set1_ps(to.alpha);
  __m512i x[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    x[r] = _mm512_castps_si512(_mm512_mul_ps(alpha, _mm512_loadu_ps(sums + r * kTile)));
  }
  if (to.c != nullptr && to.half_c) {
    add_c<Factor::kHalf>(to, at, x);
  } else if (to.c != nullptr) {
    add_c<Factor::kFloat>(to, at, x);
  }
  if (at.row == at.column) mirror(x);
  write_tile(to, at, x);
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
