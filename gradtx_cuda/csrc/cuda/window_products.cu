// CUDA kernels of products with a window of sparse rows, on the current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "../common/window_products_op.h"
#include "../registration.h"
#include "launch.h"
#include "window_products_block.h"

namespace gx {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

template <typename Index, typename Value, typename X>
__global__ void __launch_bounds__(kThreads)
    dots_kernel(const Index* indices, const Value* values, const X* x, double* table,
                ProductShape shape, int64_t parts) {
  for (int64_t part = blockIdx.x; part < parts; part += gridDim.x) {
    dot_piece(indices, values, x, table, shape, part);
  }
}

__global__ void sums_kernel(const double* table, double* out, int64_t parts, int64_t rows) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    sum_column(table, out, parts, rows, row);
  }
}

template <typename Index, typename Value, typename Sum>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const Index* indices, const Value* values, const double* weights, Sum* out,
                   ProductShape shape, int64_t blocks) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    combine_block(indices, values, weights, out, shape, block);
    __syncthreads();
  }
}

// Call work(Index{}, Value{}) for two dtypes.
template <typename Work>
void with_dtypes(ScalarType index, ScalarType value, const Work& work) {
  const auto with_value = [&](auto i) {
    switch (value) {
      case ScalarType::Double: return work(i, double{});
      case ScalarType::Half: return work(i, Half{});
      case ScalarType::BFloat16: return work(i, BFloat16{});
      default: return work(i, float{});
    }
  };
  switch (index) {
    case ScalarType::Short: return with_value(int16_t{});
    case ScalarType::Int: return with_value(int32_t{});
    default: return with_value(int64_t{});
  }
}

template <typename T>
const T* pointer(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

}  // namespace

Tensor sparse_window_dots_cuda(const Tensor& indices, const Tensor& values, const Tensor& x,
                               int64_t block_size, int64_t k) {
  const torch::stable::accelerator::DeviceGuard guard(indices.get_device_index());
  const WindowGeometry g = require_sparse_dots(indices, values, x, block_size, k);
  const Tensor at = torch::stable::contiguous(indices), of = torch::stable::contiguous(values);
  const Tensor vector = torch::stable::contiguous(x);
  const Tensor out = torch::stable::new_empty(values, {g.rows}, ScalarType::Double);
  if (g.rows == 0) return out;
  const int64_t pieces = pieces_of_block(k, g.columns);
  const int64_t parts = g.columns == 0 ? 0 : num_blocks(g.columns, k) * pieces;
  const Tensor table = torch::stable::new_empty(out, {parts * g.rows}, ScalarType::Double);
  const ProductShape shape{g.rows, g.columns, g.numel, g.block_size, g.k, pieces};
  const cudaStream_t stream = current_stream(indices);
  auto* sums = static_cast<double*>(table.mutable_data_ptr());
  if (parts > 0) {
    with_dtypes(at.scalar_type(), of.scalar_type(), [&](auto i, auto v) {
      const auto launch = [&](auto number) {
        dots_kernel<<<ctas(parts, 1), kThreads, 0, stream>>>(
            pointer<decltype(i)>(at), pointer<decltype(v)>(of), pointer<decltype(number)>(vector),
            sums, shape, parts);
      };
      if (vector.scalar_type() == ScalarType::Double) {
        launch(double{});
      } else {
        launch(float{});
      }
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  sums_kernel<<<ctas(g.rows, 1), 32, 0, stream>>>(
      sums, static_cast<double*>(out.mutable_data_ptr()), parts, g.rows);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

Tensor sparse_window_combine_cuda(const Tensor& indices, const Tensor& values,
                                  const Tensor& weights, int64_t numel, int64_t block_size,
                                  int64_t k) {
  const torch::stable::accelerator::DeviceGuard guard(indices.get_device_index());
  const WindowGeometry g = require_sparse_combine(indices, values, weights, numel, block_size, k);
  const Tensor out = torch::stable::new_empty(values, {numel}, sum_dtype(values));
  if (numel == 0) return out;
  const Tensor at = torch::stable::contiguous(indices), of = torch::stable::contiguous(values);
  const Tensor by = torch::stable::contiguous(weights);
  const ProductShape shape{g.rows, g.columns, g.numel, g.block_size, g.k, 1};
  const int64_t blocks = num_blocks(numel, block_size);
  with_dtypes(at.scalar_type(), of.scalar_type(), [&](auto i, auto v) {
    using Sum = std::conditional_t<std::is_same_v<decltype(v), double>, double, float>;
    combine_kernel<<<ctas(blocks, 1), kThreads, 0, current_stream(indices)>>>(
        pointer<decltype(i)>(at), pointer<decltype(v)>(of), pointer<double>(by),
        static_cast<Sum*>(out.mutable_data_ptr()), shape, blocks);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace gx
