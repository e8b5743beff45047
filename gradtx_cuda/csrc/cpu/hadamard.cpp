// CPU kernel of the Walsh-Hadamard transform: one row at a time, in cache.
#include <algorithm>
#include <cmath>

#include "../common/hadamard_op.h"
#include "../registration.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int kLanes = 16;

template <typename T>
struct Rows {
  const T* in;
  T* out;
  int64_t n;
};

// The first stages, whose partners lie in the same run of `kLanes`.
template <typename T, int Half>
GX_INLINE void near_stage(T* x) {
  T y[kLanes];
  for (int i = 0; i < kLanes; ++i) y[i] = x[i ^ Half] + ((i & Half) != 0 ? -x[i] : x[i]);
  for (int i = 0; i < kLanes; ++i) x[i] = y[i];
}

template <typename T>
GX_INLINE void far_stage(T* x, int64_t n, int64_t half) {
  for (int64_t start = 0; start < n; start += 2 * half) {
    T* a = x + start;
    T* b = a + half;
    for (int64_t i = 0; i < half; ++i) {
      const T sum = a[i] + b[i], difference = a[i] - b[i];
      a[i] = sum;
      b[i] = difference;
    }
  }
}

template <typename T>
GX_INLINE void transform(const Rows<T>& rows, int64_t begin, int64_t end) {
  const int64_t n = rows.n;
  const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(n)));
  for (int64_t row = begin; row < end; ++row) {
    T* x = rows.out + row * n;
    std::copy_n(rows.in + row * n, n, x);
    int64_t half = 1;
    if (n >= kLanes) {
      for (int64_t i = 0; i < n; i += kLanes) {
        near_stage<T, 1>(x + i);
        near_stage<T, 2>(x + i);
        near_stage<T, 4>(x + i);
        near_stage<T, 8>(x + i);
      }
      half = kLanes;
    }
    for (; half < n; half *= 2) far_stage(x, n, half);
    for (int64_t i = 0; i < n; ++i) x[i] *= scale;
  }
}

GX_CLONES void transform_float(const Rows<float>& rows, int64_t begin, int64_t end) {
  transform(rows, begin, end);
}
GX_CLONES void transform_double(const Rows<double>& rows, int64_t begin, int64_t end) {
  transform(rows, begin, end);
}

template <typename T>
void run(void (*work)(const Rows<T>&, int64_t, int64_t), const Tensor& x, const Tensor& out) {
  const int64_t n = x.size(x.dim() - 1);
  const Rows<T> rows{static_cast<const T*>(x.const_data_ptr()),
                     static_cast<T*>(out.mutable_data_ptr()), n};
  torch::stable::parallel_for(0, x.numel() / n, std::max<int64_t>(1, kGrain / n),
                              [&](int64_t begin, int64_t end) { work(rows, begin, end); });
}

}  // namespace

Tensor hadamard_cpu(const Tensor& x) {
  const Tensor values = prepare_hadamard(x);
  const Tensor out = torch::stable::empty_like(values);
  if (values.numel() != 0) {
    if (values.scalar_type() == ScalarType::Double) {
      run<double>(transform_double, values, out);
    } else {
      run<float>(transform_float, values, out);
    }
  }
  return finish_hadamard(out, x);
}

}  // namespace gx
