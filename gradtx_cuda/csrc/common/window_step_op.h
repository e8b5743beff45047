// Argument checks of the sparse M-FAC step, shared by CPU and CUDA.
#pragma once

#include <tuple>

#include "microadam.h"
#include "microadam_op.h"
#include "window_products_op.h"

namespace gx {

using PushOutputs = std::tuple<Tensor, Tensor, Tensor>;  // dots, there, finite

struct PushArgs {
  const Tensors& grads;
  const Tensors& errors;
  const Tensors& indices;
  const Tensors& values;
  const Tensors& written;
  const Tensor& step;
  const Ints& signs;
  const Ints& block_sizes;
  const Ints& kept;
};

// The push that must have written a row for it to count, once `done` pushes have become one more.
GX_HD int64_t oldest_of(int32_t done, int64_t row, int64_t window) {
  const int64_t last = int64_t{microadam_advanced(done, window)} - 1;
  return last - ((last - row) % window + window) % window;
}

struct MoveArgs {
  const Tensors& params;
  const Tensors& momenta;
  const Tensors& indices;
  const Tensors& values;
  const Tensor& weights;
  const Tensor& hyper;
  const Ints& rows;
  const Ints& block_sizes;
  const Ints& kept;
};

enum MoveColumn { kMoveLr, kMoveDecay, kMoveMomentum, kMoveColumns };

inline bool is_single(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16;
}

inline void require_like(const char* op, size_t leaf, const char* what, const Tensor& x,
                         int64_t numel, const Tensor& anchor) {
  require(x.numel() == numel && x.is_contiguous() && x.device() == anchor.device(), op, ": leaf ",
          leaf, ": ", what, " must be contiguous, of ", numel, " elements, on the leaf's device");
}

inline void require_rows(const char* op, size_t leaf, const Tensor& indices, const Tensor& values,
                         int64_t numel, int64_t window, int64_t block_size, int64_t k,
                         const Tensor& anchor) {
  require(block_size >= 1 && block_size <= INT16_MAX && k >= 1 && k <= block_size, op, ": leaf ",
          leaf, ": blocks of ", block_size, " elements cannot keep ", k);
  require(indices.dim() == 2 && indices.size(0) == window &&
              fits_kept(numel, block_size, k, indices.size(1)),
          op, ": leaf ", leaf, ": indices do not have the shape of ", window, " rows of ", k,
          " entries a block");
  require(indices.scalar_type() == ScalarType::Short, op, ": leaf ", leaf,
          ": indices must be int16");
  require(is_single(values.scalar_type()), op, ": leaf ", leaf,
          ": values must be float32 or bfloat16");
  require_like(op, leaf, "indices", indices, indices.numel(), anchor);
  require_like(op, leaf, "values", values, indices.numel(), anchor);
}

inline void require_push(const PushArgs& a) {
  const char* op = "sparse_window_push_";
  const size_t n = a.grads.size();
  for (const Tensors* list : {&a.errors, &a.indices, &a.values, &a.written}) {
    require(list->size() == n, op, ": all lists must have ", n, " tensors, got ", list->size());
  }
  for (const Ints* list : {&a.signs, &a.block_sizes, &a.kept}) {
    require(list->size() == n, op, ": all lists must have ", n, " entries, got ", list->size());
  }
  require(n > 0, op, ": there must be a leaf");
  require(a.step.numel() == 1 && a.step.scalar_type() == ScalarType::Int, op,
          ": step must be one int32");
  const int64_t window = a.written[0].numel();
  require(window >= 1, op, ": the window has no rows");
  for (size_t i = 0; i < n; ++i) {
    const Tensor& g = a.grads[i];
    const int64_t numel = g.numel();
    require(is_single(g.scalar_type()), op, ": leaf ", i,
            ": the gradient must be float32 or bfloat16");
    require(a.errors[i].scalar_type() == ScalarType::Float, op, ": leaf ", i,
            ": the error must be float32");
    require(a.written[i].scalar_type() == ScalarType::Int, op, ": leaf ", i,
            ": written must be int32");
    require_like(op, i, "the gradient", g, numel, a.step);
    require_like(op, i, "the error", a.errors[i], numel, a.step);
    require_like(op, i, "written", a.written[i], window, a.step);
    require_rows(op, i, a.indices[i], a.values[i], numel, window, a.block_sizes[i], a.kept[i],
                 a.step);
    require(a.signs[i] == 1 || a.signs[i] == -1, op, ": leaf ", i, ": sign must be 1 or -1");
  }
}

inline void require_move(const MoveArgs& a) {
  const char* op = "sparse_window_step_";
  const size_t n = a.params.size();
  for (const Tensors* list : {&a.indices, &a.values}) {
    require(list->size() == n, op, ": all lists must have ", n, " tensors, got ", list->size());
  }
  require(a.momenta.empty() || a.momenta.size() == n, op, ": momenta must be empty or ", n);
  for (const Ints* list : {&a.rows, &a.block_sizes, &a.kept}) {
    require(list->size() == n, op, ": all lists must have ", n, " entries, got ", list->size());
  }
  require(a.weights.dim() == 2 && a.weights.size(0) == static_cast<int64_t>(n) &&
              a.weights.scalar_type() == ScalarType::Double && a.weights.is_contiguous(),
          op, ": weights must be float64, contiguous, a row a leaf");
  require(a.hyper.scalar_type() == ScalarType::Double && a.hyper.dim() == 2 &&
              a.hyper.size(1) == kMoveColumns && a.hyper.is_contiguous() && a.hyper.is_cpu(),
          op, ": hyper must be float64 of shape (rows, ", int{kMoveColumns}, ") on the CPU");
  for (size_t i = 0; i < n; ++i) {
    const Tensor& p = a.params[i];
    require(is_single(p.scalar_type()), op, ": leaf ", i,
            ": the parameter must be float32 or bfloat16");
    require_like(op, i, "the parameter", p, p.numel(), a.weights);
    if (!a.momenta.empty()) {
      require(a.momenta[i].scalar_type() == ScalarType::Float, op, ": leaf ", i,
              ": the momentum must be float32");
      require_like(op, i, "the momentum", a.momenta[i], p.numel(), a.weights);
    }
    require_rows(op, i, a.indices[i], a.values[i], p.numel(), a.weights.size(1),
                 a.block_sizes[i], a.kept[i], a.weights);
    require(a.rows[i] >= 0 && a.rows[i] < a.hyper.size(0), op, ": leaf ", i, ": has no row ",
            a.rows[i], " of hyper");
  }
}

}  // namespace gx
