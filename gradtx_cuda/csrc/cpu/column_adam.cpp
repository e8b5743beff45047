// CPU kernel of Adam on chosen columns: one row at a time, in cache.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "../registration.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

struct Rates {
  float keep1, take1, keep2, take2, correct1, correct2, eps;
};

struct Job {
  const float* x;
  const float* mu;
  const float* nu;
  float* out;
  float* new_mu;
  float* new_nu;
  const int64_t* source;  // where the moments are, -1 if they start at zero; null if none move
  Rates r;
  int64_t columns;
  bool by_column;
};

std::vector<int64_t> indices(const Tensor& x) {
  const Tensor dense = torch::stable::contiguous(x);
  const auto copy = [&](auto* data) { return std::vector<int64_t>(data, data + x.size(0)); };
  const void* data = dense.const_data_ptr();
  if (x.scalar_type() == ScalarType::Int) return copy(static_cast<const int32_t*>(data));
  return copy(static_cast<const int64_t*>(data));
}

// Where what is chosen now was among what was chosen, -1 if nowhere.
std::vector<int64_t> sources(const Tensor& old, const Tensor& now) {
  const std::vector<int64_t> before = indices(old);
  std::vector<int64_t> out = indices(now);
  const bool sorted = std::is_sorted(before.begin(), before.end());
  for (int64_t& i : out) {
    const auto at = sorted ? std::lower_bound(before.begin(), before.end(), i)
                           : std::find(before.begin(), before.end(), i);
    i = at != before.end() && *at == i ? at - before.begin() : -1;
  }
  return out;
}

GX_INLINE void step(const float* __restrict x, const float* __restrict mu,
                    const float* __restrict nu, const Rates& r, int64_t n,
                    float* __restrict out, float* __restrict new_mu, float* __restrict new_nu) {
  for (int64_t i = 0; i < n; ++i) {
    const float m = r.keep1 * mu[i] + r.take1 * x[i];
    const float v = r.keep2 * nu[i] + r.take2 * (x[i] * x[i]);
    new_mu[i] = m;
    new_nu[i] = v;
    out[i] = (m / r.correct1) / (std::sqrt(v / r.correct2) + r.eps);
  }
}

GX_CLONES void run_rows(const Job& job, int64_t begin, int64_t end) {
  const int64_t n = job.columns;
  std::vector<float> moved(static_cast<size_t>(2 * n), 0.0f);
  float *mu = moved.data(), *nu = mu + n;
  for (int64_t row = begin; row < end; ++row) {
    const float *m = job.mu + row * n, *v = job.nu + row * n;
    if (job.source != nullptr && job.by_column) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = job.source[j];
        mu[j] = at < 0 ? 0.0f : m[at];
        nu[j] = at < 0 ? 0.0f : v[at];
      }
      m = mu;
      v = nu;
    } else if (job.source != nullptr) {
      const int64_t at = job.source[row];
      m = at < 0 ? mu : job.mu + at * n;  // zeros
      v = at < 0 ? nu : job.nu + at * n;
    }
    step(job.x + row * n, m, v, job.r, n, job.out + row * n, job.new_mu + row * n,
         job.new_nu + row * n);
  }
}

void require_indices(const Tensor& x, int64_t k) {
  require(x.dim() == 1 && x.size(0) == k &&
              (x.scalar_type() == ScalarType::Int || x.scalar_type() == ScalarType::Long),
          "column_adam: indices must be as many int32 or int64 numbers as are chosen");
}

// 1 - decay^count without cancellation.
float correction(double decay, int32_t count) {
  return static_cast<float>(-std::expm1(count * std::log(decay)));
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> column_adam_cpu(const Tensor& x, const Tensor& mu, const Tensor& nu,
                                                   const Tensor& old, const Tensor& now,
                                                   const Tensor& count, double b1, double b2,
                                                   double eps, int64_t dim, bool transfer) {
  for (const Tensor* t : {&x, &mu, &nu}) {
    require(t->dim() == 2 && t->size(0) == x.size(0) && t->size(1) == x.size(1) &&
                t->scalar_type() == ScalarType::Float,
            "column_adam: x and both moments must be float32 matrices of one shape");
  }
  require(dim == 0 || dim == 1, "column_adam: dim must be 0 or 1, got ", dim);
  require_indices(old, x.size(dim));
  require_indices(now, x.size(dim));
  require(count.dim() == 0 && count.scalar_type() == ScalarType::Int,
          "column_adam: count must be a 0-d int32 tensor");
  require(b1 >= 0 && b1 < 1 && b2 >= 0 && b2 < 1 && eps >= 0,
          "column_adam: needs decays in [0, 1) and eps >= 0");
  const int64_t rows = x.size(0), n = x.size(1);
  const auto made = [&] { return torch::stable::new_empty(x, {rows, n}); };
  const Tensor out = made(), new_mu = made(), new_nu = made();
  if (rows * n == 0) return {out, new_mu, new_nu};

  const Tensor values = torch::stable::contiguous(x);
  const Tensor first = torch::stable::contiguous(mu), second = torch::stable::contiguous(nu);
  std::vector<int64_t> source;
  if (transfer) source = sources(old, now);
  const int32_t t = *static_cast<const int32_t*>(count.const_data_ptr());
  const auto data = [](const Tensor& z) { return static_cast<const float*>(z.const_data_ptr()); };
  const auto into = [](const Tensor& z) { return static_cast<float*>(z.mutable_data_ptr()); };
  // An eps of zero is a number too small to change any root, as in the reference.
  const float floor = eps == 0 ? std::numeric_limits<float>::min() : static_cast<float>(eps);
  const Rates rates{static_cast<float>(b1), static_cast<float>(1 - b1),
                    static_cast<float>(b2), static_cast<float>(1 - b2),
                    correction(b1, t),      correction(b2, t),
                    floor};
  const Job job{data(values),  data(first),  data(second),
                into(out),     into(new_mu), into(new_nu),
                transfer ? source.data() : nullptr,
                rates,         n,            dim == 1};
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / n),
                              [&](int64_t begin, int64_t end) { run_rows(job, begin, end); });
  return {out, new_mu, new_nu};
}

}  // namespace gx
