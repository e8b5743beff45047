// CPU kernel of the MicroAdam step: every block of every leaf, held in cache.
#include <memory>

#include "../common/microadam_op.h"
#include "../registration.h"
#include "microadam_avx512.h"
#include "microadam_block.h"
#include "microadam_undo.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

GX_CLONES void compress_portable(const Leaf& leaf, int64_t block, int64_t quant,
                                 const RangeRule& rule, Scratch& scratch) {
  if (quant == 64) {
    compress_block(leaf, block, 64, rule, scratch);
  } else {
    compress_block(leaf, block, quant, rule, scratch);
  }
}

GX_CLONES void move_portable(const Leaf& leaf, int64_t block, Scratch& scratch) {
  move_block(leaf, block, scratch);
}

struct Buffers {
  Scratch portable;
#if GX_HAS_AVX512
  // Most of it will not be touched.
  WideScratch& wide() {
    if (wide_ == nullptr) wide_.reset(new WideScratch);
    return *wide_;
  }

 private:
  std::unique_ptr<WideScratch> wide_;
#endif
};

template <typename Bits>
GX_INLINE bool all_finite(const void* data, int64_t begin, int64_t end, Bits exponent) {
  const Bits* x = static_cast<const Bits*>(data);
  Bits top = 0;
  for (int64_t i = begin; i < end; ++i) top = std::max<Bits>(top, x[i] & exponent);
  return top != exponent;
}

GX_CLONES bool finite_elements(const Leaf& leaf, int64_t begin, int64_t end) {
  if (leaf.bf16_grad) return all_finite<uint16_t>(leaf.grad, begin, end, 0x7F80u);
  return all_finite<uint32_t>(leaf.grad, begin, end, 0x7F800000u);
}

void check_blocks(const Leaf& leaf, int64_t begin, int64_t end) {
  const int64_t stop = std::min(leaf.numel, end * leaf.block_size);
  if (!finite_elements(leaf, begin * leaf.block_size, stop)) *leaf.finite = false;
}

bool has_wide(const Leaf& leaf, int64_t block, int64_t quant) {
#if GX_HAS_AVX512
  return has_avx512() && block < leaf.numel / leaf.block_size &&
         fits_wide(leaf.block_size, leaf.k, quant);
#else
  return false;
#endif
}

// Compress a run of blocks. Gradients are checked and what is overwritten is saved, if `saves`.
void compress_blocks(const Leaf& leaf, int64_t begin, int64_t end, int64_t quant,
                     const RangeRule& rule, bool saves, Buffers& buffers) {
  for (int64_t block = begin; block < end; ++block) {
    bool finite = false;
    if (saves) save_block(leaf, block, quant);
    if (has_wide(leaf, block, quant)) {
#if GX_HAS_AVX512
      const auto compress =
          leaf.bf16_grad ? compress_block_wide<uint16_t> : compress_block_wide<float>;
      finite = compress(leaf, block, rule, block + 1 == end, buffers.wide());
#endif
    } else {
      compress_portable(leaf, block, quant, rule, buffers.portable);
    }
    if (saves && !finite) check_blocks(leaf, block, block + 1);
  }
  if (saves) finish_saving();
}

void move_blocks(const Leaf& leaf, int64_t begin, int64_t end, int64_t quant, Buffers& buffers) {
  for (int64_t block = begin; block < end; ++block) {
#if GX_HAS_AVX512
    if (has_wide(leaf, block, quant) && rows_ascend(leaf, block)) {
      const auto move = leaf.bf16_param ? move_block_wide<uint16_t> : move_block_wide<float>;
      move(leaf, block, block + 1 == end, buffers.wide());
      continue;
    }
#endif
    move_portable(leaf, block, buffers.portable);
  }
}

std::vector<Leaf> make_leaves(const MicroAdamArgs& a, std::vector<std::atomic<bool>>& finite) {
  std::vector<Leaf> leaves(a.params.size());
  int64_t blocks = 0;
  for (size_t i = 0; i < leaves.size(); ++i) {
    Leaf& leaf = leaves[i];
    leaf.param = a.params[i].mutable_data_ptr();
    leaf.grad = a.grads[i].const_data_ptr();
    leaf.codes = static_cast<uint8_t*>(a.codes[i].mutable_data_ptr());
    leaf.lo = static_cast<uint16_t*>(a.lo[i].mutable_data_ptr());
    leaf.hi = static_cast<uint16_t*>(a.hi[i].mutable_data_ptr());
    leaf.step = static_cast<int32_t*>(a.steps[i].mutable_data_ptr());
    leaf.indices = static_cast<int16_t*>(a.indices[i].mutable_data_ptr());
    leaf.values = static_cast<uint16_t*>(a.values[i].mutable_data_ptr());
    leaf.numel = a.params[i].numel();
    leaf.block_size = a.block_sizes[i];
    leaf.k = a.kept[i];
    leaf.columns = a.indices[i].size(1);
    leaf.first_block = blocks;
    leaf.sign = static_cast<float>(a.signs[i]);
    leaf.bf16_param = a.params[i].scalar_type() == ScalarType::BFloat16;
    leaf.bf16_grad = a.grads[i].scalar_type() == ScalarType::BFloat16;
    leaf.finite = &finite[i];
    blocks += num_blocks(leaf.numel, leaf.block_size);

    const auto* hyper = static_cast<const double*>(a.hyper.const_data_ptr());
    const double* h = hyper + a.rows[i] * kHyperColumns;
    const int64_t window = a.indices[i].size(0), done = *leaf.step, now = done + 1;
    require(done >= 0, "microadam_: leaf ", i, ": step is negative");
    const int64_t count = a.window_correction ? std::min(now, window) : now;
    leaf.row = done % window;
    if (i > 0 && a.rows[i] == a.rows[i - 1] && window == a.indices[i - 1].size(0) &&
        done == *leaves[i - 1].step) {  // powers take longer than small leaves
      leaf.weights1 = leaves[i - 1].weights1;
      leaf.weights2 = leaves[i - 1].weights2;
      leaf.rates = leaves[i - 1].rates;
      continue;
    }
    for (int64_t row = 0; row < std::min(now, window); ++row) {
      const int64_t age = (done - row) % window;
      leaf.weights1.push_back(microadam_weight(h[kB1], age));
      leaf.weights2.push_back(microadam_weight(h[kB2], age));
    }
    leaf.rates = {microadam_gain(h[kB1], count), microadam_gain(h[kB2], count),
                  microadam_eps(h[kEps]), static_cast<float>(h[kWeightDecay]),
                  static_cast<float>(h[kLr])};
  }
  return leaves;
}

// Call work(leaf, first, last, buffers) for runs of blocks of one leaf, in parallel, among the
// blocks [from, to) of all leaves.
template <typename F>
void for_blocks(const std::vector<Leaf>& leaves, int64_t from, int64_t to, const F& work) {
  if (from == to) return;
  int64_t elements = 0, blocks = 0;
  for (const Leaf& leaf : leaves) {
    elements += leaf.numel;
    blocks += num_blocks(leaf.numel, leaf.block_size);
  }
  const int64_t grain = std::max<int64_t>(1, kGrain * blocks / elements);
  torch::stable::parallel_for(from, to, grain, [&](int64_t begin, int64_t end) {
    Buffers buffers;
    while (begin < end) {
      const auto& leaf = *std::prev(
          std::upper_bound(leaves.begin(), leaves.end(), begin,
                           [](int64_t b, const Leaf& other) { return b < other.first_block; }));
      const int64_t start = leaf.first_block;
      const int64_t stop = std::min(end, start + num_blocks(leaf.numel, leaf.block_size));
      work(leaf, begin - start, stop - start, buffers);
      begin = stop;
    }
  });
}

}  // namespace

Tensor microadam__cpu(const Tensors& params, const Tensors& grads, const Tensors& codes,
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
  const Tensor flags = torch::stable::new_empty(hyper, {static_cast<int64_t>(params.size())},
                                                ScalarType::Bool);
  std::vector<std::atomic<bool>> finite(params.size());
  for (auto& flag : finite) flag = true;
  std::vector<Leaf> leaves = make_leaves(args, finite);
  const RangeRule rule{kBits, false, include_zero, true};
  int64_t blocks = 0;
  for (const Leaf& leaf : leaves) blocks += num_blocks(leaf.numel, leaf.block_size);

  // Gradients are read once: the first blocks, as many as can be taken back, are compressed before
  // all are known to be finite. The others are looked at before.
  const bool checks = nonfinite != "ignore";
  UndoMemory undo;
  const int64_t ahead = checks ? undo.assign(leaves, quant_block_size) : 0;
  const auto compress = [&](bool saves) {
    return [&, saves](const Leaf& leaf, int64_t begin, int64_t end, Buffers& buffers) {
      if (!saves && !*leaf.finite) return;
      compress_blocks(leaf, begin, end, quant_block_size, rule, saves, buffers);
    };
  };
  if (checks) {
    for_blocks(leaves, ahead, blocks, [](const Leaf& leaf, int64_t begin, int64_t end, Buffers&) {
      check_blocks(leaf, begin, end);
    });
    for_blocks(leaves, 0, ahead, compress(true));
  }
  bool all = true;
  for (size_t i = 0; i < leaves.size(); ++i) {
    all = all && finite[i];
    static_cast<bool*>(flags.mutable_data_ptr())[i] = finite[i];
  }
  if (!all) {
    for (auto& flag : finite) flag = flag && nonfinite == "skip";
    for_blocks(leaves, 0, ahead, [&](const Leaf& leaf, int64_t begin, int64_t end, Buffers&) {
      for (int64_t i = begin; i < end && !*leaf.finite; ++i) {
        restore_block(leaf, i, quant_block_size);
      }
    });
  }
  for_blocks(leaves, ahead, blocks, compress(false));
  const auto move = [&](const Leaf& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    if (*leaf.finite) move_blocks(leaf, begin, end, quant_block_size, buffers);
  };
  for_blocks(leaves, 0, blocks, move);
  for (size_t i = 0; i < leaves.size(); ++i) {
    int32_t& step = *leaves[i].step;
    if (*leaves[i].finite) step = microadam_advanced(step, indices[i].size(0));
  }
  return flags;
}

}  // namespace gx
