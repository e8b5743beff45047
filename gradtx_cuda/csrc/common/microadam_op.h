// Argument checks and the table of leaves of the MicroAdam step, shared by CPU and CUDA.
#pragma once

#include <string>
#include <vector>

#include "checks.h"

namespace gx {

using Tensors = std::vector<Tensor>;
using Ints = std::vector<int64_t>;

struct MicroAdamArgs {
  const Tensors& params;
  const Tensors& grads;
  const Tensors& codes;
  const Tensors& lo;
  const Tensors& hi;
  const Tensors& steps;
  const Tensors& indices;
  const Tensors& values;
  const Tensor& hyper;
  const Ints& rows;
  const Ints& signs;
  const Ints& block_sizes;
  const Ints& kept;
  int64_t quant_block_size;
  bool include_zero;
  bool window_correction;
  const std::string& nonfinite;
};

enum HyperColumn { kLr, kB1, kB2, kEps, kWeightDecay, kHyperColumns };

template <typename Device>
inline void require_plain(const Tensor& x, const char* what, size_t leaf, ScalarType dtype,
                          int64_t numel, const Device& device) {
  require(x.scalar_type() == dtype, "microadam_: leaf ", leaf, ": ", what,
          " has another dtype than the step is for");
  require(x.numel() == numel, "microadam_: leaf ", leaf, ": ", what, " must have ", numel,
          " elements, got ", x.numel());
  require(x.is_contiguous(), "microadam_: leaf ", leaf, ": ", what, " must be contiguous");
  require(x.device() == device, "microadam_: leaf ", leaf, ": ", what,
          " must be on the parameter's device");
}

// Entries of a leaf that a step keeps, if blocks of this size keep this many.
inline int64_t fits_kept(int64_t numel, int64_t block_size, int64_t k, int64_t columns) {
  const int64_t full = numel / block_size, tail = numel % block_size;
  const int64_t rest = columns - full * k;
  return tail == 0 ? rest == 0 : rest >= 1 && rest <= (tail < k ? tail : k);
}

// Check everything: once the step has begun, nothing may fail.
inline void require_microadam(const MicroAdamArgs& a) {
  const char* op = "microadam_";
  const size_t n = a.params.size();
  for (const Tensors* list : {&a.grads, &a.codes, &a.lo, &a.hi, &a.steps, &a.indices, &a.values}) {
    require(list->size() == n, op, ": all lists must have ", n, " tensors, got ", list->size());
  }
  for (const Ints* list : {&a.rows, &a.signs, &a.block_sizes, &a.kept}) {
    require(list->size() == n, op, ": all lists must have ", n, " entries, got ", list->size());
  }
  require(a.quant_block_size >= 2 && a.quant_block_size % 2 == 0, op,
          ": quant_block_size must be even and >= 2, got ", a.quant_block_size);
  require(a.nonfinite == "ignore" || a.nonfinite == "skip" || a.nonfinite == "raise", op,
          ": nonfinite must be 'ignore', 'skip' or 'raise', got '", a.nonfinite, "'");
  require(a.hyper.scalar_type() == ScalarType::Double && a.hyper.dim() == 2 &&
              a.hyper.size(1) == kHyperColumns && a.hyper.is_contiguous() && a.hyper.is_cpu(),
          op, ": hyper must be float64 of shape (rows, ", int{kHyperColumns}, ") on the CPU");
  for (size_t i = 0; i < n; ++i) {
    const Tensor &p = a.params[i], &g = a.grads[i];
    const auto device = p.device();
    const int64_t numel = p.numel(), size = a.block_sizes[i], k = a.kept[i];
    for (const Tensor* x : {&p, &g}) {
      const ScalarType dtype = x->scalar_type();
      require(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, op, ": leaf ", i,
              ": parameter and gradient must be float32 or bfloat16");
      require_plain(*x, x == &p ? "the parameter" : "the gradient", i, dtype, numel, device);
    }
    require(size >= 1 && size <= INT16_MAX && k >= 1 && k <= size, op, ": leaf ", i,
            ": blocks of ", size, " elements cannot keep ", k);
    require(num_blocks(numel, size) <= 1 || size % a.quant_block_size == 0, op, ": leaf ", i,
            ": quant_block_size must divide the block size ", size);
    const int64_t ranges = num_blocks(numel, a.quant_block_size);
    require_plain(a.codes[i], "codes", i, ScalarType::Byte, num_bytes(numel, 4), device);
    require_plain(a.lo[i], "lo", i, ScalarType::BFloat16, ranges, device);
    require_plain(a.hi[i], "hi", i, ScalarType::BFloat16, ranges, device);
    require_plain(a.steps[i], "step", i, ScalarType::Int, 1, device);
    const Tensor& at = a.indices[i];
    require(at.dim() == 2 && at.size(0) >= 1 && fits_kept(numel, size, k, at.size(1)), op,
            ": leaf ", i, ": indices do not have the shape of a window of ", k, " entries a block");
    require_plain(at, "indices", i, ScalarType::Short, at.numel(), device);
    require_plain(a.values[i], "values", i, ScalarType::BFloat16, at.numel(), device);
    require(a.rows[i] >= 0 && a.rows[i] < a.hyper.size(0), op, ": leaf ", i, ": has no row ",
            a.rows[i], " of hyper");
    require(a.signs[i] == 1 || a.signs[i] == -1, op, ": leaf ", i, ": sign must be 1 or -1");
  }
}

}  // namespace gx
