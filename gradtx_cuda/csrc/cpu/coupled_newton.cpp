// CPU kernel of coupled Newton iterations for inverse roots: matrices stay packed between products.
#include <array>

#include "../registration.h"
#include "packed_squares.h"

namespace gx {
namespace {

constexpr int64_t kMostSteps = 1 << 20;

struct Options {
  int64_t p, steps;
  float tol;
  bool halves;
};

// What the reference makes of other dtypes, and on other processors.
Tensor reference_iterations(const Tensor& m, const Tensor& scale, const Options& o, double tol,
                            ScalarType low) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{from(m),   from(scale), from(o.p),     from(o.steps),
                                    from(tol), from(low),   from(o.halves)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::coupled_newton_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

// One matrix; with kHalf, M's products are of what is rounded to bfloat16.
template <bool kHalf>
class Iteration {
 public:
  static int64_t words(int64_t n) {
    return (kHalf ? 4 : 6) * SquareProducts::words<kHalf>(n) +
           (kHalf ? 3 : 2) * SquareProducts::words<false>(n);
  }

  Iteration(const Options& options, const SquareProducts& products, uint32_t* scratch)
      : options_(options),
        products_(products),
        places_(options.halves ? products.upper : products.all) {
    const int64_t n = products.n;
    const auto take = [&](int64_t words) { return std::exchange(scratch, scratch + words); };
    const auto low = [&] { return take(SquareProducts::words<kHalf>(n)); };
    const auto wide = [&] { return take(SquareProducts::words<false>(n)); };
    for (Sides& m : m_) {
      m.right = low();
      m.left = options.halves ? m.right : nullptr;
    }
    for (Sides& power : powers_) {
      power.left = low();
      power.right = mirrors_powers() ? power.left : low();
    }
    for (Sides& x : x_) {
      x.left = wide();
      x.right = options.halves ? x.left : nullptr;
    }
    if (!kHalf) return;
    wide_w_.right = wide();
    wide_w_.left = options.halves ? wide_w_.right : nullptr;
  }

  void run(const float* m, float scale, float* out) {
    NewtonEnd<kHalf> begin = end(m_[0], powers_[0]);
    begin.x = x_[0];
    begin.scale = scale;
    begin.far = nullptr;
    products_.read(m, begin);
    for (int64_t step = 1; step < options_.steps; ++step) {
      raise();
      if (options_.tol > 0.0f && !far_.load()) break;
      const uint32_t* w = kHalf ? wide_w_.right : powers_[0].right;
      products_.template multiply<false>(x_[0].left, w,
                                         product<false>(places_, options_.halves, x_[1]));
      std::swap(x_[0], x_[1]);
    }
    products_.write(x_[0].left, out);
  }

 private:
  // Rounded to bfloat16 it is W W^T, so that one form of W is read and one half is computed.
  bool mirrors_powers() const { return kHalf || options_.halves; }

  template <bool kTo>
  ProductEnd<kTo> product(const std::vector<Place>& places, bool mirrors, const Sides& to) const {
    return {places, products_.panels, mirrors, 1.0f, 0.0f, to};
  }
  NewtonEnd<kHalf> end(const Sides& m, const Sides& w) {
    const float p = static_cast<float>(options_.p);
    const float unit = static_cast<float>(1.0 + 1.0 / static_cast<double>(options_.p));
    const Sides read{w.left, kHalf && !options_.halves ? nullptr : w.right};
    const Sides none{nullptr, nullptr};
    return {places_, products_.n, products_.panels, options_.halves, p,   unit,         m,
            read,    wide_w_,     none,             0.0f,            options_.tol, &far_};
  }

  // M <- W^p M and the next W; powers of W are made by squares.
  void raise() {
    int64_t p = options_.p;
    for (; p > 2 && (kHalf || p != 4); p /= 2) {
      if (p % 2 == 1) apply_power();
      square(p > 3);
    }
    if (p > 1) square(false);
    if (p == 4) apply_power();
    far_.store(false);
    products_.template multiply<kHalf>(powers_[0].left, m_[0].right, end(m_[1], powers_[1]));
    std::swap(m_[0], m_[1]);
    std::swap(powers_[0], powers_[1]);
  }

  void apply_power() {
    products_.template multiply<kHalf>(powers_[0].left, m_[0].right,
                                       product<kHalf>(places_, options_.halves, m_[1]));
    std::swap(m_[0], m_[1]);
  }

  void square(bool again) {
    const bool mirrors = mirrors_powers();
    const Sides to{powers_[1].left, mirrors || again ? powers_[1].right : nullptr};
    products_.template multiply<kHalf>(
        powers_[0].left, powers_[0].right,
        product<kHalf>(mirrors ? products_.upper : products_.all, mirrors, to));
    std::swap(powers_[0], powers_[1]);
  }

  const Options& options_;
  const SquareProducts& products_;
  const std::vector<Place>& places_;
  Sides m_[2], powers_[2], x_[2];  // of each the one at hand, and the next
  Sides wide_w_{nullptr, nullptr};  // W in float32, where M's products have another
  std::atomic<bool> far_{false};
};

template <bool kHalf>
void iterate(const Tensor& m, const Tensor& scale, const Options& options, const Tensor& out) {
  const int64_t n = m.size(1), size = n * n;
  const float* data = static_cast<const float*>(m.const_data_ptr());
  const float* scales = static_cast<const float*>(scale.const_data_ptr());
  float* to = static_cast<float*>(out.mutable_data_ptr());
  for_squares(m.size(0), n, Iteration<kHalf>::words(n),
              [&](const SquareProducts& products, uint32_t* scratch, int64_t i) {
                Iteration<kHalf> iteration(options, products, scratch);
                iteration.run(data + i * size, scales[i], to + i * size);
              });
}
#endif

}  // namespace

Tensor coupled_newton_cpu(const Tensor& m, const Tensor& scale, int64_t p, int64_t steps,
                          double tol, ScalarType low, bool halves) {
  const ScalarType dtype = m.scalar_type();
  require(m.dim() == 3 && m.size(1) == m.size(2) && scale.dim() == 1 &&
              scale.size(0) == m.size(0),
          "coupled_newton: m must be (batch, n, n) and scale (batch,)");
  require((dtype == ScalarType::Float || dtype == ScalarType::Double) &&
              scale.scalar_type() == dtype,
          "coupled_newton: m and scale must both be float32 or float64");
  require(low == dtype || low == ScalarType::Half || low == ScalarType::BFloat16,
          "coupled_newton: low must be the dtype of m, float16 or bfloat16");
  require(!halves || low != ScalarType::Half,
          "coupled_newton: halves are not for products in float16");
  require(low != ScalarType::BFloat16 || dtype == ScalarType::Float,
          "coupled_newton: products in bfloat16 are for float32");
  require(p >= 1, "coupled_newton: p must be >= 1, got ", p);
  require(steps >= 1 && steps <= kMostSteps, "coupled_newton: steps must be in [1, ", kMostSteps,
          "], got ", steps);
  require(tol >= 0.0, "coupled_newton: tol must be >= 0, got ", tol);
  const Options options{p, steps, static_cast<float>(tol), halves};
#if GX_HAS_AVX512
  const bool half = low == ScalarType::BFloat16 && has_half_tiles();
  if (dtype == ScalarType::Float && (half || (low == dtype && has_float_tiles()))) {
    const Tensor out = torch::stable::new_empty(m, {m.size(0), m.size(1), m.size(2)});
    if (out.numel() == 0) return out;
    const Tensor x = torch::stable::contiguous(m), scales = torch::stable::contiguous(scale);
    if (half) {
      iterate<true>(x, scales, options, out);
    } else {
      iterate<false>(x, scales, options, out);
    }
    return out;
  }
#endif
  return reference_iterations(m, scale, options, tol, low);
}

}  // namespace gx
