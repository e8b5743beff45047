// CUDA kernel of the block-wise selection of the largest magnitudes: one CTA a block, on the
// current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/block_top_k_op.h"
#include "../registration.h"
#include "launch.h"
#include "select.h"

namespace gx {
namespace {

template <typename Bits, typename Index>
__global__ void __launch_bounds__(kThreads) select_kernel(const Bits* x, Index* out, int64_t numel,
                                                          int64_t block_size, int64_t k,
                                                          int64_t k_tail) {
  __shared__ SelectMemory<Bits> memory;
  const int64_t blocks = (numel - 1) / block_size + 1;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t start = block * block_size, n = min(block_size, numel - start);
    select_block(x + start, n, n == block_size ? k : k_tail, out + block * k, memory);
  }
}

template <typename Bits, typename Index>
void launch(const Tensor& x, const Tensor& out, int64_t block_size, int64_t k, int64_t k_tail) {
  select_kernel<Bits, Index><<<ctas(num_blocks(x.numel(), block_size), 1), kThreads, 0,
                               current_stream(x)>>>(static_cast<const Bits*>(x.const_data_ptr()),
                                                    static_cast<Index*>(out.mutable_data_ptr()),
                                                    x.numel(), block_size, k, k_tail);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Bits>
void launch(const Tensor& x, const Tensor& out, int64_t block_size, int64_t k, int64_t k_tail) {
  switch (out.scalar_type()) {
    case ScalarType::Short: return launch<Bits, int16_t>(x, out, block_size, k, k_tail);
    case ScalarType::Int: return launch<Bits, int32_t>(x, out, block_size, k, k_tail);
    default: return launch<Bits, int64_t>(x, out, block_size, k, k_tail);
  }
}

}  // namespace

Tensor block_top_k_cuda(const Tensor& x, int64_t block_size, int64_t k, int64_t k_tail,
                        ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor values = prepare_block_top_k(x, block_size, k, k_tail, dtype);
  const Tensor out = allocate_block_top_k(values, block_size, k, k_tail, dtype);
  if (values.numel() == 0) return out;
  require(std::min(block_size, values.numel()) <= UINT32_MAX,
          "block_top_k: blocks must have at most 2^32 - 1 elements on CUDA devices");
  switch (values.scalar_type()) {
    case ScalarType::Double: launch<uint64_t>(values, out, block_size, k, k_tail); break;
    case ScalarType::Float: launch<uint32_t>(values, out, block_size, k, k_tail); break;
    default: launch<uint16_t>(values, out, block_size, k, k_tail);
  }
  return out;
}

}  // namespace gx
