// CPU kernels of compression to columns of cosine components with error feedback.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "affine_blocks.h"
#include "columns.h"
#include "entry.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

// Rows of codes; each begins on a byte and has a range of its own.
struct Codes {
  uint8_t* codes;
  float* lo;
  float* hi;
  int64_t columns;
  int bits;

  int64_t bytes(int64_t numel) const { return numel * bits / 8; }
  int levels() const { return (1 << bits) - 1; }
};

GX_CLONES void add_decoded(const float* x, const Codes& error, int64_t begin, int64_t end,
                           float* out) {
  const int64_t n = error.columns;
  uint8_t buffer[kChunk];
  for (int64_t row = begin; row < end; ++row) {
    const float lo = error.lo[row], step = grid_step({lo, error.hi[row]}, error.levels());
    for (int64_t start = row * n, stop = start + n; start < stop; start += kChunk) {
      const int64_t count = std::min(kChunk, stop - start);
      const uint8_t* codes = error.codes + error.bytes(start);
      if (error.bits == 4) {
        unpack<4>(codes, error.bytes(count), buffer);
        codes = buffer;
      }
      for (int64_t i = 0; i < count; ++i) {
        out[start + i] = add(x[start + i], decode(codes[i], lo, step));
      }
    }
  }
}

GX_CLONES void encode_rows(const float* x, const Codes& error, int64_t begin, int64_t end) {
  const int64_t n = error.columns;
  const RangeRule rule{error.bits, false, false, false};
  uint8_t buffer[kChunk];
  for (int64_t row = begin; row < end; ++row) {
    const Range range = finish_range(extremes(x + row * n, n), rule);
    error.lo[row] = range.lo;
    error.hi[row] = range.hi;
    for (int64_t start = row * n, stop = start + n; start < stop; start += kChunk) {
      const int64_t count = std::min(kChunk, stop - start);
      uint8_t* codes = error.codes + error.bytes(start);
      encode_nearest(x + start, count, range, error.levels(), error.bits == 4 ? buffer : codes);
      if (error.bits == 4) pack<4>(buffer, error.bytes(count), codes);
    }
  }
}

template <typename Work>
void for_rows(int64_t rows, int64_t columns, const Work& work) {
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / columns), work);
}

// The chosen columns, or rows, of a matrix.
void take(const float* x, int64_t rows, int64_t columns, const std::vector<int64_t>& chosen,
          bool by_column, float* out) {
  const auto k = static_cast<int64_t>(chosen.size());
  if (by_column) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < k; ++j) out[i * k + j] = x[i * columns + chosen[j]];
    }
    return;
  }
  for (int64_t j = 0; j < k; ++j) std::copy_n(x + chosen[j] * columns, columns, out + j * columns);
}

}  // namespace
}  // namespace gx

// The functions below are given contiguous matrices, not empty, that the caller has checked.

// total <- x + error; spectrum <- its DCT along a dimension; its k largest columns or rows.
GX_ENTRY const char* gx_choose_columns(const float* x, uint8_t* codes, float* lo, float* hi,
                                       int64_t bits, int64_t rows, int64_t columns,
                                       const float* table, int64_t inverse, int64_t dim, int64_t k,
                                       int64_t squares, float* total, float* spectrum,
                                       int64_t* chosen, float* factor) {
  return gx::message_of([&] {
    const gx::Codes error{codes, lo, hi, columns, static_cast<int>(bits)};
    gx::for_rows(rows, columns, [&](int64_t begin, int64_t end) {
      gx::add_decoded(x, error, begin, end, total);
    });
    gx::dct_halves_of(total, rows, columns, table, inverse != 0, dim, spectrum);
    const std::vector<int64_t> found =
        gx::largest_of(spectrum, rows, columns, k, dim == 1, squares != 0, nullptr);
    std::copy(found.begin(), found.end(), chosen);
    gx::take(spectrum, rows, columns, found, dim == 1, factor);
  });
}

// error <- x
GX_ENTRY const char* gx_encode_rows(const float* x, uint8_t* codes, float* lo, float* hi,
                                    int64_t bits, int64_t rows, int64_t columns) {
  return gx::message_of([&] {
    const gx::Codes error{codes, lo, hi, columns, static_cast<int>(bits)};
    gx::for_rows(rows, columns, [&](int64_t begin, int64_t end) {
      gx::encode_rows(x, error, begin, end);
    });
  });
}
