// CUDA kernel of the moments of a window of sparse rows: one CTA a block, on the current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/window_moments_op.h"
#include "../registration.h"
#include "launch.h"
#include "window_block.h"

namespace gx {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename Index, typename Value, typename Weight>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(const Index* indices, const Value* values, const Weight* weights1,
                   const Weight* weights2, Weight* first, Weight* second, WindowShape shape) {
  const int64_t blocks = (shape.numel - 1) / shape.block_size + 1;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    add_window(indices, values, weights1, weights2, first, second, shape, block);
  }
}

template <typename Index, typename Value, typename Weight>
void launch(const Tensor& indices, const Tensor& values, const Tensor& weights1,
            const Tensor& weights2, const MomentOutputs& outputs, const WindowShape& shape) {
  moments_kernel<Index, Value, Weight>
      <<<ctas(num_blocks(shape.numel, shape.block_size), 1), kThreads, 0,
         current_stream(indices)>>>(static_cast<const Index*>(indices.const_data_ptr()),
                                    static_cast<const Value*>(values.const_data_ptr()),
                                    static_cast<const Weight*>(weights1.const_data_ptr()),
                                    static_cast<const Weight*>(weights2.const_data_ptr()),
                                    static_cast<Weight*>(std::get<0>(outputs).mutable_data_ptr()),
                                    static_cast<Weight*>(std::get<1>(outputs).mutable_data_ptr()),
                                    shape);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Call work(Index{}, Value{}, Weight{}) for three dtypes.
template <typename Work>
void with_dtypes(ScalarType index, ScalarType value, ScalarType weight, const Work& work) {
  const auto with_weight = [&](auto i, auto v) {
    if (weight == ScalarType::Double) {
      work(i, v, double{});
    } else {
      work(i, v, float{});
    }
  };
  const auto with_value = [&](auto i) {
    switch (value) {
      case ScalarType::Double: return with_weight(i, double{});
      case ScalarType::Half: return with_weight(i, Half{});
      case ScalarType::BFloat16: return with_weight(i, BFloat16{});
      default: return with_weight(i, float{});
    }
  };
  switch (index) {
    case ScalarType::Short: return with_value(int16_t{});
    case ScalarType::Int: return with_value(int32_t{});
    default: return with_value(int64_t{});
  }
}

}  // namespace

MomentOutputs window_moments_cuda(const Tensor& indices, const Tensor& values,
                                  const Tensor& weights1, const Tensor& weights2, int64_t numel,
                                  int64_t block_size, int64_t k) {
  const torch::stable::accelerator::DeviceGuard guard(indices.get_device_index());
  require_window_moments(indices, values, weights1, weights2, numel, block_size, k);
  const MomentOutputs outputs = allocate_window_moments(weights1, numel);
  if (numel == 0) return outputs;
  const Tensor at = torch::stable::contiguous(indices), of = torch::stable::contiguous(values);
  const Tensor w1 = torch::stable::contiguous(weights1);
  const Tensor w2 = torch::stable::contiguous(weights2);
  const WindowShape shape{at.size(0), at.size(1), numel, block_size, k};
  with_dtypes(at.scalar_type(), of.scalar_type(), w1.scalar_type(), [&](auto i, auto v, auto w) {
    launch<decltype(i), decltype(v), decltype(w)>(at, of, w1, w2, outputs, shape);
  });
  return outputs;
}

}  // namespace gx
