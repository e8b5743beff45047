// Passes around the FFT of a DCT: a CTA takes row after row, its threads neighbouring numbers.
#pragma once

#include <cstdint>

namespace gx {

// Rows in and out, and twiddles; n real numbers a row of the matrix, `half` = n / 2.
template <typename T>
struct DctRows {
  const T* in;
  const T* twiddle;
  T* out;
  int64_t rows, n, half;
};

// (a + ib) (c + id) at frequency k
template <typename T>
__device__ T real_part(const DctRows<T>& p, int64_t k, T a, T b) {
  return a * p.twiddle[k] - b * p.twiddle[p.half + 1 + k];
}

template <typename T>
__device__ T imaginary_part(const DctRows<T>& p, int64_t k, T a, T b) {
  return a * p.twiddle[p.half + 1 + k] + b * p.twiddle[k];
}

// 0, 1, 3, 5, ..., 4, 2
template <typename T>
__device__ void to_samples(const DctRows<T>& p) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    for (int64_t j = threadIdx.x; j < p.n; j += blockDim.x) {
      const int64_t from = j == 0 ? 0 : j <= p.half ? 2 * j - 1 : 2 * (p.n - j);
      p.out[row * p.n + j] = p.in[row * p.n + from];
    }
  }
}

template <typename T>
__device__ void from_samples(const DctRows<T>& p) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    for (int64_t j = threadIdx.x; j < p.n; j += blockDim.x) {
      const int64_t from = j == 0 ? 0 : j % 2 == 1 ? j / 2 + 1 : p.n - j / 2;
      p.out[row * p.n + j] = p.in[row * p.n + from];
    }
  }
}

template <typename T>
__device__ void to_spectrum(const DctRows<T>& p) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = p.in + row * p.n;
    T* out = p.out + row * 2 * (p.half + 1);
    for (int64_t k = threadIdx.x; k <= p.half; k += blockDim.x) {
      const T a = x[k], b = x[k == 0 ? 0 : p.n - k];
      out[2 * k] = real_part(p, k, a, b);
      out[2 * k + 1] = imaginary_part(p, k, a, b);
    }
  }
}

template <typename T>
__device__ void from_spectrum(const DctRows<T>& p) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = p.in + row * 2 * (p.half + 1);
    T* out = p.out + row * p.n;
    for (int64_t k = threadIdx.x; k <= p.half; k += blockDim.x) {
      const T a = x[2 * k], b = x[2 * k + 1];
      out[k] = real_part(p, k, a, b);
      if (k != 0 && k < p.n - p.half) out[p.n - k] = imaginary_part(p, k, a, b);
    }
  }
}

}  // namespace gx
