// CPU kernels of Fisher matrices of blocks: factor and diagonal of their inverses, and products.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "../registration.h"
#include "block_fisher_tile.h"

namespace gx {
namespace {

// The gradients of a vector cut into blocks, and which system stands for a block: of as many
// unknowns as it has entries, or as there are gradients.
struct Shape {
  int64_t m, n, block, blocks, size;
  bool by_entries;
  double damping;

  Shape(const Tensor& gradients, int64_t width, double damp)
      : m(gradients.size(0)),
        n(gradients.size(1)),
        block(std::min(width, std::max<int64_t>(n, 1))),
        blocks(num_blocks(n, block)),
        size(std::min(m, block)),
        by_entries(block <= m),
        damping(damp) {}
  int64_t packed() const { return size * (size + 1) / 2; }
  int64_t entries(int64_t b) const { return std::clamp<int64_t>(n - b * block, 0, block); }
};

void require_blocks(const char* op, const Tensor& gradients, int64_t block, double damping) {
  const ScalarType dtype = gradients.scalar_type();
  require(gradients.dim() == 2 && gradients.size(0) >= 1 &&
              (dtype == ScalarType::Float || dtype == ScalarType::Double),
          op, ": gradients must be a matrix of float32 or float64 with at least one row");
  require(block >= 1, op, ": block must be >= 1, got ", block);
  require(damping > 0 && std::isfinite(damping), op, ": damping must be > 0, got ", damping);
}

// What the reference makes of them on other processors.
BlockOutputs reference_factor(const Tensor& gradients, int64_t block, double damping) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(gradients), from(block), from(damping)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::block_fisher_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

Tensor reference_times(const Tensor& gradients, const Tensor& factor, const Tensor& x,
                       int64_t block, double damping) {
  using torch::stable::detail::from;
  std::array<StableIValue, 5> stack{from(gradients), from(factor), from(x), from(block),
                                    from(damping)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::block_fisher_times_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

constexpr int64_t kDepth = 32;           // columns of X that are there at once, at least
constexpr int64_t kNear = 1 << 12;       // of its elements, of eight blocks each: they stay in L2
constexpr int64_t kLine = 16;            // entries that are packed together, a line of float32
constexpr int64_t kGrain = 1 << 18;      // numbers worth a thread
constexpr int64_t kLarge = 1 << 22;      // bytes for which large pages are asked

// Large pages: a few faults instead of many.
void prefer_large_pages(const Tensor& x) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(x.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t end = (begin + x.numel() * sizeof(double)) / kPage * kPage;
  if (end > first + kLarge) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)x;
#endif
}

GX_WIDE __m512d read(const float* x, __mmask8 mask) {
  return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, x));
}
GX_WIDE __m512d read(const double* x, __mmask8 mask) { return _mm512_maskz_loadu_pd(mask, x); }

template <typename T>
struct Rows {
  const T* data;
  int64_t stride;

  const T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

// Entries [entry, entry + 8) of eight blocks from `first` on, one register an entry, from a row that
// begins with theirs.
template <typename T>
GX_WIDE void gather(const Shape& shape, const T* row, int64_t first, int64_t entry, __m512d* x) {
  const T* at = row + entry;
  if ((first + fisher::kLanes) * shape.block <= shape.n && entry + 8 <= shape.block) {
#pragma GCC unroll 8
    for (int l = 0; l < fisher::kLanes; ++l) x[l] = read(at + l * shape.block, 0xFF);
  } else {
    for (int64_t l = 0; l < fisher::kLanes; ++l) {
      const int64_t left = first + l < shape.blocks ? shape.entries(first + l) - entry : 0;
      x[l] = left > 0 ? read(at + l * shape.block, fisher::first_eight(left))
                      : _mm512_setzero_pd();
    }
  }
  fisher::transpose(x);
}

// X of eight blocks, its columns [begin, end), from rows that begin with their entries: gradients
// are the rows of X if the system's unknowns are gradients, and its columns otherwise.
template <typename T>
GX_AVX512 void pack(const Shape& shape, const Rows<T>& rows, int64_t first, int64_t begin,
                    int64_t end, const fisher::Scratch& s) {
  using fisher::kLanes, fisher::kStep, fisher::kTile;
  __m512d x[8];
  if (shape.by_entries) {
    for (int64_t line = 0; line < shape.block; line += kLine) {
      for (int64_t k = 0; k < end - begin; ++k) {
        for (int64_t c = line; c < std::min(line + kLine, shape.block); c += 8) {
          gather(shape, rows.at(k, 0), first, c, x);
          double* at = s.x(c / kTile) + k * kStep;
#pragma GCC unroll 4
          for (int i = 0; i < kTile; ++i) _mm512_store_pd(at + i * kLanes, x[i]);
          if (c / kTile + 1 == s.tiles()) continue;
          at = s.x(c / kTile + 1) + k * kStep;
#pragma GCC unroll 4
          for (int i = 0; i < kTile; ++i) _mm512_store_pd(at + i * kLanes, x[kTile + i]);
        }
      }
    }
  } else {
    for (int64_t row = 0; row < shape.m; ++row) {
      double* at = s.x(row / kTile) + row % kTile * kLanes;
      for (int64_t c = begin; c < end; c += 8) {
        gather(shape, rows.at(row, 0), first, c, x);
        for (int64_t i = 0; i < 8 && c + i < end; ++i) {
          _mm512_store_pd(at + (c + i - begin) * kStep, x[i]);
        }
      }
    }
  }
}

// L^-1 of eight blocks, its lower triangle row by row; NaN where there is none. The squares of its
// columns are kept.
GX_AVX512 void write_inverse(const Shape& shape, int64_t first, __mmask8 there,
                             const fisher::Scratch& s, double* out) {
  using fisher::kLanes, fisher::kStep, fisher::kTile;
  const int64_t lanes = std::min(kLanes, shape.blocks - first);
  const __m512d nan = _mm512_set1_pd(std::numeric_limits<double>::quiet_NaN());
  for (int64_t j = 0; j < s.tiles(); j += 2) {
    for (int64_t side = 0; side < std::min<int64_t>(2, s.tiles() - j); ++side) {
      fisher::solve<true>(s, j + side, 0, s.columns(side), s.squares((j + side) * kTile));
    }
    const int64_t column = j * kTile;
    for (int64_t row = column; row < shape.size; ++row) {
      __m512d x[8];
#pragma GCC unroll 8
      for (int b = 0; b < 8; ++b) {
        x[b] = _mm512_load_pd(s.columns(b / kTile) + row * kStep + b % kTile * kLanes);
        x[b] = _mm512_mask_mov_pd(nan, there, x[b]);
      }
      fisher::transpose(x);
      const __mmask8 mask = fisher::first_eight(row + 1 - column);
      double* at = out + first * shape.packed() + row * (row + 1) / 2 + column;
      for (int64_t l = 0; l < lanes; ++l, at += shape.packed()) {
        _mm512_mask_storeu_pd(at, mask, x[l]);
      }
    }
  }
}

// The diagonal of F^-1 from the sums of squares, entry by entry.
GX_AVX512 void write_diagonal(const Shape& shape, int64_t first, int64_t begin, int64_t end,
                              __mmask8 there, const fisher::Scratch& s, double* out) {
  using fisher::kLanes;
  const double least = 1e-12 / shape.damping;
  for (int64_t c = begin; c < end; ++c) {
    const double* squares = s.squares(c - begin);
    for (int64_t l = 0; l < kLanes; ++l) {
      const int64_t b = first + l;
      if (b >= shape.blocks || c >= shape.entries(b)) break;
      const double value = shape.by_entries
                               ? static_cast<double>(shape.m) * squares[l]
                               : std::max(1 - squares[l], 1e-12) / shape.damping;
      out[b * shape.block + c] = (there >> l & 1) == 0 ? std::numeric_limits<double>::quiet_NaN()
                                                       : std::max(value, least);
    }
  }
}

// How many columns of X are there at once.
int64_t depth_of(const Shape& shape) {
  const int64_t columns = shape.by_entries ? shape.m : shape.block;
  return std::min(columns, std::max(kDepth, kNear / shape.size));
}

// Gradients of eight blocks and then of the next, as many rows at a time as pack takes. They are
// copied together while those before are computed with.
template <typename T>
class Parts {
 public:
  Parts(const Shape& shape, const Rows<T>& rows, int64_t begin, int64_t end)
      : shape_(shape),
        rows_(rows),
        group_(begin),
        end_(end),
        height_(shape.by_entries ? depth_of(shape) : shape.m),
        here_(static_cast<size_t>(height_ * fisher::kLanes * shape.block)) {
    fisher::Ahead first = ahead();
    first.spread(1);
    first.copy();
  }

  Rows<T> here() const { return {here_.data(), columns_}; }

  // What is there after the present rows, in the same place.
  fisher::Ahead next() {
    row_ += height_;
    if (row_ >= shape_.m) row_ = 0, ++group_;
    return ahead();
  }

 private:
  fisher::Ahead ahead() {
    if (group_ >= end_) return {};
    const int64_t width = fisher::kLanes * shape_.block, start = group_ * width;
    columns_ = std::min(width, shape_.n - start);
    constexpr int64_t kBytes = sizeof(T);
    return {reinterpret_cast<const char*>(rows_.at(row_, start)),
            std::min(height_, shape_.m - row_), rows_.stride * kBytes, columns_ * kBytes,
            reinterpret_cast<char*>(here_.data())};
  }

  const Shape& shape_;
  const Rows<T>& rows_;
  int64_t group_, end_, height_, row_ = 0, columns_ = 0;
  std::vector<T> here_;
};

template <typename T>
GX_AVX512 void factor_blocks(const Shape& shape, const Rows<T>& rows, int64_t begin, int64_t end,
                             double* factor, double* diagonal) {
  const int64_t columns = shape.by_entries ? shape.m : shape.block, depth = depth_of(shape);
  const double shift = static_cast<double>(shape.m) * shape.damping;
  const fisher::Scratch s(shape.size, depth, std::max(shape.size, depth));
  std::optional<Parts<T>> parts;
  if (shape.by_entries || depth == columns) parts.emplace(shape, rows, begin, end);
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = group * fisher::kLanes;
    const Rows<T> there{rows.at(0, first * shape.block), rows.stride};
    for (int64_t k = 0; k < columns; k += depth) {
      const int64_t to = std::min(k + depth, columns);
      pack(shape, parts ? parts->here() : there, first, k, to, s);
      fisher::add_gram(s, to - k, k == 0, shift, parts ? parts->next() : fisher::Ahead());
    }
    const __mmask8 positive = fisher::factor(s);
    write_inverse(shape, first, positive, s, factor);
    if (shape.by_entries) {
      write_diagonal(shape, first, 0, shape.block, positive, s, diagonal);
      continue;
    }
    for (int64_t k = 0; k < columns; k += depth) {
      const int64_t to = std::min(k + depth, columns);
      if (columns > depth) pack(shape, there, first, k, to, s);
      for (int64_t c = 0; c < to - k; c += fisher::kTile) {
        fisher::solve<false>(s, 0, c, s.columns(0), s.squares(c));
      }
      write_diagonal(shape, first, k, to, positive, s, diagonal);
    }
  }
}

template <typename T>
GX_WIDE double dot(const T* x, const double* y, int64_t n) {
  __m512d sum = _mm512_setzero_pd();
  for (int64_t i = 0; i < n; i += 8) {
    const __mmask8 mask = fisher::first_eight(n - i);
    sum = _mm512_fmadd_pd(read(x + i, mask), _mm512_maskz_loadu_pd(mask, y + i), sum);
  }
  return _mm512_reduce_add_pd(sum);
}

template <typename T>
GX_WIDE void add(double by, const T* x, int64_t n, double* out) {
  const __m512d factor = _mm512_set1_pd(by);
  for (int64_t i = 0; i < n; i += 8) {
    const __mmask8 mask = fisher::first_eight(n - i);
    const __m512d sum = _mm512_maskz_loadu_pd(mask, out + i);
    _mm512_mask_storeu_pd(out + i, mask, _mm512_fmadd_pd(factor, read(x + i, mask), sum));
  }
}

// W^T W x, with W the lower triangle row by row. What is not finite spreads to all of it.
GX_AVX512 void through_factor(const double* w, int64_t size, const double* x, double* out) {
  std::fill_n(out, size, 0.0);
  double all = 0;
  for (int64_t row = 0; row < size; w += ++row) {
    const double inside = dot(w, x, row + 1);
    add(inside, w, row + 1, out);
    all += inside;
  }
  if (!std::isfinite(all)) std::fill_n(out, size, std::numeric_limits<double>::quiet_NaN());
}

template <typename T>
GX_AVX512 void multiply_blocks(const Shape& shape, const Rows<T>& rows, const double* factor,
                               const double* x, int64_t begin, int64_t end, double* out) {
  std::vector<double> inside(static_cast<size_t>(2 * shape.size)), here(shape.block);
  double *v = inside.data(), *u = v + shape.size;
  for (int64_t b = begin; b < end; ++b) {
    const double* w = factor + b * shape.packed();
    const int64_t start = b * shape.block, entries = shape.entries(b);
    if (shape.by_entries) {
      std::fill_n(v, shape.size, 0.0);
      std::copy_n(x + start, entries, v);
      through_factor(w, shape.size, v, u);
      for (int64_t c = 0; c < entries; ++c) out[start + c] = static_cast<double>(shape.m) * u[c];
    } else {
      for (int64_t i = 0; i < shape.m; ++i) v[i] = dot(rows.at(i, start), x + start, entries);
      through_factor(w, shape.size, v, u);
      std::fill_n(here.data(), entries, 0.0);
      for (int64_t i = 0; i < shape.m; ++i) add(u[i], rows.at(i, start), entries, here.data());
      for (int64_t c = 0; c < entries; ++c) {
        out[start + c] = (x[start + c] - here[c]) / shape.damping;
      }
    }
  }
}

// Calls work with the rows of float32 or float64.
template <typename Work>
void with_rows(const Tensor& gradients, const Work& work) {
  const int64_t stride = gradients.stride(0);
  if (gradients.scalar_type() == ScalarType::Double) {
    work(Rows<double>{static_cast<const double*>(gradients.const_data_ptr()), stride});
  } else {
    work(Rows<float>{static_cast<const float*>(gradients.const_data_ptr()), stride});
  }
}

Tensor with_rows_whole(const Tensor& x) {
  return x.stride(1) == 1 ? x : torch::stable::contiguous(x);
}

#endif

}  // namespace

BlockOutputs block_fisher_cpu(const Tensor& gradients, int64_t block, double damping) {
  require_blocks("block_fisher", gradients, block, damping);
#if GX_HAS_AVX512
  if (has_avx512()) {
    const Shape shape(gradients, block, damping);
    const Tensor factor = torch::stable::new_empty(gradients, {shape.blocks, shape.packed()},
                                                   ScalarType::Double);
    const Tensor diagonal = torch::stable::new_empty(gradients, {shape.n}, ScalarType::Double);
    if (shape.n == 0) return {factor, diagonal};
    prefer_large_pages(factor);
    auto* inverse = static_cast<double*>(factor.mutable_data_ptr());
    auto* entries = static_cast<double*>(diagonal.mutable_data_ptr());
    const Tensor whole = with_rows_whole(gradients);
    with_rows(whole, [&](const auto& rows) {
      const int64_t groups = num_blocks(shape.blocks, fisher::kLanes);
      torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
        factor_blocks(shape, rows, begin, end, inverse, entries);
      });
    });
    return {factor, diagonal};
  }
#endif
  return reference_factor(gradients, block, damping);
}

Tensor block_fisher_times_cpu(const Tensor& gradients, const Tensor& factor, const Tensor& x,
                              int64_t block, double damping) {
  require_blocks("block_fisher_times", gradients, block, damping);
  const Shape shape(gradients, block, damping);
  require(factor.dim() == 2 && factor.size(0) == shape.blocks &&
              factor.size(1) == shape.packed() && factor.scalar_type() == ScalarType::Double,
          "block_fisher_times: factor must be what block_fisher gives for these gradients");
  require(x.dim() == 1 && x.size(0) == shape.n && x.scalar_type() == ScalarType::Double,
          "block_fisher_times: x must be a vector of float64 as long as a gradient");
#if GX_HAS_AVX512
  if (has_avx512()) {
    const Tensor out = torch::stable::new_empty(x, {shape.n});
    if (shape.n == 0) return out;
    const Tensor w = torch::stable::contiguous(factor), vector = torch::stable::contiguous(x);
    auto* to = static_cast<double*>(out.mutable_data_ptr());
    const auto* inverse = static_cast<const double*>(w.const_data_ptr());
    const auto* from = static_cast<const double*>(vector.const_data_ptr());
    const Tensor whole = with_rows_whole(gradients);
    with_rows(whole, [&](const auto& rows) {
      const int64_t grain = std::max<int64_t>(1, kGrain / (shape.packed() + shape.block));
      torch::stable::parallel_for(0, shape.blocks, grain, [&](int64_t begin, int64_t end) {
        multiply_blocks(shape, rows, inverse, from, begin, end, to);
      });
    });
    return out;
  }
#endif
  return reference_times(gradients, factor, x, block, damping);
}

}  // namespace gx
