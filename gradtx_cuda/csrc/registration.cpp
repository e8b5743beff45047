// Registers the kernels under the dispatcher names that gradtx.ops defines.
#include "registration.h"

#define GX_REGISTER(key, device)                                              \
  STABLE_TORCH_LIBRARY_IMPL(gradtx, key, library) {                           \
    library.impl("quantize_affine", TORCH_BOX(&gx::quantize_affine_##device)); \
    library.impl("dequantize_affine", TORCH_BOX(&gx::dequantize_affine_##device)); \
  }

GX_REGISTER(CPU, cpu)
#ifdef GX_WITH_CUDA
GX_REGISTER(CUDA, cuda)
#endif
