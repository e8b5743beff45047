// CPU kernels of products with a thin factor.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cmath>

#include "../registration.h"
#include "skinny.h"
#include "skinny_product.h"

namespace gx {
namespace {

#if GX_HAS_AVX512

// Whether one dimension of a matrix is contiguous; `x` then says how it lies.
bool lies(const Tensor& tensor, Operand& x) {
  if (!has_avx512() || tensor.scalar_type() != ScalarType::Float) return false;
  x = {static_cast<const float*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
  if (tensor.size(1) == 1) {
    x.column = 1;
  } else if (tensor.size(0) == 1) {
    x.row = 1;
  }
  return x.row == 1 || x.column == 1;
}

// The output's leading dimension if its rows are contiguous and apart, else 0.
int64_t leading(const Operand& x, int64_t rows, int64_t columns) {
  if (x.column != 1) return 0;
  if (rows == 1) return std::max<int64_t>(1, columns);
  return x.row >= columns ? x.row : 0;
}

bool multiply_thin(const Tensor& x, const Tensor& basis, bool left, const Tensor& out) {
  Operand big, thin;
  if (!lies(x, big) || !lies(basis, thin)) return false;
  float* c = static_cast<float*>(out.mutable_data_ptr());
  if (left) {
    multiply({{thin.data, thin.column, thin.row}, big, c, x.size(1), 1, 0}, basis.size(1),
             x.size(1), x.size(0));
  } else {
    multiply({big, thin, c, basis.size(1), 1, 0}, x.size(0), basis.size(1), x.size(1));
  }
  return true;
}

bool add_thin(const Tensor& x, const Tensor& a, const Tensor& b, float beta, float alpha,
              const std::optional<Tensor>& addend, float gamma) {
  Operand out, left, right, more{nullptr, 0, 1};
  if (!lies(x, out) || !lies(a, left) || !lies(b, right)) return false;
  if (addend && !lies(*addend, more)) return false;
  const int64_t m = x.size(0), n = x.size(1), k = alpha == 0 ? 0 : a.size(1);
  float* c = static_cast<float*>(x.mutable_data_ptr());
  if (const int64_t ld = leading(out, m, n); ld != 0 && more.column == 1) {
    multiply({left, right, c, ld, alpha, beta, more.data, more.row, gamma}, m, n, k);
    return true;
  }
  const Operand flipped{out.data, out.column, out.row};
  if (const int64_t ld = leading(flipped, n, m); ld != 0 && (!addend || more.row == 1)) {
    multiply({{right.data, right.column, right.row}, {left.data, left.column, left.row}, c, ld,
              alpha, beta, more.data, more.column, gamma}, n, m, k);
    return true;
  }
  return false;
}

#else

bool multiply_thin(const Tensor&, const Tensor&, bool, const Tensor&) { return false; }
bool add_thin(const Tensor&, const Tensor&, const Tensor&, float, float,
              const std::optional<Tensor>&, float) {
  return false;
}

#endif

constexpr int64_t kSmall = 1 << 13;  // products of numbers that cost less than a call of the library

// The same of small matrices, with sums in double precision.
bool add_small(const Tensor& x, const Tensor& a, const Tensor& b, double beta, double alpha,
               const std::optional<Tensor>& addend, double gamma) {
  const int64_t m = x.size(0), n = x.size(1), k = alpha == 0 ? 0 : a.size(1);
  if (x.scalar_type() != ScalarType::Float || m * n > kSmall || m * n * k > kSmall) return false;
  const auto at = [](const Tensor& t, int64_t i, int64_t j) -> double {
    return static_cast<const float*>(t.const_data_ptr())[i * t.stride(0) + j * t.stride(1)];
  };
  float* out = static_cast<float*>(x.mutable_data_ptr());
  const int64_t row = x.stride(0), column = x.stride(1);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += at(a, i, l) * at(b, l, j);
      float& to = out[i * row + j * column];
      double all = k == 0 ? 0 : alpha * sum;
      if (beta != 0) all += beta * to;
      if (addend) all += gamma * at(*addend, i, j);
      to = static_cast<float>(all);
    }
  }
  return true;
}

}  // namespace

Tensor coordinates_cpu(const Tensor& x, const Tensor& basis, bool left) {
  require(x.dim() == 2 && basis.dim() == 2 && basis.size(0) == x.size(left ? 0 : 1),
          "coordinates: x and basis must be matrices that match");
  require(x.scalar_type() == basis.scalar_type(), "coordinates: x and basis must have one dtype");
  const int64_t rank = basis.size(1);
  const Tensor out = left ? torch::stable::new_empty(x, {rank, x.size(1)})
                          : torch::stable::new_empty(x, {x.size(0), rank});
  if (!multiply_thin(x, basis, left, out)) {
    const Tensor a = left ? torch::stable::transpose(basis, 0, 1) : x;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_mm_out(out.get(), a.get(), (left ? x : basis).get()));
  }
  return out;
}

void add_thin_product(const Tensor& x, const Tensor& a, const Tensor& b, double beta, double alpha,
                      const std::optional<Tensor>& addend, double gamma) {
  if (add_thin(x, a, b, static_cast<float>(beta), static_cast<float>(alpha), addend,
               static_cast<float>(gamma)) ||
      add_small(x, a, b, beta, alpha, addend, gamma)) {
    return;
  }
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(x.get(), x.get(), a.get(), b.get(), beta, alpha));
  if (addend) {
    AtenTensorHandle sum;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_add_Tensor(x.get(), addend->get(), gamma, &sum));
    Tensor out = x;
    torch::stable::copy_(out, Tensor(sum));
  }
}

Tensor times(const Tensor& x, const Tensor& y) {
  AtenTensorHandle product;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mul_Tensor(x.get(), y.get(), &product));
  return Tensor(product);
}

void add_product__cpu(const Tensor& x, const Tensor& a, const Tensor& b, double beta,
                      double alpha, const std::optional<Tensor>& addend,
                      const std::optional<Tensor>& scale) {
  require(x.dim() == 2 && a.dim() == 2 && b.dim() == 2 && a.size(0) == x.size(0) &&
              b.size(1) == x.size(1) && a.size(1) == b.size(0),
          "add_product_: x, a and b must be matrices that match");
  require(x.scalar_type() == a.scalar_type() && x.scalar_type() == b.scalar_type(),
          "add_product_: x, a and b must have one dtype");
  if (addend) {
    require(addend->dim() == 2 && addend->size(0) == x.size(0) && addend->size(1) == x.size(1) &&
                addend->scalar_type() == x.scalar_type(),
            "add_product_: the addend must be like x");
  }
  if (scale) {
    require(scale->dim() == 0 && scale->scalar_type() == x.scalar_type(),
            "add_product_: the scale must be a 0-d tensor of the dtype of x");
  }
  for (const Tensor* t : {&a, &b}) require_apart("add_product_", x, *t);
  if (addend) require_apart("add_product_", x, *addend);
  const bool narrow = x.scalar_type() != ScalarType::Double;
  if (narrow) alpha = single(alpha), beta = single(beta);
  if (alpha == 0) return add_thin_product(x, a, b, beta, 0, addend);
  const bool is_float = x.scalar_type() == ScalarType::Float;
  if (scale && !is_float) return add_product__cpu(x, times(a, *scale), b, beta, alpha, addend, {});
  double factor = scale ? alpha * number(*scale, "add_product_: the scale") : alpha;
  if (narrow) factor = single(factor);
  const bool fits = is_float ? std::isnormal(static_cast<float>(factor)) : std::isfinite(factor);
  if (fits) return add_thin_product(x, a, b, beta, factor, addend);
  const Tensor by = torch::stable::new_empty(x, {});
  torch::stable::fill_(by, factor);
  add_thin_product(x, times(a, by), b, beta, 1, addend);  // of the factor, not of its sums
}

}  // namespace gx
