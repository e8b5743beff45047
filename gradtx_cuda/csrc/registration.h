// The operators' kernels, one declaration a device.
#pragma once

#include "common/block_quantize_op.h"
#include "common/block_top_k_op.h"
#include "common/dct_op.h"
#include "common/hadamard_op.h"
#include "common/microadam_op.h"
#include "common/quantize_affine_op.h"
#include "common/random_bits_op.h"
#include "common/signs_op.h"
#include "common/window_moments_op.h"
#include "common/window_products_op.h"
#include "common/window_step_op.h"

namespace gx {

using Doubles = std::vector<double>;

#define GX_DECLARE(device)                                                                       \
  QuantizeOutputs quantize_affine_##device(const Tensor& x, int64_t bits, int64_t block_size,    \
                                           bool stochastic, const std::optional<Tensor>& key,    \
                                           bool include_zero, ScalarType stats_dtype);           \
  Tensor dequantize_affine_##device(const Tensor& codes, const Tensor& lo, const Tensor& hi,     \
                                    int64_t bits, int64_t block_size, int64_t numel,             \
                                    ScalarType dtype);                                           \
  BlockOutputs block_quantize_##device(const Tensor& x, int64_t bits, int64_t block_size,        \
                                       bool is_signed);                                          \
  Tensor block_dequantize_##device(const Tensor& codes, const Tensor& scale, int64_t numel,      \
                                   int64_t bits, int64_t block_size, bool is_signed);            \
  Tensor dct_before_##device(const Tensor& x, const Tensor& twiddle, bool inverse);              \
  void dct_after__##device(const Tensor& out, const Tensor& x, const Tensor& twiddle,            \
                           bool inverse);                                                        \
  Tensor hadamard_##device(const Tensor& x);                                                     \
  Tensor random_bits_##device(const Tensor& key, int64_t numel);                                 \
  Tensor pack_signs_##device(const Tensor& x);                                                   \
  Tensor unpack_signs_##device(const Tensor& bits, int64_t columns);                             \
  Tensor block_top_k_##device(const Tensor& x, int64_t block_size, int64_t k, int64_t k_tail,    \
                              ScalarType dtype);                                                 \
  MomentOutputs window_moments_##device(const Tensor& indices, const Tensor& values,             \
                                        const Tensor& weights1, const Tensor& weights2,          \
                                        int64_t numel, int64_t block_size, int64_t k);           \
  Tensor sparse_window_dots_##device(const Tensor& indices, const Tensor& values,                \
                                     const Tensor& x, int64_t block_size, int64_t k);            \
  Tensor sparse_window_combine_##device(const Tensor& indices, const Tensor& values,             \
                                        const Tensor& weights, int64_t numel,                    \
                                        int64_t block_size, int64_t k);                          \
  PushOutputs sparse_window_push__##device(                                                      \
      const Tensors& grads, const Tensors& errors, const Tensors& indices,                       \
      const Tensors& values, const Tensors& written, const Tensor& step, const Ints& signs,      \
      const Ints& block_sizes, const Ints& kept, bool check);                                    \
  void sparse_window_step__##device(const Tensors& params, const Tensors& momenta,               \
                                    const Tensors& indices, const Tensors& values,               \
                                    const Tensor& weights, const Tensor& hyper,                  \
                                    const Ints& rows, const Ints& block_sizes,                   \
                                    const Ints& kept);                                           \
  Tensor microadam__##device(const Tensors& params, const Tensors& grads, const Tensors& codes,  \
                             const Tensors& lo, const Tensors& hi, const Tensors& steps,         \
                             const Tensors& indices, const Tensors& values, const Tensor& hyper, \
                             const Ints& rows, const Ints& signs, const Ints& block_sizes,       \
                             const Ints& kept, int64_t quant_block_size, bool include_zero,      \
                             bool window_correction, const std::string& nonfinite);
GX_DECLARE(cpu)
GX_DECLARE(cuda)
#undef GX_DECLARE

Tensor dct_halves_cpu(const Tensor& x, const Tensor& table, bool inverse, int64_t dim);
Tensor window_dots_cpu(const Tensor& rows, const Tensor& x);
Tensor random_normal_cpu(const Tensor& key, int64_t numel);
Tensor coordinates_cpu(const Tensor& x, const Tensor& basis, bool left);
BlockOutputs coordinates_squares_cpu(const Tensor& x, const Tensor& basis, bool left);
void add_product__cpu(const Tensor& x, const Tensor& a, const Tensor& b, double beta,
                      double alpha, const std::optional<Tensor>& addend,
                      const std::optional<Tensor>& scale);
Tensor ldadam_columns_cpu(const Tensor& x, const Tensor& basis, const Tensor& m,
                          const Tensor& weight, bool left);
Tensor ldadam_moments__cpu(const Tensor& x, const Tensor& basis, const Tensor& old,
                           const Tensor& m, const Tensor& v, const Tensor& weights, bool left);
std::tuple<Tensor, Tensor, Tensor> column_adam_cpu(const Tensor& x, const Tensor& mu,
                                                   const Tensor& nu, const Tensor& old,
                                                   const Tensor& now, const Tensor& count,
                                                   double b1, double b2, double eps, int64_t dim,
                                                   bool transfer);
Tensor largest_columns_cpu(const Tensor& x, int64_t k, int64_t dim, bool squares,
                           const std::optional<Tensor>& weights);
Tensor orthonormalize__cpu(const Tensor& y, const Tensor& q);
Tensor symmetric_product_cpu(const Tensor& x, const Tensor& y, const std::optional<Tensor>& c,
                             double beta, double alpha, bool mixed);
BlockOutputs block_fisher_cpu(const Tensor& gradients, int64_t block, double damping);
Tensor block_fisher_times_cpu(const Tensor& gradients, const Tensor& factor, const Tensor& x,
                              int64_t block, double damping);
Tensor newton_schulz_cpu(const Tensors& xs, const Doubles& coefficients, const Ints& parts,
                         const std::string& scaling, double safety, double eps, ScalarType dtype,
                         bool mixed, double scale);
Tensor coupled_newton_cpu(const Tensor& m, const Tensor& scale, int64_t p, int64_t steps,
                          double tol, ScalarType low, bool halves);
Tensor denman_beavers_cpu(const Tensor& k, int64_t steps, bool inverse, ScalarType low);
std::tuple<Tensor, Tensor, Tensor, Tensor> cholesky_iteration_cpu(
    const Tensor& s, const std::optional<Tensor>& order, const std::optional<Tensor>& ridge);
Tensor cholesky_turn_cpu(const Tensor& x, const Tensor& first, const Tensor& second, bool left,
                         const std::optional<Tensor>& order);
Tensor clenshaw_cpu(const Tensor& s, const Doubles& coefficients, ScalarType low);

}  // namespace gx
