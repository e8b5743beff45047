// CPU kernels of the passes around the FFT of a DCT: one row at a time, in cache.
#include <algorithm>
#include <vector>

#include "../common/dct_op.h"
#include "../registration.h"
#include "transpose.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

// Rows to read, twiddles, rows to write; strides in real numbers.
template <typename T>
struct Pass {
  const T* in;
  const T* twiddle;
  T* out;
  int64_t n, in_row, in_step, out_row;
  bool inverse;
};

// x0, x1, x3, x5, ..., x4, x2
template <typename T>
GX_INLINE void to_samples(const T* x, T* out, int64_t n) {
  const int64_t odd = n / 2, even = n - 1 - odd;
  out[0] = x[0];
  for (int64_t i = 0; i < odd; ++i) out[1 + i] = x[2 * i + 1];
  for (int64_t i = 0; i < even; ++i) out[n - 1 - i] = x[2 * i + 2];
}

template <typename T>
GX_INLINE void from_samples(const T* x, T* out, int64_t n) {
  const int64_t odd = n / 2, even = n - 1 - odd;
  out[0] = x[0];
  for (int64_t i = 0; i < even; ++i) {
    out[2 * i + 1] = x[1 + i];
    out[2 * i + 2] = x[n - 1 - i];
  }
  if (odd > even) out[n - 1] = x[odd];
}

// (x_k + i x_{n-k}) (c_k + i d_k)
template <typename T>
GX_INLINE void to_spectrum(const T* x, const T* c, T* out, int64_t n) {
  const T* d = c + n / 2 + 1;
  out[0] = x[0] * c[0] - x[0] * d[0];
  out[1] = x[0] * d[0] + x[0] * c[0];
  for (int64_t k = 1; k <= n / 2; ++k) {
    const T a = x[k], b = x[n - k];
    out[2 * k] = a * c[k] - b * d[k];
    out[2 * k + 1] = a * d[k] + b * c[k];
  }
}

// y_k + i y_{n-k} = x_k (c_k + i d_k)
template <typename T>
GX_INLINE void from_spectrum(const T* x, const T* c, T* out, int64_t n) {
  const int64_t half = n / 2, pairs = n - half;
  const T* d = c + half + 1;
  out[0] = x[0] * c[0] - x[1] * d[0];
  for (int64_t k = 1; k < pairs; ++k) {
    const T a = x[2 * k], b = x[2 * k + 1];
    out[k] = a * c[k] - b * d[k];
    out[n - k] = a * d[k] + b * c[k];
  }
  if (half == pairs) out[half] = x[n] * c[half] - x[n + 1] * d[half];
}

template <typename T>
GX_INLINE void before(const Pass<T>& p, int64_t begin, int64_t end) {
  // Rows whose numbers lie apart are first laid out, a few at a time.
  const bool apart = p.in_step != 1;
  const int64_t row_size = apart ? (p.n / kTileSide + 2) * kTileSide : 0;
  std::vector<T> laid(static_cast<size_t>(kTileSide * row_size));
  for (int64_t first = begin; first < end; first += kTileSide) {
    const int64_t count = std::min<int64_t>(kTileSide, end - first);
    if (apart) transpose_columns(p.in + first, p.in_step, p.n, count, laid.data(), row_size);
    for (int64_t i = 0; i < count; ++i) {
      const T* x = apart ? laid.data() + i * row_size : p.in + (first + i) * p.in_row;
      T* out = p.out + (first + i) * p.out_row;
      if (p.inverse) {
        to_spectrum(x, p.twiddle, out, p.n);
      } else {
        to_samples(x, out, p.n);
      }
    }
  }
}

template <typename T>
GX_INLINE void after(const Pass<T>& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* x = p.in + row * p.in_row;
    T* out = p.out + row * p.out_row;
    if (p.inverse) {
      from_samples(x, out, p.n);
    } else {
      from_spectrum(x, p.twiddle, out, p.n);
    }
  }
}

GX_CLONES void before_float(const Pass<float>& p, int64_t begin, int64_t end) {
  before(p, begin, end);
}
GX_CLONES void before_double(const Pass<double>& p, int64_t begin, int64_t end) {
  before(p, begin, end);
}
GX_CLONES void after_float(const Pass<float>& p, int64_t begin, int64_t end) {
  after(p, begin, end);
}
GX_CLONES void after_double(const Pass<double>& p, int64_t begin, int64_t end) {
  after(p, begin, end);
}

// Real numbers from row to row.
int64_t row_stride(const Tensor& x) {
  const bool is_real = x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double;
  return x.stride(0) * (is_real ? 1 : 2);
}

template <typename T>
void run(void (*work)(const Pass<T>&, int64_t, int64_t), const Tensor& x, const Tensor& twiddle,
         const Tensor& out, int64_t n, bool inverse) {
  const Pass<T> pass{static_cast<const T*>(x.const_data_ptr()),
                     static_cast<const T*>(twiddle.const_data_ptr()),
                     static_cast<T*>(out.mutable_data_ptr()),
                     n, row_stride(x), x.stride(1), row_stride(out), inverse};
  torch::stable::parallel_for(0, x.size(0), std::max<int64_t>(1, kGrain / n),
                              [&](int64_t begin, int64_t end) { work(pass, begin, end); });
}

}  // namespace

Tensor dct_before_cpu(const Tensor& x, const Tensor& twiddle, bool inverse) {
  const Tensor factor = prepare_dct_pass(x, twiddle), out = allocate_dct_before(x, inverse);
  const bool lies = x.stride(1) == 1 || x.stride(0) == 1;
  const Tensor values = lies ? x : torch::stable::contiguous(x);
  if (x.scalar_type() == ScalarType::Double) {
    run<double>(before_double, values, factor, out, x.size(1), inverse);
  } else {
    run<float>(before_float, values, factor, out, x.size(1), inverse);
  }
  return out;
}

void dct_after__cpu(const Tensor& out, const Tensor& x, const Tensor& twiddle, bool inverse) {
  const Tensor factor = prepare_dct_pass(out, twiddle);
  const Tensor values = prepare_dct_after(out, x, inverse);
  if (out.scalar_type() == ScalarType::Double) {
    run<double>(after_double, values, factor, out, out.size(1), inverse);
  } else {
    run<float>(after_float, values, factor, out, out.size(1), inverse);
  }
}

}  // namespace gx
