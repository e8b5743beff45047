// CPU kernel of the product with a thin factor that measures what is large on the way.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "../registration.h"
#include "skinny_product.h"

namespace gx {
namespace {

#if GX_HAS_AVX512

bool multiply_measured(const float* x, const float* basis, int64_t rows, int64_t columns,
                       int64_t rank, bool left, float* out, double* squares) {
  if (!has_avx512() || rank == 0) return false;
  const Operand big{x, columns, 1};
  if (left) {
    Product product{{basis, 1, rank}, big, out, columns, 1, 0};
    product.b_squares = squares;
    multiply(product, rank, columns, rows);
  } else {
    Product product{big, {basis, rank, 1}, out, rank, 1, 0};
    product.a_squares = squares;
    multiply(product, rows, rank, columns);
  }
  return true;
}

#else

bool multiply_measured(const float*, const float*, int64_t, int64_t, int64_t, bool, float*,
                       double*) {
  return false;
}

#endif

void measure(const float* x, int64_t rows, int64_t columns, bool left, double* squares) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double value = x[i * columns + j];
      squares[left ? j : i] += value * value;
    }
  }
}

}  // namespace

BlockOutputs coordinates_squares_cpu(const Tensor& x, const Tensor& basis, bool left) {
  require(x.dim() == 2 && basis.dim() == 2 && basis.size(0) == x.size(left ? 0 : 1),
          "coordinates_squares: x and basis must be matrices that match");
  require(x.scalar_type() == ScalarType::Float && basis.scalar_type() == ScalarType::Float,
          "coordinates_squares: x and basis must be float32");
  const int64_t rows = x.size(0), columns = x.size(1), rank = basis.size(1);
  const int64_t length = left ? columns : rows;
  const Tensor big = torch::stable::contiguous(x), thin = torch::stable::contiguous(basis);
  const Tensor out = left ? torch::stable::new_empty(x, {rank, columns})
                          : torch::stable::new_empty(x, {rows, rank});
  const Tensor squares = torch::stable::new_empty(x, {length}, ScalarType::Double);
  const float* numbers = static_cast<const float*>(big.const_data_ptr());
  double* sums = static_cast<double*>(squares.mutable_data_ptr());
  std::fill(sums, sums + length, 0.0);
  if (!multiply_measured(numbers, static_cast<const float*>(thin.const_data_ptr()), rows, columns,
                         rank, left, static_cast<float*>(out.mutable_data_ptr()), sums)) {
    const Tensor a = left ? torch::stable::transpose(thin, 0, 1) : big;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_mm_out(out.get(), a.get(), (left ? big : thin).get()));
    measure(numbers, rows, columns, left, sums);
  }
  return {out, squares};
}

}  // namespace gx
