// Argument checks and sizes of the passes around the FFT of a DCT, shared by CPU and CUDA.
#pragma once

#include "checks.h"

namespace gx {

// The dtype of the spectrum of real numbers.
inline ScalarType spectrum_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::ComplexDouble
                                               : ScalarType::ComplexFloat;
}

// Check a matrix of reals, and the twiddles of its rows; return these contiguous.
inline Tensor prepare_dct_pass(const Tensor& x, const Tensor& twiddle) {
  require(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
          "dct: passes need float32 or float64");
  require(x.dim() == 2 && x.size(1) >= 1, "dct: passes need a matrix of at least one column");
  require(twiddle.scalar_type() == x.scalar_type() && twiddle.dim() == 2 &&
              twiddle.size(0) == 2 && twiddle.size(1) == x.size(1) / 2 + 1,
          "dct: twiddle must be a matrix (2, n // 2 + 1) of the passes' dtype");
  require(twiddle.device() == x.device(), "dct: all tensors must share a device");
  return torch::stable::contiguous(twiddle);
}

inline Tensor allocate_dct_before(const Tensor& x, bool inverse) {
  const int64_t rows = x.size(0), n = x.size(1);
  return inverse ? torch::stable::new_empty(x, {rows, n / 2 + 1}, spectrum_dtype(x))
                 : torch::stable::new_empty(x, {rows, n});
}

// Check the arguments of the pass after the FFT and return its input contiguous.
inline Tensor prepare_dct_after(const Tensor& out, const Tensor& x, bool inverse) {
  const int64_t columns = inverse ? out.size(1) : out.size(1) / 2 + 1;
  require(out.is_contiguous(), "dct: out must be contiguous");
  require(x.scalar_type() == (inverse ? out.scalar_type() : spectrum_dtype(out)) &&
              x.dim() == 2 && x.size(0) == out.size(0) && x.size(1) == columns,
          "dct: the FFT's result and out must match");
  require(x.device() == out.device(), "dct: all tensors must share a device");
  require_apart("dct", out, x);
  return torch::stable::contiguous(x);
}

}  // namespace gx
