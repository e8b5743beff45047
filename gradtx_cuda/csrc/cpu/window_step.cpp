// CPU kernels of the sparse M-FAC step: every block of every leaf, held in cache.
#include <atomic>
#include <memory>

#include "../common/window_step_op.h"
#include "../registration.h"
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
        split_rows(leaf, block, buffers.wide())) {
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

Window make_window(const Tensor& indices, const Tensor& values, int64_t numel, int64_t block_size,
                   int64_t k, int64_t first_block) {
  return {static_cast<int16_t*>(indices.mutable_data_ptr()),
          values.mutable_data_ptr(),
          values.scalar_type() == ScalarType::BFloat16,
          numel,
          block_size,
          k,
          indices.size(1),
          indices.size(0),
          first_block};
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

}  // namespace

PushOutputs sparse_window_push__cpu(const Tensors& grads, const Tensors& errors,
                                    const Tensors& indices, const Tensors& values,
                                    const Tensors& written, const Tensor& step, const Ints& signs,
                                    const Ints& block_sizes, const Ints& kept, bool check) {
  const PushArgs a{grads, errors, indices, values, written, step, signs, block_sizes, kept};
  require_push(a);
  const int64_t window = written[0].numel();
  const auto count = static_cast<int64_t>(grads.size());
  const int32_t done = *static_cast<const int32_t*>(step.const_data_ptr());
  require(done >= 0, "sparse_window_push_: step is negative");
  const Tensor out = torch::stable::new_empty(step, {count, window}, ScalarType::Double);
  const Tensor counts = torch::stable::new_empty(step, {count, window}, ScalarType::Bool);
  const Tensor flags = torch::stable::new_empty(step, {count}, ScalarType::Bool);
  auto* dots = static_cast<double*>(out.mutable_data_ptr());
  auto* there = static_cast<bool*>(counts.mutable_data_ptr());
  auto* finite = static_cast<bool*>(flags.mutable_data_ptr());
  std::fill_n(dots, count * window, 0.0);
  std::vector<Pushed> leaves;
  int64_t blocks = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    const int64_t numel = grads[i].numel();
    const auto* when = static_cast<const int32_t*>(written[i].const_data_ptr());
    bool* counts_here = there + static_cast<int64_t>(i) * window;
    for (int64_t r = 0; r < window; ++r) {
      counts_here[r] = r == done % window || when[r] >= oldest_of(done, r, window);
    }
    leaves.push_back({make_window(indices[i], values[i], numel, block_sizes[i], kept[i], blocks),
                      grads[i].const_data_ptr(),
                      static_cast<float*>(errors[i].mutable_data_ptr()), counts_here, nullptr,
                      static_cast<float>(signs[i]),
                      grads[i].scalar_type() == ScalarType::BFloat16, check});
    blocks += num_blocks(numel, block_sizes[i]);
  }
  std::vector<std::atomic<bool>> fine(grads.size());
  for (auto& flag : fine) flag = true;
  if (check) {
    for_blocks(leaves, [&](const Pushed& leaf, int64_t begin, int64_t end, Buffers&) {
      if (!finite_blocks(leaf, begin, end)) fine[&leaf - leaves.data()] = false;
    });
  }
  std::copy(fine.begin(), fine.end(), finite);
  if (!std::all_of(finite, finite + count, [](bool flag) { return flag; })) {
    return {out, counts, flags};
  }
  std::vector<double> table(static_cast<size_t>(blocks * window));
  for (Pushed& leaf : leaves) leaf.dots = table.data() + leaf.window.first_block * window;
  std::atomic<bool> good{true};
  for_blocks(leaves, [&](const Pushed& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    push_blocks(leaf, done, begin, end, buffers, good);
  });
  require(good, "sparse_window_push_: an index points out of its block");
  for (size_t i = 0; i < leaves.size(); ++i) {  // block after block, whatever thread it was
    for (int64_t block = 0; block < blocks_of(leaves[i].window); ++block) {
      for (int64_t r = 0; r < window; ++r) dots[r] += leaves[i].dots[block * window + r];
    }
    dots += window;
    static_cast<int32_t*>(written[i].mutable_data_ptr())[done % window] = done;
  }
  return {out, counts, flags};
}

void sparse_window_step__cpu(const Tensors& params, const Tensors& momenta, const Tensors& indices,
                             const Tensors& values, const Tensor& weights, const Tensor& hyper,
                             const Ints& rows, const Ints& block_sizes, const Ints& kept) {
  const MoveArgs a{params, momenta, indices, values, weights, hyper, rows, block_sizes, kept};
  require_move(a);
  const int64_t window = weights.size(1);
  std::vector<Moved> leaves;
  int64_t blocks = 0;
  for (size_t i = 0; i < params.size(); ++i) {
    const double* h =
        static_cast<const double*>(hyper.const_data_ptr()) + rows[i] * int64_t{kMoveColumns};
    const int64_t numel = params[i].numel();
    leaves.push_back(
        {make_window(indices[i], values[i], numel, block_sizes[i], kept[i], blocks),
         params[i].mutable_data_ptr(),
         momenta.empty() ? nullptr : static_cast<float*>(momenta[i].mutable_data_ptr()),
         static_cast<const double*>(weights.const_data_ptr()) + static_cast<int64_t>(i) * window,
         static_cast<float>(h[kMoveLr]), static_cast<float>(h[kMoveDecay]),
         static_cast<float>(h[kMoveMomentum]), params[i].scalar_type() == ScalarType::BFloat16});
    blocks += num_blocks(numel, block_sizes[i]);
  }
  std::atomic<bool> good{true};
  for_blocks(leaves, [&](const Moved& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    move_blocks(leaf, begin, end, buffers, good);
  });
  require(good, "sparse_window_step_: an index points out of its block");
}

}  // namespace gx
