// CPU kernel of the MicroAdam step: every block of every leaf, held in cache.
#include <deque>
#include <memory>

#include "../common/microadam_op.h"
#include "../registration.h"
#include "entry.h"
#include "microadam_avx2.h"
#include "microadam_avx512.h"
#include "microadam_undo.h"
#include "microadam_window.h"
#include "microadam_window_avx2.h"

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
  return (has_avx512() || avx2::is_there()) && block < leaf.numel / leaf.block_size &&
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
      using Compress = decltype(&compress_block_wide<Avx2, float>);
      constexpr Compress kCompress[2][2] = {
          {compress_block_wide<Avx2, float>, compress_block_wide<Avx2, uint16_t>},
          {compress_block_wide<Avx512, float>, compress_block_wide<Avx512, uint16_t>}};
      const Compress compress = kCompress[has_avx512()][leaf.bf16_grad];
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
    const auto ascend = has_avx512() ? rows_ascend : avx2::rows_ascend;
    if (has_wide(leaf, block, quant) && ascend(leaf, block)) {
      using Move = decltype(&move_block_wide<float>);
      constexpr Move kMove[2][2] = {
          {avx2::move_block_wide<float>, avx2::move_block_wide<uint16_t>},
          {move_block_wide<float>, move_block_wide<uint16_t>}};
      kMove[has_avx512()][leaf.bf16_param](leaf, block, block + 1 == end, buffers.wide());
      continue;
    }
#endif
    move_portable(leaf, block, buffers.portable);
  }
}

struct MicroAdamOptions {
  int64_t quant_block_size;
  bool include_zero, window_correction;
  bool checks, raises;  // whether gradients must be finite, and otherwise all leaves stay
};

// Leaves that follow each other mostly have their powers in common, which take longer than a small
// leaf does.
std::vector<Leaf> make_leaves(const MicroAdamLeaf* given, int64_t count, const double* hyper,
                              bool window_correction, std::deque<Powers>& powers,
                              std::vector<std::atomic<bool>>& finite) {
  std::vector<Leaf> leaves(static_cast<size_t>(count));
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    Leaf& leaf = leaves[static_cast<size_t>(i)];
    static_cast<MicroAdamLeaf&>(leaf) = given[i];
    leaf.first_block = blocks;
    leaf.finite = &finite[static_cast<size_t>(i)];
    blocks += num_blocks(leaf.numel, leaf.block_size);

    const int64_t window = leaf.window, done = *leaf.step, now = done + 1;
    require(done >= 0, "microadam_: leaf ", i, ": step is negative");
    leaf.row = done % window;
    if (i > 0) {
      const Leaf& before = leaves[static_cast<size_t>(i) - 1];
      if (leaf.hyper == before.hyper && window == before.window && done == *before.step) {
        leaf.powers = before.powers;
        continue;
      }
    }
    const double* h = hyper + leaf.hyper * kHyperColumns;
    const int64_t past = window_correction ? std::min(now, window) : now;
    Powers& own = powers.emplace_back();
    for (int64_t row = 0; row < std::min(now, window); ++row) {
      const int64_t age = (done - row) % window;
      own.weights1.push_back(microadam_weight(h[kB1], age));
      own.weights2.push_back(microadam_weight(h[kB2], age));
    }
    own.rates = {microadam_gain(h[kB1], past), microadam_gain(h[kB2], past),
                 microadam_eps(h[kEps]), static_cast<float>(h[kWeightDecay]),
                 static_cast<float>(h[kLr])};
    leaf.powers = &own;
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

// One step; `flags` says which gradients are finite.
void microadam(const MicroAdamLeaf* given, int64_t count, const double* hyper,
               const MicroAdamOptions& options, bool* flags) {
  const int64_t quant = options.quant_block_size;
  std::vector<std::atomic<bool>> finite(static_cast<size_t>(count));
  for (auto& flag : finite) flag = true;
  std::deque<Powers> powers;
  std::vector<Leaf> leaves =
      make_leaves(given, count, hyper, options.window_correction, powers, finite);
  const RangeRule rule{kBits, false, options.include_zero, true};
  int64_t blocks = 0;
  for (const Leaf& leaf : leaves) blocks += num_blocks(leaf.numel, leaf.block_size);

  // Gradients are read once: the first blocks, as many as can be taken back, are compressed before
  // all are known to be finite. The others are looked at before.
  UndoMemory undo;
  const int64_t ahead = options.checks ? undo.assign(leaves, quant) : 0;
  const auto compress = [&](bool saves) {
    return [&, saves](const Leaf& leaf, int64_t begin, int64_t end, Buffers& buffers) {
      if (!saves && !*leaf.finite) return;
      compress_blocks(leaf, begin, end, quant, rule, saves, buffers);
    };
  };
  if (options.checks) {
    for_blocks(leaves, ahead, blocks, [](const Leaf& leaf, int64_t begin, int64_t end, Buffers&) {
      check_blocks(leaf, begin, end);
    });
    for_blocks(leaves, 0, ahead, compress(true));
  }
  std::copy(finite.begin(), finite.end(), flags);
  if (!std::all_of(flags, flags + count, [](bool flag) { return flag; })) {
    for (auto& flag : finite) flag = flag && !options.raises;
    for_blocks(leaves, 0, ahead, [&](const Leaf& leaf, int64_t begin, int64_t end, Buffers&) {
      for (int64_t i = begin; i < end && !*leaf.finite; ++i) restore_block(leaf, i, quant);
    });
  }
  for_blocks(leaves, ahead, blocks, compress(false));
  const auto move = [&](const Leaf& leaf, int64_t begin, int64_t end, Buffers& buffers) {
    if (*leaf.finite) move_blocks(leaf, begin, end, quant, buffers);
  };
  for_blocks(leaves, 0, blocks, move);
  for (const Leaf& leaf : leaves) {
    if (*leaf.finite) *leaf.step = microadam_advanced(*leaf.step, leaf.window);
  }
}

std::vector<MicroAdamLeaf> leaves_of(const MicroAdamArgs& a) {
  std::vector<MicroAdamLeaf> leaves;
  leaves.reserve(a.params.size());
  for (size_t i = 0; i < a.params.size(); ++i) {
    leaves.push_back({a.params[i].mutable_data_ptr(),
                      a.grads[i].const_data_ptr(),
                      static_cast<uint8_t*>(a.codes[i].mutable_data_ptr()),
                      static_cast<uint16_t*>(a.lo[i].mutable_data_ptr()),
                      static_cast<uint16_t*>(a.hi[i].mutable_data_ptr()),
                      static_cast<int32_t*>(a.steps[i].mutable_data_ptr()),
                      static_cast<int16_t*>(a.indices[i].mutable_data_ptr()),
                      static_cast<uint16_t*>(a.values[i].mutable_data_ptr()),
                      a.params[i].numel(),
                      a.block_sizes[i],
                      a.kept[i],
                      a.indices[i].size(0),
                      a.indices[i].size(1),
                      a.rows[i],
                      a.signs[i],
                      a.params[i].scalar_type() == ScalarType::BFloat16,
                      a.grads[i].scalar_type() == ScalarType::BFloat16});
  }
  return leaves;
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
  const std::vector<MicroAdamLeaf> leaves = leaves_of(args);
  microadam(leaves.data(), static_cast<int64_t>(leaves.size()),
            static_cast<const double*>(hyper.const_data_ptr()),
            {quant_block_size, include_zero, window_correction, nonfinite != "ignore",
             nonfinite == "raise"},
            static_cast<bool*>(flags.mutable_data_ptr()));
  return flags;
}

}  // namespace gx

// The same for leaves that the caller has checked. Returns null, or why nothing has changed.
GX_ENTRY const char* gx_microadam(const gx::MicroAdamLeaf* leaves, int64_t count,
                                  const double* hyper, int64_t quant_block_size,
                                  int64_t include_zero, int64_t window_correction, int64_t checks,
                                  int64_t raises, bool* finite) {
  return gx::message_of([&] {
    gx::microadam(leaves, count, hyper,
                  {quant_block_size, include_zero != 0, window_correction != 0, checks != 0,
                   raises != 0},
                  finite);
  });
}
