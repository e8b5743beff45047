// One block of a MicroAdam step on the host, vectorised by the compiler where it is inlined.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../common/microadam.h"
#include "affine_blocks.h"
#include "top_k.h"
#include "vectorize.h"

namespace gx {

constexpr int kBits = 4, kLevels = 15;

// A leaf as the caller describes it: eight bytes a field, gradtx.ops.microadam.LEAF names them.
struct MicroAdamLeaf {
  void* param;
  const void* grad;
  uint8_t* codes;
  uint16_t* lo;
  uint16_t* hi;
  int32_t* step;
  int16_t* indices;
  uint16_t* values;
  int64_t numel;
  int64_t block_size;
  int64_t k;
  int64_t window;
  int64_t columns;
  int64_t hyper;  // its row of the hyperparameters
  int64_t sign;   // of the gradient
  int64_t bf16_param;
  int64_t bf16_grad;
};

// What leaves have in common that have done as many steps with the same hyperparameters.
struct Powers {
  std::vector<float> weights1, weights2;  // of the rows that have been written, this one included
  MicroAdamRates rates;

  int64_t rows() const { return static_cast<int64_t>(weights1.size()); }
};

struct Leaf : MicroAdamLeaf {
  int64_t first_block;
  int64_t row;  // of the window, to be written
  const Powers* powers;
  std::atomic<bool>* finite;
  char* undo;  // copies of what is overwritten, a block after the other

  // The row of the window that the last step wrote.
  int64_t newest() const { return row == 0 ? powers->rows() - 1 : row - 1; }
};

struct Scratch {
  std::vector<float> total, second, touched_first, touched_second;
  std::vector<int32_t> touched;
  TopK<uint32_t> top;
};

GX_INLINE float load(const float* x, int64_t i) { return x[i]; }
GX_INLINE float load(const uint16_t* x, int64_t i) { return from_bf16(x[i]); }
GX_INLINE void store(float* x, int64_t i, float value) { x[i] = value; }
GX_INLINE void store(uint16_t* x, int64_t i, float value) { x[i] = to_bf16(value); }

// total = sign * gradient + error, over one quantiser block.
template <typename G>
GX_INLINE void add_error(const G* grad, float sign, const uint8_t* codes, Range range, int64_t n,
                         float* total) {
  const float step = grid_step(range, kLevels);
  for (int64_t b = 0; b < n / 2; ++b) {
    total[2 * b] = static_cast<float>(codes[b] >> 4);
    total[2 * b + 1] = static_cast<float>(codes[b] & 15);
  }
  if (n % 2 != 0) total[n - 1] = static_cast<float>(codes[n / 2] >> 4);
  for (int64_t i = 0; i < n; ++i) {
    total[i] = add(mul(sign, load(grad, i)), add(mul(total[i], step), range.lo));
  }
}

GX_INLINE void encode(const float* rest, int64_t n, const RangeRule& rule, uint8_t* codes,
                      uint16_t* lo, uint16_t* hi) {
  const Range range = finish_range(extremes(rest, n), rule);
  store_stat(lo, 0, range.lo, true);
  store_stat(hi, 0, range.hi, true);
  uint8_t buffer[kChunk + 1];
  for (int64_t start = 0; start < n; start += kChunk) {
    const int64_t count = std::min(kChunk, n - start);
    encode_nearest(rest + start, count, range, kLevels, buffer);
    buffer[count] = 0;
    pack<kBits>(buffer, num_bytes(count, kBits), codes + start / 2);
  }
}

template <typename P>
GX_INLINE void move(P* param, const float* update, int64_t n, const MicroAdamRates& rates) {
  for (int64_t i = 0; i < n; ++i) {
    store(param, i, microadam_moved(load(param, i), update[i], rates));
  }
}

// Adam's step for one block, zero where the window has no entry; `second` is zero before and after.
// Entries that point out of the block are left out.
GX_INLINE void update_of_window(const Leaf& leaf, int64_t column, int64_t k, int64_t n,
                                float* first, Scratch& scratch) {
  const auto most = static_cast<size_t>(leaf.powers->rows() * k);
  scratch.touched.resize(std::max(scratch.touched.size(), most));
  scratch.touched_first.resize(scratch.touched.size());
  scratch.touched_second.resize(scratch.touched.size());
  float* second = scratch.second.data();
  int32_t* touched = scratch.touched.data();
  int64_t count = 0;
  std::fill_n(first, n, 0.0f);
  for (int64_t row = 0; row < leaf.powers->rows(); ++row) {
    const int64_t start = row * leaf.columns + column;
    const int16_t* at = leaf.indices + start;
    const uint16_t* of = leaf.values + start;
    const float w1 = leaf.powers->weights1[static_cast<size_t>(row)];
    const float w2 = leaf.powers->weights2[static_cast<size_t>(row)];
    for (int64_t c = 0; c < k; ++c) {
      const int64_t i = at[c];
      if (static_cast<uint64_t>(i) >= static_cast<uint64_t>(n)) continue;
      const float v = from_bf16(of[c]), before = second[i];
      touched[count] = static_cast<int32_t>(i);
      count += before == 0.0f ? 1 : 0;  // twice if the square underflows, which does no harm
      first[i] = add(first[i], mul(w1, v));
      second[i] = add(before, mul(w2, mul(v, v)));
    }
  }
  float *m = scratch.touched_first.data(), *v = scratch.touched_second.data();
  for (int64_t c = 0; c < count; ++c) {
    m[c] = first[touched[c]];
    v[c] = second[touched[c]];
  }
  for (int64_t c = 0; c < count; ++c) m[c] = microadam_update(m[c], v[c], leaf.powers->rates);
  for (int64_t c = 0; c < count; ++c) {
    first[touched[c]] = m[c];
    second[touched[c]] = 0.0f;
  }
}

template <typename G>
GX_INLINE void accumulate(const Leaf& leaf, int64_t start, int64_t n, int64_t quant, float* total) {
  const G* grad = static_cast<const G*>(leaf.grad);
  for (int64_t i = 0; i < n; i += quant) {
    const int64_t at = start + i, range = at / quant;
    const Range bounds{from_bf16(leaf.lo[range]), from_bf16(leaf.hi[range])};
    add_error(grad + at, static_cast<float>(leaf.sign), leaf.codes + at / 2, bounds,
              std::min(quant, n - i), total + i);
  }
}

// Compress gradient and error to a row of the window and codes of what is left.
GX_INLINE void compress_block(const Leaf& leaf, int64_t block, int64_t quant,
                              const RangeRule& rule, Scratch& scratch) {
  const int64_t start = block * leaf.block_size;
  const int64_t n = std::min(leaf.block_size, leaf.numel - start);
  const int64_t column = block * leaf.k, k = std::min(leaf.k, leaf.columns - column);
  scratch.total.resize(static_cast<size_t>(n));
  float* total = scratch.total.data();
  if (leaf.bf16_grad) {
    accumulate<uint16_t>(leaf, start, n, quant, total);
  } else {
    accumulate<float>(leaf, start, n, quant, total);
  }

  select_top_k(total, n, k, scratch.top);
  const int64_t row = leaf.row * leaf.columns + column;
  for (int64_t c = 0; c < k; ++c) {
    const int64_t i = scratch.top.chosen[static_cast<size_t>(c)];
    leaf.indices[row + c] = static_cast<int16_t>(i);
    leaf.values[row + c] = to_bf16(total[i]);
    total[i] = 0.0f;
  }

  for (int64_t i = 0; i < n; i += quant) {
    const int64_t at = start + i, range = at / quant;
    encode(total + i, std::min(quant, n - i), rule, leaf.codes + at / 2, leaf.lo + range,
           leaf.hi + range);
  }
}

// Adam's step over the window.
GX_INLINE void move_block(const Leaf& leaf, int64_t block, Scratch& scratch) {
  const int64_t start = block * leaf.block_size;
  const int64_t n = std::min(leaf.block_size, leaf.numel - start);
  const int64_t column = block * leaf.k, k = std::min(leaf.k, leaf.columns - column);
  scratch.total.resize(static_cast<size_t>(n));
  if (scratch.second.size() < static_cast<size_t>(n)) scratch.second.resize(static_cast<size_t>(n));
  float* update = scratch.total.data();
  update_of_window(leaf, column, k, n, update, scratch);
  if (leaf.bf16_param) {
    move(static_cast<uint16_t*>(leaf.param) + start, update, n, leaf.powers->rates);
  } else {
    move(static_cast<float*>(leaf.param) + start, update, n, leaf.powers->rates);
  }
}

}  // namespace gx
