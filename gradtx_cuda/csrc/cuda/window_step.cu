// CUDA kernels of the sparse M-FAC step: one launch for the blocks of many leaves, a CTA a block.
// The host waits for nothing.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/window_step_op.h"
#include "../registration.h"
#include "launch.h"
#include "window_step_block.h"

namespace gx {
namespace {

constexpr int kLeaves = 24;  // of one launch: they travel as its arguments
constexpr int kStepThreads = 512;

template <typename Leaf>
struct Launch {
  Leaf leaves[kLeaves];
  int64_t blocks, window;
  int32_t count, longest;  // leaves; elements of a block
};
static_assert(sizeof(Launch<PushLeaf>) <= 4000 && sizeof(Launch<MoveLeaf>) <= 4000, "arguments");

template <typename Leaf>
__device__ const Leaf& find_leaf(const Launch<Leaf>& launch, int64_t block) {
  int i = 0;
  while (i + 1 < launch.count && launch.leaves[i + 1].first_block <= block) ++i;
  return launch.leaves[i];
}

__global__ void __launch_bounds__(kThreads)
    check_kernel(const __grid_constant__ Launch<PushLeaf> launch, int32_t* bad) {
  for (int64_t block = blockIdx.x; block < launch.blocks; block += gridDim.x) {
    const PushLeaf& leaf = find_leaf(launch, block);
    check_block(leaf, block - leaf.first_block, bad);
  }
}

__global__ void __launch_bounds__(kThreads)
    rows_kernel(const __grid_constant__ Launch<PushLeaf> launch, const int32_t* step) {
  find_rows(launch.leaves[blockIdx.x], *step, launch.window);
}

__global__ void __launch_bounds__(kStepThreads)
    push_kernel(const __grid_constant__ Launch<PushLeaf> launch, const int32_t* step,
                const int32_t* bad) {
  extern __shared__ float buffer[];
  __shared__ SelectMemory<uint32_t> memory;
  if (*bad != 0) return;
  for (int64_t block = blockIdx.x; block < launch.blocks; block += gridDim.x) {
    const PushLeaf& leaf = find_leaf(launch, block);
    push_block(leaf, *step, launch.window, block - leaf.first_block, buffer, memory);
  }
}

__global__ void __launch_bounds__(kThreads)
    finish_kernel(const __grid_constant__ Launch<PushLeaf> launch, const int32_t* step,
                  const int32_t* bad) {
  if (*bad != 0) return;
  const PushLeaf& leaf = launch.leaves[blockIdx.x];
  const int64_t blocks = leaf.numel == 0 ? 0 : (leaf.numel - 1) / leaf.block_size + 1;
  finish_push(leaf, *step, launch.window, blocks);
}

__global__ void __launch_bounds__(kStepThreads)
    move_kernel(const __grid_constant__ Launch<MoveLeaf> launch) {
  extern __shared__ float buffer[];
  for (int64_t block = blockIdx.x; block < launch.blocks; block += gridDim.x) {
    const MoveLeaf& leaf = find_leaf(launch, block);
    move_block(leaf, launch.window, block - leaf.first_block, buffer);
  }
}

template <typename Leaf>
void append(std::vector<Launch<Leaf>>& launches, Leaf leaf, int64_t window) {
  if (launches.empty() || launches.back().count == kLeaves) {
    launches.emplace_back();
    launches.back().window = window;
  }
  Launch<Leaf>& launch = launches.back();
  leaf.first_block = launch.blocks;
  launch.leaves[launch.count++] = leaf;
  launch.blocks += num_blocks(leaf.numel, leaf.block_size);
  launch.longest = std::max(launch.longest, leaf.block_size);
}

// Bytes of dynamic shared memory for a block; asks for leave to use them.
template <typename Kernel>
int shared_bytes(const char* op, Kernel kernel, int32_t longest, int64_t fixed) {
  const int64_t bytes = longest * int64_t{sizeof(float)};
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  require(bytes <= most - fixed, op, ": a block of ", longest, " elements needs ", bytes,
          " bytes of shared memory, this device has ", most - fixed);
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  require(status == cudaSuccess, op, ": ", cudaGetErrorString(status));
  return static_cast<int>(bytes);
}

template <typename T>
T* pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

bool is_bf16(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

}  // namespace

PushOutputs sparse_window_push__cuda(const Tensors& grads, const Tensors& errors,
                                     const Tensors& indices, const Tensors& values,
                                     const Tensors& written, const Tensor& step, const Ints& signs,
                                     const Ints& block_sizes, const Ints& kept, bool check) {
  const PushArgs a{grads, errors, indices, values, written, step, signs, block_sizes, kept};
  require_push(a);
  const torch::stable::accelerator::DeviceGuard guard(step.get_device_index());
  const int64_t window = written[0].numel();
  const auto count = static_cast<int64_t>(grads.size());
  const Tensor out = torch::stable::new_empty(step, {count, window}, ScalarType::Double);
  const Tensor counts = torch::stable::new_empty(step, {count, window}, ScalarType::Bool);
  const Tensor flags = torch::stable::new_empty(step, {count}, ScalarType::Bool);
  const Tensor bad = torch::stable::new_empty(step, {1}, ScalarType::Int);
  int64_t blocks = 0;
  for (size_t i = 0; i < grads.size(); ++i) blocks += num_blocks(grads[i].numel(), block_sizes[i]);
  const Tensor table = torch::stable::new_empty(step, {blocks * window}, ScalarType::Double);
  std::vector<Launch<PushLeaf>> launches;
  blocks = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    PushLeaf leaf{};
    leaf.grad = grads[i].const_data_ptr();
    leaf.error = pointer<float>(errors[i]);
    leaf.indices = pointer<int16_t>(indices[i]);
    leaf.values = values[i].mutable_data_ptr();
    leaf.written = pointer<int32_t>(written[i]);
    leaf.there = pointer<uint8_t>(counts) + static_cast<int64_t>(i) * window;
    leaf.finite = pointer<uint8_t>(flags) + i;
    leaf.table = pointer<double>(table) + blocks * window;
    leaf.dots = pointer<double>(out) + static_cast<int64_t>(i) * window;
    leaf.numel = grads[i].numel();
    leaf.columns = indices[i].size(1);
    leaf.sign = static_cast<float>(signs[i]);
    leaf.block_size = static_cast<int32_t>(block_sizes[i]);
    leaf.k = static_cast<int32_t>(kept[i]);
    leaf.bf16_grad = is_bf16(grads[i]);
    leaf.bf16_values = is_bf16(values[i]);
    blocks += num_blocks(leaf.numel, leaf.block_size);
    append(launches, leaf, window);
  }
  std::vector<int> shared;
  for (const auto& launch : launches) {
    shared.push_back(shared_bytes("sparse_window_push_", push_kernel, launch.longest,
                                  int64_t{sizeof(SelectMemory<uint32_t>)}));
  }
  const cudaStream_t stream = current_stream(step);
  const auto* done = static_cast<const int32_t*>(step.const_data_ptr());
  cudaMemsetAsync(pointer<uint8_t>(flags), 1, static_cast<size_t>(count), stream);
  cudaMemsetAsync(pointer<int32_t>(bad), 0, sizeof(int32_t), stream);
  cudaMemsetAsync(pointer<double>(out), 0, static_cast<size_t>(count * window) * sizeof(double),
                  stream);
  for (const auto& launch : launches) {
    rows_kernel<<<launch.count, kThreads, 0, stream>>>(launch, done);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (!check || launch.blocks == 0) continue;
    check_kernel<<<ctas(launch.blocks, 1), kThreads, 0, stream>>>(launch, pointer<int32_t>(bad));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  for (size_t i = 0; i < launches.size(); ++i) {
    const auto& launch = launches[i];
    if (launch.blocks != 0) {
      push_kernel<<<ctas(launch.blocks, 1), kStepThreads, static_cast<size_t>(shared[i]), stream>>>(
          launch, done, pointer<int32_t>(bad));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    finish_kernel<<<launch.count, kThreads, 0, stream>>>(launch, done, pointer<int32_t>(bad));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {out, counts, flags};
}

void sparse_window_step__cuda(const Tensors& params, const Tensors& momenta,
                              const Tensors& indices, const Tensors& values, const Tensor& weights,
                              const Tensor& hyper, const Ints& rows, const Ints& block_sizes,
                              const Ints& kept) {
  const MoveArgs a{params, momenta, indices, values, weights, hyper, rows, block_sizes, kept};
  require_move(a);
  const torch::stable::accelerator::DeviceGuard guard(weights.get_device_index());
  const int64_t window = weights.size(1);
  std::vector<Launch<MoveLeaf>> launches;
  for (size_t i = 0; i < params.size(); ++i) {
    const double* h =
        static_cast<const double*>(hyper.const_data_ptr()) + rows[i] * int64_t{kMoveColumns};
    MoveLeaf leaf{};
    leaf.param = params[i].mutable_data_ptr();
    leaf.momentum = momenta.empty() ? nullptr : pointer<float>(momenta[i]);
    leaf.indices = static_cast<const int16_t*>(indices[i].const_data_ptr());
    leaf.values = values[i].const_data_ptr();
    leaf.weights =
        static_cast<const double*>(weights.const_data_ptr()) + static_cast<int64_t>(i) * window;
    leaf.numel = params[i].numel();
    leaf.columns = indices[i].size(1);
    leaf.lr = static_cast<float>(h[kMoveLr]);
    leaf.decay = static_cast<float>(h[kMoveDecay]);
    leaf.mu = static_cast<float>(h[kMoveMomentum]);
    leaf.block_size = static_cast<int32_t>(block_sizes[i]);
    leaf.k = static_cast<int32_t>(kept[i]);
    leaf.bf16_param = is_bf16(params[i]);
    leaf.bf16_values = is_bf16(values[i]);
    append(launches, leaf, window);
  }
  for (const auto& launch : launches) {
    if (launch.blocks == 0) continue;
    const int bytes = shared_bytes("sparse_window_step_", move_kernel, launch.longest, 0);
    move_kernel<<<ctas(launch.blocks, 1), kStepThreads, static_cast<size_t>(bytes),
                  current_stream(weights)>>>(launch);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

}  // namespace gx
