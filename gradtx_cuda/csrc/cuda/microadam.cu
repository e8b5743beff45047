// CUDA kernels of the MicroAdam step: one launch for the blocks of many leaves, a CTA a block that
// it holds in shared memory. The host waits for nothing.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/microadam_op.h"
#include "../registration.h"
#include "launch.h"
#include "microadam_block.h"

namespace gx {
namespace {

constexpr int kLeaves = 24;  // of one launch: they travel as its arguments
constexpr int kStepThreads = 512;

struct Launch {
  MicroAdamLeaf leaves[kLeaves];
  MicroAdamOptions options;
  int32_t count;
  int32_t weights_at;  // where in the dynamic shared memory
  int64_t blocks;
  const int32_t* stop;  // set where a leaf is not finite and no leaf may move; or null
};
static_assert(sizeof(Launch) <= 4096, "arguments of a kernel");

__device__ int find_leaf(const Launch& launch, int64_t block) {
  int i = 0;
  while (i + 1 < launch.count && launch.leaves[i + 1].first_block <= block) ++i;
  return i;
}

__global__ void __launch_bounds__(kThreads)
    check_kernel(const __grid_constant__ Launch launch, int32_t* bad) {
  for (int64_t block = blockIdx.x; block < launch.blocks; block += gridDim.x) {
    const MicroAdamLeaf& leaf = launch.leaves[find_leaf(launch, block)];
    if (!is_finite(leaf, block - leaf.first_block)) {
      *leaf.finite = 0;
      *bad = 1;
    }
  }
}

__global__ void __launch_bounds__(kStepThreads)
    step_kernel(const __grid_constant__ Launch launch) {
  extern __shared__ float buffer[];
  __shared__ MicroAdamMemory memory;
  if (launch.stop != nullptr && *launch.stop != 0) return;
  for (int64_t block = blockIdx.x; block < launch.blocks; block += gridDim.x) {
    const MicroAdamLeaf& leaf = launch.leaves[find_leaf(launch, block)];
    if (*leaf.finite == 0) continue;
    step_block(leaf, block - leaf.first_block, launch.options, buffer, buffer + launch.weights_at,
               memory);
  }
}

// After all blocks: they read the number of steps done.
__global__ void count_kernel(const __grid_constant__ Launch launch) {
  if (launch.stop != nullptr && *launch.stop != 0) return;
  const int i = static_cast<int>(threadIdx.x);
  if (i >= launch.count || *launch.leaves[i].finite == 0) return;
  const MicroAdamLeaf& leaf = launch.leaves[i];
  *leaf.step = microadam_advanced(*leaf.step, leaf.window);
}

MicroAdamLeaf make_leaf(const MicroAdamArgs& a, size_t i, uint8_t* finite) {
  const auto* hyper = static_cast<const double*>(a.hyper.const_data_ptr());
  const double* h = hyper + a.rows[i] * kHyperColumns;
  MicroAdamLeaf leaf{};
  leaf.param = a.params[i].mutable_data_ptr();
  leaf.grad = a.grads[i].const_data_ptr();
  leaf.codes = static_cast<uint8_t*>(a.codes[i].mutable_data_ptr());
  leaf.lo = static_cast<uint16_t*>(a.lo[i].mutable_data_ptr());
  leaf.hi = static_cast<uint16_t*>(a.hi[i].mutable_data_ptr());
  leaf.step = static_cast<int32_t*>(a.steps[i].mutable_data_ptr());
  leaf.indices = static_cast<int16_t*>(a.indices[i].mutable_data_ptr());
  leaf.values = static_cast<uint16_t*>(a.values[i].mutable_data_ptr());
  leaf.finite = finite + i;
  leaf.numel = a.params[i].numel();
  leaf.columns = a.indices[i].size(1);
  leaf.b1 = h[kB1];
  leaf.b2 = h[kB2];
  leaf.eps = microadam_eps(h[kEps]);
  leaf.weight_decay = static_cast<float>(h[kWeightDecay]);
  leaf.lr = static_cast<float>(h[kLr]);
  leaf.sign = static_cast<float>(a.signs[i]);
  leaf.block_size = static_cast<int32_t>(a.block_sizes[i]);
  leaf.k = static_cast<int32_t>(a.kept[i]);
  leaf.window = static_cast<int32_t>(a.indices[i].size(0));
  leaf.bf16_param = a.params[i].scalar_type() == ScalarType::BFloat16;
  leaf.bf16_grad = a.grads[i].scalar_type() == ScalarType::BFloat16;
  return leaf;
}

std::vector<Launch> make_launches(const MicroAdamArgs& a, uint8_t* finite, const int32_t* stop) {
  const int64_t quant = std::min<int64_t>(a.quant_block_size, 1 << 16);  // longer than any block
  const MicroAdamOptions options{static_cast<int32_t>(quant), a.include_zero, a.window_correction};
  std::vector<Launch> launches;
  for (size_t i = 0; i < a.params.size(); ++i) {
    if (launches.empty() || launches.back().count == kLeaves) {
      launches.emplace_back();
      launches.back().options = options;
      launches.back().stop = stop;
    }
    Launch& launch = launches.back();
    MicroAdamLeaf& leaf = launch.leaves[launch.count++] = make_leaf(a, i, finite);
    leaf.first_block = launch.blocks;
    launch.blocks += num_blocks(leaf.numel, leaf.block_size);
    launch.weights_at = std::max(launch.weights_at, leaf.block_size + 1);
  }
  return launches;
}

// Bytes of dynamic shared memory; asks for leave to use them.
int shared_bytes(const Launch& launch) {
  int64_t window = 0;
  for (int i = 0; i < launch.count; ++i) {
    window = std::max<int64_t>(window, launch.leaves[i].window);
  }
  const int64_t bytes = (launch.weights_at + 2 * window) * int64_t{sizeof(float)};
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int64_t left = most - int64_t{sizeof(MicroAdamMemory)};
  require(bytes <= left, "microadam_: a block of ", launch.weights_at - 1, " elements and ", window,
          " rows need ", bytes, " bytes of shared memory, this device has ", left);
  const cudaError_t status = cudaFuncSetAttribute(
      step_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  require(status == cudaSuccess, "microadam_: ", cudaGetErrorString(status));
  return static_cast<int>(bytes);
}

}  // namespace

Tensor microadam__cuda(const Tensors& params, const Tensors& grads, const Tensors& codes,
                       const Tensors& lo, const Tensors& hi, const Tensors& steps,
                       const Tensors& indices, const Tensors& values, const Tensor& hyper,
                       const Ints& rows, const Ints& signs, const Ints& block_sizes,
                       const Ints& kept, int64_t quant_block_size, bool include_zero,
                       bool window_correction, const std::string& nonfinite) {
  const MicroAdamArgs args{params,      grads,        codes,           lo,
                           hi,          steps,        indices,         values,
                           hyper,       rows,         signs,           block_sizes,
                           kept,        quant_block_size, include_zero, window_correction,
                           nonfinite};
  require_microadam(args);
  const Tensor& anchor = params.front();  // the dispatcher found a CUDA tensor
  const torch::stable::accelerator::DeviceGuard guard(anchor.get_device_index());
  const auto count = static_cast<int64_t>(params.size());
  const Tensor flags = torch::stable::new_empty(anchor, {count}, ScalarType::Bool);
  const Tensor bad = torch::stable::new_empty(anchor, {1}, ScalarType::Int);
  auto* finite = static_cast<uint8_t*>(flags.mutable_data_ptr());
  auto* any = static_cast<int32_t*>(bad.mutable_data_ptr());
  const std::vector<Launch> launches =
      make_launches(args, finite, nonfinite == "raise" ? any : nullptr);
  std::vector<int> shared;
  for (const Launch& launch : launches) shared.push_back(shared_bytes(launch));

  const cudaStream_t stream = current_stream(anchor);
  cudaMemsetAsync(finite, 1, static_cast<size_t>(count), stream);
  cudaMemsetAsync(any, 0, sizeof(int32_t), stream);
  if (nonfinite != "ignore") {
    for (const Launch& launch : launches) {
      if (launch.blocks == 0) continue;
      check_kernel<<<ctas(launch.blocks, 1), kThreads, 0, stream>>>(launch, any);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
  for (size_t i = 0; i < launches.size(); ++i) {
    const Launch& launch = launches[i];
    if (launch.blocks != 0) {
      step_kernel<<<ctas(launch.blocks, 1), kStepThreads, static_cast<size_t>(shared[i]), stream>>>(
          launch);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    count_kernel<<<1, kWarpLanes, 0, stream>>>(launch);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return flags;
}

}  // namespace gx
