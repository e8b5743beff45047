// CPU kernels of LDAdam. Moments move a block of coordinates at a time: both products of the block
// with small matrices, then everything that is done by element while it is in cache.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cmath>
#include <vector>

#include "../registration.h"
#include "skinny.h"
#include "skinny_product.h"

namespace gx {
namespace {

constexpr int64_t kElements = 65536;  // worth a thread

struct Weights {
  float gain, ratio, first, second, floor, slope;
};

// Coordinates of `rank` by `length` if left, else of `length` by `rank`, and what turns them.
struct Job {
  float* m;
  float* v;
  float* a;
  const float* rotation;
  const float* squares;
  Weights w;
  int64_t rank, length;
  bool left;
};

GX_CLONES void find_variance(const float* m, const float* v, float ratio, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = v[i] - m[i] * (ratio * m[i]);
}

// As torch.lerp does it.
GX_INLINE float blend(float from, float to, float weight) {
  const float step = to - from;
  return weight < 0.5f ? from + weight * step : to - step * (1 - weight);
}

GX_CLONES void average(const float* __restrict turned, const float* __restrict spread, Weights w,
                       int64_t n, float* __restrict m, float* __restrict v, float* __restrict a) {
  for (int64_t i = 0; i < n; ++i) {
    const float mean = turned[i], x = a[i] - mean * w.gain;
    const float first = blend(mean, x, w.first);
    const float second =
        blend(std::fabs(spread[i] + mean * (w.ratio * mean)), x * x, w.second);
    m[i] = first;
    v[i] = second;
    a[i] = first / (w.floor + std::sqrt(second) * w.slope);
  }
}

#if GX_HAS_AVX512

constexpr int64_t kBlock = 1 << 14;  // elements of one array that are in cache

void turn_blocks(const Job& job, int64_t width, int64_t begin, int64_t end) {
  static thread_local std::vector<float> scratch;
  const int64_t rank = job.rank, block = rank * width;
  if (static_cast<int64_t>(scratch.size()) < 3 * block) scratch.resize(3 * block);
  float *variance = scratch.data(), *turned = variance + block, *spread = turned + block;
  for (; begin < end; ++begin) {
    const int64_t from = begin * width, n = std::min(width, job.length - from);
    // Rows of the block, how long they are, and how far apart they lie in memory.
    const int64_t rows = job.left ? rank : 1, size = job.left ? n : n * rank;
    const int64_t stride = job.length, start = job.left ? from : from * rank;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = start + i * stride;
      find_variance(job.m + at, job.v + at, job.w.ratio, size, variance + i * size);
    }
    if (job.left) {
      const Operand r{job.rotation, rank, 1}, s{job.squares, rank, 1};
      multiply_part({r, {job.m + from, stride, 1}, turned, n, 1, 0}, rank, n, rank);
      multiply_part({s, {variance, n, 1}, spread, n, 1, 0}, rank, n, rank);
    } else {
      const Operand r{job.rotation, 1, rank}, s{job.squares, 1, rank};
      multiply_part({{job.m + start, rank, 1}, r, turned, rank, 1, 0}, n, rank, rank);
      multiply_part({{variance, rank, 1}, s, spread, rank, 1, 0}, n, rank, rank);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = start + i * stride;
      average(turned + i * size, spread + i * size, job.w, size, job.m + at, job.v + at,
              job.a + at);
    }
  }
}

bool turn_in_cache(const Job& job) {
  if (!has_avx512()) return false;
  const int64_t width = std::max<int64_t>(1, kBlock / (job.rank * kPanel)) * kPanel;
  const int64_t grain = std::max<int64_t>(1, kGrain / (2 * job.rank * job.rank * width));
  torch::stable::parallel_for(
      0, num_blocks(job.length, width), grain,
      [&](int64_t begin, int64_t end) { turn_blocks(job, width, begin, end); });
  return true;
}

#else

bool turn_in_cache(const Job&) { return false; }

#endif

Tensor product(const Tensor& a, const Tensor& b) {
  const Tensor out = torch::stable::new_empty(a, {a.size(0), b.size(1)});
  add_thin_product(out, a, b, 0, 1);
  return out;
}

// The same with the products of all coordinates.
void turn(const Job& job, const Tensor& m, const Tensor& rotation, const Tensor& squares) {
  const Tensor variance = torch::stable::empty_like(m);
  float* between = static_cast<float*>(variance.mutable_data_ptr());
  const int64_t numel = job.rank * job.length;
  torch::stable::parallel_for(0, numel, kElements, [&](int64_t begin, int64_t end) {
    find_variance(job.m + begin, job.v + begin, job.w.ratio, end - begin, between + begin);
  });
  const Tensor turned = job.left ? product(rotation, m) : product(m, transposed(rotation));
  const Tensor spread =
      job.left ? product(squares, variance) : product(variance, transposed(squares));
  const float* mean = static_cast<const float*>(turned.const_data_ptr());
  const float* second = static_cast<const float*>(spread.const_data_ptr());
  torch::stable::parallel_for(0, numel, kElements, [&](int64_t begin, int64_t end) {
    average(mean + begin, second + begin, job.w, end - begin, job.m + begin, job.v + begin,
            job.a + begin);
  });
}

void require_matrix(const Tensor& x, int64_t rows, int64_t columns) {
  require(x.dim() == 2 && x.size(0) == rows && x.size(1) == columns &&
              x.scalar_type() == ScalarType::Float,
          "ldadam: bases and moments must be float32 matrices that match");
}

// Of x, a basis of one of its sides and coordinates in that.
void check(const Tensor& x, const Tensor& basis, const Tensor& m, bool left) {
  require(x.dim() == 2 && basis.dim() == 2 && x.scalar_type() == ScalarType::Float,
          "ldadam: x and the basis must be float32 matrices");
  const int64_t rank = basis.size(1);
  require_matrix(basis, x.size(left ? 0 : 1), rank);
  require_matrix(m, left ? rank : x.size(0), left ? x.size(1) : rank);
}

}  // namespace

Tensor ldadam_columns_cpu(const Tensor& x, const Tensor& basis, const Tensor& m,
                          const Tensor& weight, bool left) {
  check(x, basis, m, left);
  const float aim = number(weight, "ldadam_columns: the weight");
  const Tensor along = torch::stable::new_empty(m, {m.size(0), m.size(1)});
  const Tensor turned = transposed(along);
  if (left) {
    add_thin_product(along, transposed(basis), x, 0, 1, m, aim);
    const Tensor out = product(x, turned);
    add_thin_product(out, basis, product(m, turned), 1, aim);
    return out;
  }
  add_thin_product(along, x, basis, 0, 1, m, aim);
  const Tensor out = product(turned, x);
  add_thin_product(out, product(turned, m), transposed(basis), 1, aim);
  return torch::stable::contiguous(transposed(out));
}

Tensor ldadam_moments__cpu(const Tensor& x, const Tensor& basis, const Tensor& old,
                           const Tensor& m, const Tensor& v, const Tensor& weights, bool left) {
  check(x, basis, m, left);
  const int64_t rank = basis.size(1), length = x.size(left ? 1 : 0);
  require_matrix(old, basis.size(0), rank);
  require_matrix(v, m.size(0), m.size(1));
  require(m.is_contiguous() && v.is_contiguous(), "ldadam_moments_: moments must be contiguous");
  for (const Tensor* t : {&x, &basis, &old, &v, &weights}) require_apart("ldadam_moments_", m, *t);
  for (const Tensor* t : {&x, &basis, &old, &weights}) require_apart("ldadam_moments_", v, *t);
  require(weights.dim() == 1 && weights.numel() == 6 && weights.is_contiguous() &&
              weights.scalar_type() == ScalarType::Float,
          "ldadam_moments_: weights must be six contiguous float32 numbers");
  const float* w = static_cast<const float*>(weights.const_data_ptr());
  const Tensor out = left ? product(transposed(basis), x) : product(x, basis);
  if (rank == 0 || length == 0) return out;
  const Tensor rotation = product(transposed(basis), old);
  const float* by = static_cast<const float*>(rotation.const_data_ptr());
  const Tensor squares = torch::stable::empty_like(rotation);
  float* squared = static_cast<float*>(squares.mutable_data_ptr());
  for (int64_t i = 0; i < rank * rank; ++i) squared[i] = by[i] * by[i];
  const Job job{static_cast<float*>(m.mutable_data_ptr()),
                static_cast<float*>(v.mutable_data_ptr()),
                static_cast<float*>(out.mutable_data_ptr()),
                by, squared, {w[0], w[1], w[2], w[3], w[4], w[5]}, rank, length, left};
  if (!turn_in_cache(job)) turn(job, m, rotation, squares);
  return out;
}

}  // namespace gx
