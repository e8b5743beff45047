// One block of a sparse M-FAC step on the host, vectorised by the compiler where it is inlined.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../common/microadam.h"
#include "../common/window_entries.h"
#include "top_k.h"
#include "vectorize.h"

namespace gx {

// A leaf as the caller describes it: eight bytes a field, gradtx.ops.window_step.LEAF names them.
struct WindowLeaf {
  void* param;
  const void* grad;
  float* error;
  float* momentum;  // or null
  int16_t* indices;
  void* values;
  int32_t* written;
  int64_t numel;
  int64_t block_size;
  int64_t k;
  int64_t window;
  int64_t columns;
  int64_t hyper;  // its row of the hyperparameters
  int64_t sign;   // of the gradient
  int64_t bf16_param;
  int64_t bf16_grad;
  int64_t bf16_values;
};

// What both kernels know of a leaf.
struct Window {
  int16_t* indices;
  void* values;
  bool bf16_values;
  int64_t numel, block_size, k, columns, rows, first_block;

  GX_INLINE Entries entries(int64_t block) const { return entries_of(block, k, columns); }
  GX_INLINE int64_t size(int64_t block) const {
    return std::min(block_size, numel - block * block_size);
  }
};

struct Pushed {
  Window window;
  const void* grad;
  float* error;
  const bool* there;
  double* dots;  // (blocks, rows)
  float sign;
  bool bf16_grad, finite;  // whether the gradient is known to be finite
};

struct Moved {
  Window window;
  void* param;
  float* momentum;
  const double* weights;
  float lr, decay, mu;
  bool bf16_param;
};

// total <- sign g + total
template <typename Number>
GX_INLINE void add_gradient(const Number* g, float* total, float sign, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (std::is_same_v<Number, float>) {
      total[i] = sign * g[i] + total[i];
    } else {
      total[i] = sign * from_bf16(g[i]) + total[i];
    }
  }
}

// The entries of a row in the block after this one follow those in this one.
template <typename Value>
GX_INLINE void fetch_next(const int16_t* indices, const Value* values, int64_t count) {
  constexpr int64_t kLine = 64;
  const auto* of = reinterpret_cast<const char*>(values + count);
  const auto* at = reinterpret_cast<const char*>(indices + count);
  for (int64_t i = 0; i < count * int64_t{sizeof(Value)}; i += kLine) __builtin_prefetch(of + i);
  for (int64_t i = 0; i < count * int64_t{sizeof(int16_t)}; i += kLine) __builtin_prefetch(at + i);
}

GX_INLINE float widened(float value) { return value; }
GX_INLINE float widened(uint16_t value) { return from_bf16(value); }

// The least magnitude of some entries, as bits.
template <typename Value>
GX_INLINE uint32_t least_of(const Value* values, int64_t count) {
  uint32_t least = kMagnitude<uint32_t>;
  for (int64_t c = 0; c < count; ++c) {
    least = std::min(least, to_bits(widened(values[c])) & kMagnitude<uint32_t>);
  }
  return least;
}

// What a thread keeps from block to block.
struct PushScratch {
  TopK<uint32_t> top;
  std::vector<float> fresh;  // zeros, but for the new row while it is multiplied
  int64_t drift = 0;         // how far the bound of the block before has moved since the last step
};

// Add the gradient and choose the k largest of the sums. `former`, the least magnitude that was
// chosen at the last step, or 0, tells about where the bound is: then elements are gone through
// once.
template <typename Number>
GX_INLINE void add_and_select(const Number* g, float* total, float sign, int64_t n, int64_t k,
                              uint32_t former, PushScratch& s) {
  constexpr int64_t kMargin = 1 << 19;  // about 5 %
  const int64_t guess = int64_t{former} + s.drift - kMargin;
  if (former == 0 || guess <= 0 || guess > kMagnitude<uint32_t> || k == n) {
    add_gradient(g, total, sign, 0, n);
    select_top_k(total, n, k, s.top);
  } else {
    collect(total, n, static_cast<uint32_t>(guess), s.top, [&](int64_t begin, int64_t end) {
      add_gradient(g, total, sign, begin, end);
    });
    const auto found = static_cast<int64_t>(s.top.candidates.size());
    if (found >= k && found <= std::max(n / 8, 2 * k)) {
      take_largest(k, s.top);
    } else {
      select_top_k(total, n, k, s.top);
    }
  }
}

// Inner product of one row's entries of a block with a dense block.
template <typename Value>
GX_INLINE double dot(const int16_t* indices, const Value* values, const float* x, int64_t count) {
  constexpr int kLanes = 8;
  double lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    float picked[kLanes];
    for (int j = 0; j < kLanes; ++j) picked[j] = x[indices[c + j]];
    for (int j = 0; j < kLanes; ++j) {
      lanes[j] += static_cast<double>(widened(values[c + j])) * static_cast<double>(picked[j]);
    }
  }
  for (int j = 0; c < count; ++c, ++j) {
    lanes[j] += static_cast<double>(widened(values[c])) * static_cast<double>(x[indices[c]]);
  }
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// sums[indices] += weight * values, no position twice.
template <typename Value>
GX_INLINE void add_row(const int16_t* indices, const Value* values, float weight, float* sums,
                       int64_t count) {
  for (int64_t c = 0; c < count; ++c) sums[indices[c]] += weight * widened(values[c]);
}

// Whether all entries of a row point into a block of n elements.
GX_INLINE bool inside(const int16_t* indices, int64_t count, int64_t n) {
  uint16_t largest = 0;
  for (int64_t c = 0; c < count; ++c) {
    largest = std::max(largest, static_cast<uint16_t>(indices[c]));
  }
  return count == 0 || largest < n;
}

template <typename Value>
GX_INLINE void push_block(const Pushed& leaf, int64_t done, int64_t block, PushScratch& s,
                          std::atomic<bool>& good) {
  const Window& w = leaf.window;
  const int64_t start = block * w.block_size, n = w.size(block);
  const Entries some = w.entries(block);
  const int64_t count = some.end - some.begin, row = done % w.rows;
  auto* values = static_cast<Value*>(w.values) + some.begin;
  int16_t* indices = w.indices + some.begin;
  float* total = leaf.error + start;
  const int64_t newest = (row + w.rows - 1) % w.rows;
  const uint32_t former =
      leaf.there[newest] && newest != row ? least_of(values + newest * w.columns, count) : 0;
  if (leaf.bf16_grad) {
    const auto* g = static_cast<const uint16_t*>(leaf.grad) + start;
    add_and_select(g, total, leaf.sign, n, count, former, s);
  } else {
    const auto* g = static_cast<const float*>(leaf.grad) + start;
    add_and_select(g, total, leaf.sign, n, count, former, s);
  }
  if (s.fresh.size() < static_cast<size_t>(n)) s.fresh.resize(static_cast<size_t>(n), 0.0f);
  float* fresh = s.fresh.data();
  const int64_t* chosen = s.top.chosen.data();
  for (int64_t c = 0; c < count; ++c) {
    const int64_t i = chosen[c], at = row * w.columns + c;
    indices[at] = static_cast<int16_t>(i);
    if constexpr (std::is_same_v<Value, float>) {
      values[at] = total[i];
    } else {
      values[at] = to_bf16(total[i]);
    }
    fresh[i] = widened(values[at]);
    total[i] = 0.0f;
  }
  if (former != 0) {
    s.drift = int64_t{least_of(values + row * w.columns, count)} - int64_t{former};
  }
  double* dots = leaf.dots + block * w.rows;
  for (int64_t r = 0; r < w.rows; ++r) {
    const int16_t* where = indices + r * w.columns;
    const Value* of = values + r * w.columns;
    dots[r] = 0.0;
    if (!leaf.there[r]) continue;
    fetch_next(where, of, count);
    if (inside(where, count, n)) {
      dots[r] = dot(where, of, fresh, count);
    } else {
      good = false;
    }
  }
  for (int64_t c = 0; c < count; ++c) fresh[chosen[c]] = 0.0f;
}

GX_INLINE float moved(float p, float u, const Moved& leaf) {
  const float change = leaf.decay != 0.0f ? u + leaf.decay * p : u;
  return p + change * -leaf.lr;
}

template <typename Value>
GX_INLINE void move_block(const Moved& leaf, int64_t block, float* sums, std::atomic<bool>& good) {
  const Window& w = leaf.window;
  const int64_t start = block * w.block_size, n = w.size(block);
  const Entries some = w.entries(block);
  const int64_t count = some.end - some.begin;
  std::fill_n(sums, n, 0.0f);
  for (int64_t r = 0; r < w.rows; ++r) {
    const auto weight = static_cast<float>(leaf.weights[r]);
    if (weight == 0.0f) continue;
    const int16_t* where = w.indices + r * w.columns + some.begin;
    const Value* of = static_cast<const Value*>(w.values) + r * w.columns + some.begin;
    fetch_next(where, of, count);
    if (!inside(where, count, n)) {
      good = false;
      return;
    }
    add_row(where, of, weight, sums, count);
  }
  if (leaf.momentum != nullptr) {
    float* m = leaf.momentum + start;
    for (int64_t i = 0; i < n; ++i) sums[i] = m[i] = sums[i] + leaf.mu * m[i];
  }
  if (leaf.bf16_param) {
    auto* p = static_cast<uint16_t*>(leaf.param) + start;
    for (int64_t i = 0; i < n; ++i) p[i] = to_bf16(moved(from_bf16(p[i]), sums[i], leaf));
  } else {
    auto* p = static_cast<float*>(leaf.param) + start;
    for (int64_t i = 0; i < n; ++i) p[i] = moved(p[i], sums[i], leaf);
  }
}

}  // namespace gx
