// CPU kernel of Denman-Beavers iterations in product form: a matrix stays packed between products.
#include <array>

#include "../registration.h"
#include "packed_squares.h"

namespace gx {
namespace {

constexpr int64_t kMostSteps = 1 << 20;

// What the reference makes of other dtypes, and on other processors.
Tensor reference_iterations(const Tensor& k, int64_t steps, bool inverse, ScalarType low) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(k), from(steps), from(inverse), from(low)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::denman_beavers_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

// One matrix.
class Iteration {
 public:
  static int64_t words(int64_t n) { return 10 * SquareProducts::words<false>(n); }

  Iteration(const SquareProducts& products, uint32_t* scratch) : products_(products) {
    const int64_t words = SquareProducts::words<false>(products.n);
    const auto take = [&] { return std::exchange(scratch, scratch + words); };
    for (Sides* x : {&y_, &z_, &e_, &next_y_, &next_z_}) *x = {take(), take()};
  }

  void run(const float* k, int64_t steps, bool inverse, float* out) {
    products_.read(k, to({next_y_.left, nullptr}));
    products_.read(k, to(z_, -0.5f, 1.5f));
    if (!inverse || steps > 1) products_.multiply<false>(next_y_.left, z_.right, to(y_));
    for (int64_t step = 2; step <= steps; ++step) {
      const bool last = step == steps;
      products_.multiply<false>(z_.left, y_.right, to(e_, -0.5f, 1.5f));
      if (!last || !inverse) {
        products_.multiply<false>(y_.left, e_.right, to(next_y_));
        std::swap(y_, next_y_);
      }
      if (!last || inverse) {
        products_.multiply<false>(e_.left, z_.right, to(next_z_));
        std::swap(z_, next_z_);
      }
    }
    products_.write(inverse ? z_.left : y_.left, out);
  }

 private:
  ProductEnd<false> to(const Sides& sides, float alpha = 1.0f, float unit = 0.0f) const {
    return {products_.all, products_.panels, false, alpha, unit, sides};
  }

  const SquareProducts& products_;
  Sides y_, z_, e_, next_y_, next_z_;
};

Tensor iterate(const Tensor& k, int64_t steps, bool inverse) {
  const Tensor out = torch::stable::new_empty(k, {k.size(0), k.size(1), k.size(2)});
  if (out.numel() == 0) return out;
  const Tensor from = torch::stable::contiguous(k);
  const int64_t n = k.size(1), size = n * n;
  const float* data = static_cast<const float*>(from.const_data_ptr());
  float* to = static_cast<float*>(out.mutable_data_ptr());
  for_squares(k.size(0), n, Iteration::words(n),
              [&](const SquareProducts& products, uint32_t* scratch, int64_t i) {
                Iteration(products, scratch).run(data + i * size, steps, inverse, to + i * size);
              });
  return out;
}
#endif

}  // namespace

Tensor denman_beavers_cpu(const Tensor& k, int64_t steps, bool inverse, ScalarType low) {
  const ScalarType dtype = k.scalar_type();
  require(k.dim() == 3 && k.size(1) == k.size(2), "denman_beavers: k must be (batch, n, n)");
  require(dtype == ScalarType::Float || dtype == ScalarType::Double,
          "denman_beavers: k must be float32 or float64");
  require(low == dtype || low == ScalarType::Half || low == ScalarType::BFloat16,
          "denman_beavers: low must be the dtype of k, float16 or bfloat16");
  require(steps >= 1 && steps <= kMostSteps, "denman_beavers: steps must be in [1, ", kMostSteps,
          "], got ", steps);
#if GX_HAS_AVX512
  if (dtype == ScalarType::Float && low == dtype && has_float_tiles()) {
    return iterate(k, steps, inverse);
  }
#endif
  return reference_iterations(k, steps, inverse, low);
}

}  // namespace gx
