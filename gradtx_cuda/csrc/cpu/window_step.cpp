// CPU kernels of the sparse M-FAC step: every block of every leaf, held in cache.
#include <atomic>
#include <memory>

#include "../common/window_step_op.h"
#include "../registration.h"
#include "entry.h"
#include "window_step_avx512.h"
#include "window_step_block.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

GX_CLONES void push_portable(const Pushed& leaf, int64_t done, int64_t block, PushScratch& s,
                             std::atomic<bool>& good) {
  if (leaf.window.bf16_values) {
    push_block<uint16_t>(leaf, done, block, s, good);
  } else {
    push_block<float>(leaf, done, block, s, good);
  }
}

GX_CLONES void move_portable(const Moved& leaf, int64_t block, std::vector<float>& sums,
                             std::atomic<bool>& good) {
  const auto n = static_cast<size_t>(leaf.window.size(block));
  if (sums.size() < n) sums.resize(n);
  if (leaf.window.bf16_values) {
    move_block<uint16_t>(leaf, block, sums.data(), good);
  } else {
    move_block<float>(leaf, block, sums.data(), good);
  }
}

// What a thread keeps from block to block.
struct Buffers {
  PushScratch push;
  std::vector<float> sums;
#if GX_HAS_AVX512
  // Most of it will not be touched.
  WindowScratch& wide() {
    if (wide_ == nullptr) wide_.reset(new WindowScratch);
    return *wide_;
  }

 private:
  std::unique_ptr<WindowScratch> wide_;
#endif
};

void push_blocks(const Pushed& leaf, int64_t done, int64_t begin, int64_t end, Buffers& buffers,
                 std::atomic<bool>& good) {
  for (int64_t block = begin; block < end; ++block) {
#if GX_HAS_AVX512
    if (leaf.finite && has_avx512() && fits_wide(leaf.window, block)) {
      using Push = decltype(&push_block_wide<float, float>);
      constexpr Push kPush[2][2] = {
          {push_block_wide<float, float>, push_block_wide<float, uint16_t>},
          {push_block_wide<uint16_t, float>, push_block_wide<uint16_t, uint16_t>}};
      const Push push = kPush[leaf.bf16_grad][leaf.window.bf16_values];
      push(leaf, done, block, block + 1 == end, buffers.wide(), good);
      continue;
    }
#endif
    push_portable(leaf, done, block, buffers.push, good);
  }
}

void move_blocks(const Moved& leaf, int64_t begin, int64_t end, Buffers& buffers,
                 std::atomic<bool>& good) {
  for (int64_t block = begin; block < end; ++block) {
#if GX_HAS_AVX512
    if (has_avx512() && fits_wide(leaf.window, block) &&
        find_rows(leaf, block, buffers.wide())) {
      using Move = decltype(&move_block_wide<float, float>);
      constexpr Move kMove[2][2] = {
          {move_block_wide<float, float>, move_block_wide<float, uint16_t>},
          {move_block_wide<uint16_t, float>, move_block_wide<uint16_t, uint16_t>}};
      const Move move = kMove[leaf.bf16_param][leaf.window.bf16_values];
      move(leaf, block, block + 1 == end, buffers.wide());
      continue;
    }
#endif
    move_portable(leaf, block, buffers.sums, good);
  }
}

template <typename Bits>
GX_INLINE bool all_finite(const void* data, int64_t begin, int64_t end, Bits exponent) {
  const Bits* x = static_cast<const Bits*>(data);
  Bits top = 0;
  for (int64_t i = begin; i < end; ++i) top = std::max<Bits>(top, x[i] & exponent);
  return top != exponent;
}

GX_CLONES bool finite_blocks(const Pushed& leaf, int64_t begin, int64_t end) {
  const int64_t start = begin * leaf.window.block_size;
  const int64_t stop = std::min(leaf.window.numel, end * leaf.window.block_size);
  if (leaf.bf16_grad) return all_finite<uint16_t>(leaf.grad, start, stop, 0x7F80u);
  return all_finite<uint32_t>(leaf.grad, start, stop, 0x7F800000u);
}

Window window_of(const WindowLeaf& leaf, int64_t first_block) {
  return {leaf.indices, leaf.values, leaf.bf16_values != 0, leaf.numel, leaf.block_size,
          leaf.k,       leaf.columns, leaf.window,          first_block};
}

int64_t blocks_of(const Window& w) { return num_blocks(w.numel, w.block_size); }

// Call work(leaf, begin, end, buffers) for runs of blocks; the same thread has the same ones every
// time.
template <typename Leaf, typename Work>
void for_blocks(const std::vector<Leaf>& leaves, const Work& work) {
  if (leaves.empty()) return;
  int64_t elements = 1;
  for (const Leaf& leaf : leaves) elements += leaf.window.numel;
  const Window& last = leaves.back().window;
  const int64_t blocks = last.first_block + blocks_of(last);
  const int64_t grain = std::max<int64_t>(1, kGrain * blocks / elements);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    Buffers buffers;
    for (const Leaf& leaf : leaves) {
      const int64_t first = leaf.window.first_block;
      const int64_t from = std::max(begin, first);
      const int64_t to = std::min(end, first + blocks_of(leaf.window));
      if (from < to) work(leaf, from - first, to - first, buffers);
    }
  });
}

bool is_bf16(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

// A leaf without its gradient, or without its parameter.
WindowLeaf leaf_of(const Tensor& like, const Tensor& indices, const Tensor& values,
                   int64_t block_size, int64_t k) {
  WindowLeaf leaf{};
  leaf.indices = static_cast<int16_t*>(indices.mutable_data_ptr());
  leaf.values = values.mutable_data_ptr();
  leaf.numel = like.numel();
  leaf.block_size = block_size;
  leaf.k = k;
  leaf.window = indices.size(0);
  leaf.columns = indices.size(1);
  leaf.bf16_values = is_bf16(values);
  return leaf;
}

// Push the gradients of leaves whose windows have as many rows.
void push(const WindowLeaf* given, int64_t count, int32_t done, bool check, double* dots,
          bool* there, bool* finite) {
  require(done >= 0, "sparse_window_push_: step is negative");
  const int64_t window = given[0].window;
  std::fill_n(dots, count * window, 0.0);
  std::vector<Pushed> leaves;
  leaves.reserve(static_cast<size_t>(count));
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const WindowLeaf& leaf = given[i];
    bool* counts = there + i * window;
    for (int64_t r = 0; r < window; ++r) {
      counts[r] = r == done % window || leaf.written[r] >= oldest_of(done, r, window);
    }
    leaves.push_back({window_of(leaf, blocks), leaf.grad, leaf.error, counts, nullptr,
                      static_cast<float>(leaf.sign), leaf.bf16_grad != 0, check});
    blocks += num_blocks(leaf.numel, leaf.block_size);
  }
  std::vector<std::atomic<bool>> fine(static_cast<size_t>(count));
  for (auto& flag : fine) flag = true;
  if (check) {
    for_blocks(leaves, [&](const Pushed& leaf, int64_t begin, int64_t end, Buffers&) {
      if (!finite_blocks(leaf, begin, end)) fine[&leaf - leaves.data()] = false;
    });
  }
  std::copy(fine.begin(), fine.end(), finite);
  if (!std::all_of(finite, finite + count, [](bool flag) { return flag; })) return;
  std::vector<double> table(static_cast<size_t>(blocks * window));
  for (Pushed& leaf : leaves) leaf.dots = table.data() + leaf.window.first_block * window;
  std::atomic<bool> good{true};
  for_blocks(leaves, [&](const Pushed& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    push_blocks(leaf, done, begin, end, buffers, good);
  });
  require(good, "sparse_window_push_: an index points out of its block");
  for (int64_t i = 0; i < count; ++i) {  // block after block, whatever thread it was
    const Pushed& leaf = leaves[static_cast<size_t>(i)];
    for (int64_t block = 0; block < blocks_of(leaf.window); ++block) {
      for (int64_t r = 0; r < window; ++r) dots[i * window + r] += leaf.dots[block * window + r];
    }
    given[i].written[done % window] = done;
  }
}

// Move parameters by sums over their windows.
void step(const WindowLeaf* given, int64_t count, const double* weights, const double* hyper) {
  std::vector<Moved> leaves;
  leaves.reserve(static_cast<size_t>(count));
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const WindowLeaf& leaf = given[i];
    const double* h = hyper + leaf.hyper * kMoveColumns;
    leaves.push_back({window_of(leaf, blocks), leaf.param, leaf.momentum,
                      weights + i * leaf.window, static_cast<float>(h[kMoveLr]),
                      static_cast<float>(h[kMoveDecay]), static_cast<float>(h[kMoveMomentum]),
                      leaf.bf16_param != 0});
    blocks += num_blocks(leaf.numel, leaf.block_size);
  }
  std::atomic<bool> good{true};
  for_blocks(leaves, [&](const Moved& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    move_blocks(leaf, begin, end, buffers, good);
  });
  require(good, "sparse_window_step_: an index points out of its block");
}

}  // namespace

PushOutputs sparse_window_push__cpu(const Tensors& grads, const Tensors& errors,
                                    const Tensors& indices, const Tensors& values,
                                    const Tensors& written, const Tensor& step, const Ints& signs,
                                    const Ints& block_sizes, const Ints& kept, bool check) {
  const PushArgs a{grads, errors, indices, values, written, step, signs, block_sizes, kept};
  require_push(a);
  const int64_t window = written[0].numel();
  const auto count = static_cast<int64_t>(grads.size());
  const Tensor dots = torch::stable::new_empty(step, {count, window}, ScalarType::Double);
  const Tensor there = torch::stable::new_empty(step, {count, window}, ScalarType::Bool);
  const Tensor finite = torch::stable::new_empty(step, {count}, ScalarType::Bool);
  std::vector<WindowLeaf> leaves;
  for (size_t i = 0; i < grads.size(); ++i) {
    WindowLeaf leaf = leaf_of(grads[i], indices[i], values[i], block_sizes[i], kept[i]);
    leaf.grad = grads[i].const_data_ptr();
    leaf.error = static_cast<float*>(errors[i].mutable_data_ptr());
    leaf.written = static_cast<int32_t*>(written[i].mutable_data_ptr());
    leaf.sign = signs[i];
    leaf.bf16_grad = is_bf16(grads[i]);
    leaves.push_back(leaf);
  }
  push(leaves.data(), count, *static_cast<const int32_t*>(step.const_data_ptr()), check,
       static_cast<double*>(dots.mutable_data_ptr()),
       static_cast<bool*>(there.mutable_data_ptr()),
       static_cast<bool*>(finite.mutable_data_ptr()));
  return {dots, there, finite};
}

void sparse_window_step__cpu(const Tensors& params, const Tensors& momenta, const Tensors& indices,
                             const Tensors& values, const Tensor& weights, const Tensor& hyper,
                             const Ints& rows, const Ints& block_sizes, const Ints& kept) {
  const MoveArgs a{params, momenta, indices, values, weights, hyper, rows, block_sizes, kept};
  require_move(a);
  std::vector<WindowLeaf> leaves;
  for (size_t i = 0; i < params.size(); ++i) {
    WindowLeaf leaf = leaf_of(params[i], indices[i], values[i], block_sizes[i], kept[i]);
    leaf.param = params[i].mutable_data_ptr();
    leaf.momentum =
        momenta.empty() ? nullptr : static_cast<float*>(momenta[i].mutable_data_ptr());
    leaf.hyper = rows[i];
    leaf.bf16_param = is_bf16(params[i]);
    leaves.push_back(leaf);
  }
  step(leaves.data(), static_cast<int64_t>(leaves.size()),
       static_cast<const double*>(weights.const_data_ptr()),
       static_cast<const double*>(hyper.const_data_ptr()));
}

}  // namespace gx

// The same for leaves that the caller has checked. Both return null, or what is wrong.
GX_ENTRY const char* gx_window_push(const gx::WindowLeaf* leaves, int64_t count,
                                    const int32_t* step, int64_t check, double* dots, bool* there,
                                    bool* finite) {
  return gx::message_of([&] { gx::push(leaves, count, *step, check != 0, dots, there, finite); });
}

GX_ENTRY const char* gx_window_step(const gx::WindowLeaf* leaves, int64_t count,
                                    const double* weights, const double* hyper) {
  return gx::message_of([&] { gx::step(leaves, count, weights, hyper); });
}
