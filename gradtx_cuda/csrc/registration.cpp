// Registers the kernels under the dispatcher names that gradtx.ops defines.
#include "registration.h"

#define GX_IMPL(name, device) library.impl(#name, TORCH_BOX(&gx::name##_##device));
#define GX_REGISTER(key, device)                    \
  STABLE_TORCH_LIBRARY_IMPL(gradtx, key, library) { \
    GX_IMPL(quantize_affine, device)                \
    GX_IMPL(dequantize_affine, device)              \
    GX_IMPL(block_quantize, device)                 \
    GX_IMPL(block_dequantize, device)               \
    GX_IMPL(dct_before, device)                     \
    GX_IMPL(dct_after_, device)                     \
    GX_IMPL(hadamard, device)                       \
    GX_IMPL(random_bits, device)                    \
    GX_IMPL(pack_signs, device)                     \
    GX_IMPL(unpack_signs, device)                   \
    GX_IMPL(block_top_k, device)                    \
    GX_IMPL(window_moments, device)                 \
    GX_IMPL(sparse_window_dots, device)             \
    GX_IMPL(sparse_window_combine, device)          \
    GX_IMPL(sparse_window_push_, device)            \
    GX_IMPL(sparse_window_step_, device)            \
    GX_IMPL(microadam_, device)                     \
  }

GX_REGISTER(CPU, cpu)
STABLE_TORCH_LIBRARY_IMPL(gradtx, CPU, library) {
  GX_IMPL(dct_halves, cpu)
  GX_IMPL(window_dots, cpu)
  GX_IMPL(random_normal, cpu)
  GX_IMPL(coordinates, cpu)
  GX_IMPL(coordinates_squares, cpu)
  GX_IMPL(add_product_, cpu)
  GX_IMPL(ldadam_columns, cpu)
  GX_IMPL(ldadam_moments_, cpu)
  GX_IMPL(column_adam, cpu)
  GX_IMPL(largest_columns, cpu)
  GX_IMPL(orthonormalize_, cpu)
  GX_IMPL(symmetric_product, cpu)
  GX_IMPL(block_fisher, cpu)
  GX_IMPL(block_fisher_times, cpu)
  GX_IMPL(newton_schulz, cpu)
  GX_IMPL(coupled_newton, cpu)
  GX_IMPL(denman_beavers, cpu)
  GX_IMPL(clenshaw, cpu)
  GX_IMPL(cholesky_iteration, cpu)
  GX_IMPL(cholesky_turn, cpu)
}
#ifdef GX_WITH_CUDA
GX_REGISTER(CUDA, cuda)
#endif
