// CPU kernel of the MicroAdam step: every block of every leaf in one pass, held in cache.
#include <memory>

#include "../common/microadam_op.h"
#include "../registration.h"
#include "microadam_avx512.h"
#include "microadam_block.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int64_t kChecked = 16;   // blocks that are checked at once

GX_CLONES void step_portable(const Leaf& leaf, int64_t begin, int64_t end, int64_t quant,
                           const RangeRule& rule, Scratch& scratch) {
  for (int64_t block = begin; block < end; ++block) {
    const bool last = block + 1 == end;
    if (quant == 64) {
      step_block(leaf, block, 64, rule, last, scratch);
    } else {
      step_block(leaf, block, quant, rule, last, scratch);
    }
  }
}

struct Buffers {
  Scratch portable;
#if GX_HAS_AVX512
  std::unique_ptr<WideScratch> wide;
#endif
};

void step_blocks(const Leaf& leaf, int64_t begin, int64_t end, int64_t quant,
                 const RangeRule& rule, Buffers& buffers) {
#if GX_HAS_AVX512
  if (has_avx512() && fits_wide(leaf.block_size, leaf.k, quant)) {
    if (buffers.wide == nullptr) {
      buffers.wide.reset(new WideScratch);  // most of it will not be touched
    }
    const int64_t full = std::min(end, leaf.numel / leaf.block_size);
    for (; begin < full; ++begin) {
      const bool last = begin + 1 == end;
      if (step_block_wide(leaf, begin, rule, last, *buffers.wide)) continue;
      step_block(leaf, begin, kRange, rule, last, buffers.portable);
    }
  }
#endif
  step_portable(leaf, begin, end, quant, rule, buffers.portable);
}

template <typename Bits>
GX_INLINE bool all_finite(const void* data, int64_t begin, int64_t end, Bits exponent) {
  const Bits* x = static_cast<const Bits*>(data);
  Bits top = 0;
  for (int64_t i = begin; i < end; ++i) top = std::max<Bits>(top, x[i] & exponent);
  return top != exponent;
}

GX_CLONES bool finite_block(const Leaf& leaf, int64_t begin, int64_t end) {
  if (leaf.bf16_grad) return all_finite<uint16_t>(leaf.grad, begin, end, 0x7F80u);
  return all_finite<uint32_t>(leaf.grad, begin, end, 0x7F800000u);
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
    for (int64_t row = 0; row < std::min(now, window); ++row) {
      const int64_t age = (done - row) % window;
      leaf.weights1.push_back(microadam_weight(h[kB1], age));
      leaf.weights2.push_back(microadam_weight(h[kB2], age));
    }
    leaf.rates = {microadam_gain(h[kB1], count), microadam_gain(h[kB2], count),
                  static_cast<float>(h[kEps]), static_cast<float>(h[kWeightDecay]),
                  static_cast<float>(h[kLr])};
  }
  return leaves;
}

// Call work(leaf, first, last, buffers) for runs of blocks that belong to one leaf, in parallel; with
// `backwards` those of a thread in the opposite order.
template <typename F>
void for_blocks(const std::vector<Leaf>& leaves, bool backwards, const F& work) {
  int64_t elements = 0, blocks = 0;
  for (const Leaf& leaf : leaves) {
    elements += leaf.numel;
    blocks += num_blocks(leaf.numel, leaf.block_size);
  }
  if (blocks == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrain * blocks / elements);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    Buffers buffers;
    while (begin < end) {
      const int64_t block = backwards ? end - 1 : begin;
      const auto& leaf = *std::prev(
          std::upper_bound(leaves.begin(), leaves.end(), block,
                           [](int64_t b, const Leaf& other) { return b < other.first_block; }));
      const int64_t start = leaf.first_block;
      const int64_t first = std::max(begin, start);
      const int64_t last = std::min(end, start + num_blocks(leaf.numel, leaf.block_size));
      work(leaf, first - start, last - start, buffers);
      (backwards ? end : begin) = backwards ? first : last;
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
  const std::vector<Leaf> leaves = make_leaves(args, finite);
  if (nonfinite != "ignore") {
    // What is read last is still in cache when the step begins.
    for_blocks(leaves, true, [](const Leaf& leaf, int64_t begin, int64_t end, Buffers&) {
      for (int64_t i = end; i > begin;) {
        const int64_t from = std::max(begin, i - kChecked);
        const int64_t stop = std::min(leaf.numel, i * leaf.block_size);
        if (!finite_block(leaf, from * leaf.block_size, stop)) *leaf.finite = false;
        i = from;
      }
    });
  }
  bool all = true;
  for (size_t i = 0; i < leaves.size(); ++i) {
    all = all && finite[i];
    static_cast<bool*>(flags.mutable_data_ptr())[i] = finite[i];
  }
  if (!all && nonfinite == "raise") return flags;

  const RangeRule rule{kBits, false, include_zero, true};
  for_blocks(leaves, false, [&](const Leaf& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    if (*leaf.finite) step_blocks(leaf, begin, end, quant_block_size, rule, buffers);
  });
  for (const Leaf& leaf : leaves) {
    if (*leaf.finite) *leaf.step += 1;
  }
  return flags;
}

}  // namespace gx
