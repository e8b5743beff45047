// CPU kernel of Chebyshev series of matrices: a matrix stays packed between products.
#include <array>
#include <cmath>

#include "../registration.h"
#include "packed_squares.h"

namespace gx {
namespace {

// What the reference makes of other dtypes, and on other processors.
Tensor reference_series(const Tensor& s, const Doubles& coefficients, ScalarType low) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(s), from(coefficients), from(low)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("gradtx::clenshaw_reference", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

// One matrix.
class Series {
 public:
  static int64_t words(int64_t n) { return 4 * SquareProducts::words<false>(n); }

  Series(const SquareProducts& products, uint32_t* scratch) : products_(products) {
    const int64_t words = SquareProducts::words<false>(products.n);
    for (uint32_t** x : {&s_, &b_, &after_, &out_}) *x = std::exchange(scratch, scratch + words);
  }

  void run(const float* s, const Doubles& coefficients, float* out) {
    const int64_t degree = coefficients.size() - 1;
    const float highest = static_cast<float>(coefficients[degree]);
    products_.read(s, to(1.0f, 0.0f, nullptr, {s_, nullptr}));
    products_.fill(to(0.0f, highest, nullptr, {nullptr, after_}));
    for (int64_t k = degree - 1; k >= 0; --k) {
      const float twice = k == 0 ? 1.0f : 2.0f, number = static_cast<float>(coefficients[k]);
      if (k == degree - 1) {  // b is a multiple of I
        products_.read(s, to(twice * highest, number, nullptr, {k == 0 ? out_ : nullptr, b_}));
        continue;
      }
      const Sides sides = k == 0 ? Sides{out_, nullptr} : Sides{nullptr, after_};
      products_.multiply<false>(s_, b_, to(twice, number, after_, sides));
      std::swap(b_, after_);
    }
    products_.write(out_, out);
  }

 private:
  ProductEnd<false> to(float alpha, float unit, const uint32_t* minus, const Sides& sides) const {
    return {products_.all, products_.panels, false, alpha, unit, sides, minus};
  }

  const SquareProducts& products_;
  uint32_t *s_, *b_, *after_, *out_;
};

Tensor sum(const Tensor& s, const Doubles& coefficients) {
  const Tensor out = torch::stable::new_empty(s, {s.size(0), s.size(1), s.size(2)});
  if (out.numel() == 0) return out;
  const Tensor from = torch::stable::contiguous(s);
  const int64_t n = s.size(1), size = n * n;
  const float* data = static_cast<const float*>(from.const_data_ptr());
  float* to = static_cast<float*>(out.mutable_data_ptr());
  for_squares(s.size(0), n, Series::words(n),
              [&](const SquareProducts& products, uint32_t* scratch, int64_t i) {
                Series(products, scratch).run(data + i * size, coefficients, to + i * size);
              });
  return out;
}
#endif

}  // namespace

Tensor clenshaw_cpu(const Tensor& s, const Doubles& coefficients, ScalarType low) {
  const ScalarType dtype = s.scalar_type();
  require(s.dim() == 3 && s.size(1) == s.size(2), "clenshaw: s must be (batch, n, n)");
  require(dtype == ScalarType::Float || dtype == ScalarType::Double,
          "clenshaw: s must be float32 or float64");
  require(low == dtype || low == ScalarType::Half || low == ScalarType::BFloat16,
          "clenshaw: low must be the dtype of s, float16 or bfloat16");
  require(coefficients.size() >= 2, "clenshaw: there must be two coefficients at least");
  for (const double c : coefficients) {
    require(std::isfinite(dtype == ScalarType::Double ? c : single(c)),
            "clenshaw: coefficients must be finite in the dtype of s");
  }
#if GX_HAS_AVX512
  if (dtype == ScalarType::Float && low == dtype && has_float_tiles()) {
    return sum(s, coefficients);
  }
#endif
  return reference_series(s, coefficients, low);
}

}  // namespace gx
