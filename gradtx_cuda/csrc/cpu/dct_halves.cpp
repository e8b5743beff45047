// CPU kernel of the DCT by halves: sixteen rows at a time, one a lane, in cache.
#include <algorithm>
#include <memory>
#include <vector>

#include "../common/checks.h"
#include "../registration.h"
#include "columns.h"
#include "transpose.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int64_t kLanes = kTileSide;
constexpr int64_t kLargest = 1024;  // base
constexpr int kOutputs = 4;         // of a small product at once
constexpr size_t kLine = 64;        // of a cache, in bytes

enum class Kind {
  kSecond, kThird, kFourth,  // transforms of few numbers, the ends of
  kFold, kInterleave,        // halving of the DCT-II,
  kSeparate, kUnfold,        // of the DCT-III
  kRotate, kCombine,         // and of the DCT-IV
};

// What is done to `size` numbers from `at` on, and from which of two buffers to the other.
struct Step {
  Kind kind;
  int64_t at, size;
  int from;
};

// The size at which halving ends; it has to be the one of ops/dct_halves.py.
int64_t base_of(int64_t n) {
  while (n > 4 && n % 2 == 0) n /= 2;
  return n;
}

// The steps of a transform; what it takes lies where it leaves its result.
struct Plan {
  explicit Plan(int64_t n, bool inverse) : n(n), base(base_of(n)) {
    inverse ? third(0, n, 0) : second(0, n, 0);
  }

  void second(int64_t at, int64_t size, int from) {
    if (size == base) return add(Kind::kSecond, at, size, from);
    add(Kind::kFold, at, size, from);
    second(at, size / 2, 1 - from);
    fourth(at + size / 2, size / 2, 1 - from);
    add(Kind::kInterleave, at, size, 1 - from);
  }
  void third(int64_t at, int64_t size, int from) {
    if (size == base) return add(Kind::kThird, at, size, from);
    add(Kind::kSeparate, at, size, from);
    third(at, size / 2, 1 - from);
    fourth(at + size / 2, size / 2, 1 - from);
    add(Kind::kUnfold, at, size, 1 - from);
  }
  void fourth(int64_t at, int64_t size, int from) {
    if (size == base) return add(Kind::kFourth, at, size, from);
    add(Kind::kRotate, at, size, from);
    second(at, size / 2, 1 - from);
    second(at + size / 2, size / 2, 1 - from);
    add(Kind::kCombine, at, size, 1 - from);
  }
  void add(Kind kind, int64_t at, int64_t size, int from) {
    steps.push_back({kind, at, size, from});
  }

  int64_t n, base;
  std::vector<Step> steps;
};

// One number of each of sixteen rows, wherever they lie.
template <typename T>
struct LanesOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <typename T>
using Lanes = typename LanesOf<T>::type;

// out[k] = sum over j of m[k * row + j * column] x[j]
template <typename T, int kCount>
GX_INLINE void products(const T* m, int64_t row, int64_t column, const Lanes<T>* x, int64_t n,
                        Lanes<T>* out) {
  Lanes<T> sums[kCount] = {};
  for (int64_t j = 0; j < n; ++j) {
    for (int k = 0; k < kCount; ++k) sums[k] += m[k * row + j * column] * x[j];
  }
  for (int k = 0; k < kCount; ++k) out[k] = sums[k];
}

template <typename T>
GX_INLINE void multiply(const T* m, int64_t row, int64_t column, Lanes<T>* x, int64_t n,
                        Lanes<T>* room) {
  int64_t k = 0;
  for (; k + kOutputs <= n; k += kOutputs) {
    products<T, kOutputs>(m + k * row, row, column, x, n, room + k);
  }
  for (; k < n; ++k) products<T, 1>(m + k * row, row, column, x, n, room + k);
  std::copy(room, room + n, x);
}

// (a, b) -> ((a + b) / sqrt(2), (a - b) / sqrt(2))
template <typename T>
GX_INLINE void butterfly(const Lanes<T>& a, const Lanes<T>& b, Lanes<T>& sum,
                         Lanes<T>& difference) {
  constexpr T kHalf = static_cast<T>(0.70710678118654752440);
  const Lanes<T> left = a * kHalf, right = b * kHalf;
  sum = left + right;
  difference = left - right;
}

template <typename T>
GX_INLINE void rotate(const Lanes<T>* x, const T* c, int64_t n, Lanes<T>* out) {
  const int64_t half = n / 2;
  const T* d = c + half;
  for (int64_t j = 0; j < half; ++j) {
    const T sign = j % 2 == 0 ? T(1) : T(-1), cos = sign * c[j], sin = sign * d[j];
    const Lanes<T> a = x[j], b = x[n - 1 - j];
    out[j] = a * c[j] + b * d[j];
    out[half + j] = b * cos - a * sin;
  }
}

template <typename T>
GX_INLINE void combine(const Lanes<T>* x, int64_t n, Lanes<T>* out) {
  const int64_t half = n / 2;
  out[0] = x[0];
  for (int64_t j = 1; j < half; ++j) butterfly<T>(x[j], x[n - j], out[2 * j], out[2 * j - 1]);
  out[n - 1] = -x[half];
}

template <typename T>
GX_INLINE void apply(const Step& step, int64_t base, const T* table, Lanes<T>* x, Lanes<T>* out) {
  const int64_t n = step.size, half = n / 2;
  switch (step.kind) {
    case Kind::kSecond: return multiply(table, n, 1, x, n, out);
    case Kind::kThird: return multiply(table, 1, n, x, n, out);
    case Kind::kFourth: return multiply(table + n * n, n, 1, x, n, out);
    case Kind::kRotate: return rotate(x, table + 2 * base * base + n - 2 * base, n, out);
    case Kind::kCombine: return combine<T>(x, n, out);
    case Kind::kFold:
      for (int64_t j = 0; j < half; ++j) butterfly<T>(x[j], x[n - 1 - j], out[j], out[half + j]);
      return;
    case Kind::kUnfold:
      for (int64_t j = 0; j < half; ++j) butterfly<T>(x[j], x[half + j], out[j], out[n - 1 - j]);
      return;
    case Kind::kInterleave:
      for (int64_t j = 0; j < half; ++j) {
        out[2 * j] = x[j];
        out[2 * j + 1] = x[half + j];
      }
      return;
    case Kind::kSeparate:
      for (int64_t j = 0; j < half; ++j) {
        out[j] = x[2 * j];
        out[half + j] = x[2 * j + 1];
      }
      return;
  }
}

// A matrix of rows to transform: from row to row, from number to number.
template <typename T>
struct Side {
  T* data;
  int64_t row, step;
};

template <typename T>
struct Job {
  Side<const T> in;
  Side<T> out;
  const T* table;
  const Plan* plan;
  int64_t rows;
};

template <typename T>
GX_INLINE void load(const Side<const T>& in, int64_t n, int64_t first, int64_t count, T* x) {
  const T* from = in.data + first * in.row;
  int64_t j = 0;
  if (count == kLanes && in.step == 1) {
    for (; j + kLanes <= n; j += kLanes) transpose_tile(from + j, in.row, x + j * kLanes, kLanes);
  } else if (count == kLanes && in.row == 1) {
    for (; j < n; ++j) std::copy_n(from + j * in.step, kLanes, x + j * kLanes);
  }
  for (; j < n; ++j) {
    for (int64_t i = 0; i < count; ++i) x[j * kLanes + i] = from[i * in.row + j * in.step];
  }
}

template <typename T>
GX_INLINE void store(const T* x, int64_t n, int64_t first, int64_t count, const Side<T>& out) {
  T* to = out.data + first * out.row;
  int64_t j = 0;
  if (count == kLanes && out.step == 1) {
    for (; j + kLanes <= n; j += kLanes) transpose_tile(x + j * kLanes, kLanes, to + j, out.row);
  } else if (count == kLanes && out.row == 1) {
    for (; j < n; ++j) std::copy_n(x + j * kLanes, kLanes, to + j * out.step);
  }
  for (; j < n; ++j) {
    for (int64_t i = 0; i < count; ++i) to[i * out.row + j * out.step] = x[j * kLanes + i];
  }
}

template <typename T>
GX_INLINE void run(const Job<T>& job, int64_t begin, int64_t end) {
  const int64_t n = job.plan->n;
  std::vector<T> room(static_cast<size_t>((2 * n + 1) * kLanes));
  void* start = room.data();
  size_t space = room.size() * sizeof(T);
  T* numbers = static_cast<T*>(std::align(kLine, 2 * n * kLanes * sizeof(T), start, space));
  Lanes<T>* buffers[2] = {reinterpret_cast<Lanes<T>*>(numbers),
                          reinterpret_cast<Lanes<T>*>(numbers + n * kLanes)};
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = group * kLanes, count = std::min(kLanes, job.rows - first);
    load(job.in, n, first, count, numbers);
    for (const Step& step : job.plan->steps) {
      apply(step, job.plan->base, job.table, buffers[step.from] + step.at,
            buffers[1 - step.from] + step.at);
    }
    store(numbers, n, first, count, job.out);
  }
}

GX_CLONES void run_float(const Job<float>& job, int64_t begin, int64_t end) {
  run(job, begin, end);
}
GX_CLONES void run_double(const Job<double>& job, int64_t begin, int64_t end) {
  run(job, begin, end);
}

template <typename T>
void run_groups(void (*work)(const Job<T>&, int64_t, int64_t), const Job<T>& job) {
  const int64_t grain = std::max<int64_t>(1, kGrain / (kLanes * job.plan->n));
  torch::stable::parallel_for(0, num_blocks(job.rows, kLanes), grain,
                              [&](int64_t begin, int64_t end) { work(job, begin, end); });
}

template <typename T>
void run_all(void (*work)(const Job<T>&, int64_t, int64_t), const Tensor& x, const Tensor& table,
             const Tensor& out, int64_t dim, const Plan& plan) {
  const int64_t other = 1 - dim;
  run_groups<T>(work, {{static_cast<const T*>(x.const_data_ptr()), x.stride(other), x.stride(dim)},
                       {static_cast<T*>(out.mutable_data_ptr()), out.stride(other),
                        out.stride(dim)},
                       static_cast<const T*>(table.const_data_ptr()), &plan, x.size(other)});
}

}  // namespace

void dct_halves_of(const float* x, int64_t rows, int64_t columns, const float* table, bool inverse,
                   int64_t dim, float* out) {
  const Plan plan(dim == 1 ? columns : rows, inverse);
  const int64_t count = dim == 1 ? rows : columns;
  const int64_t row = dim == 1 ? columns : 1, step = dim == 1 ? 1 : columns;
  run_groups<float>(run_float, {{x, row, step}, {out, row, step}, table, &plan, count});
}

Tensor dct_halves_cpu(const Tensor& x, const Tensor& table, bool inverse, int64_t dim) {
  require(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
          "dct_halves: x must be float32 or float64");
  require(x.dim() == 2 && (dim == 0 || dim == 1) && x.size(dim) >= 1,
          "dct_halves: x must be a matrix, and dim one of its dimensions that is not empty");
  const int64_t n = x.size(dim), base = base_of(n);
  require(base <= kLargest, "dct_halves: the odd factor of ", n, " is above ", kLargest);
  require(table.scalar_type() == x.scalar_type() && table.dim() == 1 &&
              table.size(0) == 2 * base * base + std::max(n, 2 * base) - 2 * base,
          "dct_halves: table must be that of the transformed dimension, in the dtype of x");
  require(table.device() == x.device(), "dct_halves: all tensors must share a device");
  const Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  if (out.numel() == 0) return out;
  const Tensor factors = torch::stable::contiguous(table);
  const Plan plan(n, inverse);
  if (x.scalar_type() == ScalarType::Double) {
    run_all<double>(run_double, x, factors, out, dim, plan);
  } else {
    run_all<float>(run_float, x, factors, out, dim, plan);
  }
  return out;
}

}  // namespace gx
