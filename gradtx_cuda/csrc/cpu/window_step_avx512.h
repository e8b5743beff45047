// One block of a sparse M-FAC step with the AVX-512 of Ice Lake and Zen 4, the bits of
// window_step_block.h: whole ranges of 64 elements.
#pragma once

#include "soon.h"
#include "top_k_avx512.h"
#include "window_step_block.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace gx {

constexpr int64_t kPart = 1 << 12;  // elements whose sums stay in the first cache
constexpr int64_t kGroup = 8;       // entries that are looked up together

// Entries of a row of which some may have a partner in another row.
struct Group {
  int64_t row, entry;
};

// A row that is added: where it begins, its weight, and its first entry in every part of a block.
struct Added {
  int64_t column;
  float weight;
  uint16_t parts[kLongest / kPart + 1];
};

// Buffers of one thread.
struct alignas(64) WindowScratch : WideTopK {
  uint8_t taken[1 << 16];       // by index: whether the new row has it; set outside of the block
  float fresh[1 << 16];         // the values of those that are taken
  float sums[kPart] = {};       // zeros, but while a part of a block is computed
  std::vector<Group> groups_of_rows;
  std::vector<Added> rows;
  int64_t inside = 0;           // elements of the block
  Soon soon;
  int64_t drift = 0;         // of the bits of the least magnitude kept, since the last step
  int64_t margin = 1 << 19;  // below the expected bound

  WindowScratch() { std::fill_n(taken, sizeof taken, uint8_t{1}); }

  // For a block of n elements.
  void resize(int64_t n) {
    if (n > inside) std::fill(taken + inside, taken + n, uint8_t{0});
    if (n < inside) std::fill(taken + n, taken + inside, uint8_t{1});
    inside = n;
  }
};

// Whether these functions compute a block.
inline bool fits_wide(const Window& w, int64_t block) {
  const int64_t n = w.size(block);
  const Entries some = w.entries(block);
  const int64_t count = some.end - some.begin;
  return n % kRange == 0 && n <= kLongest && count >= 1 && 8 * count <= n;
}

// total <- sign g + total. Lists what reaches a bound and returns how many there are.
template <typename Number>
GX_WIDE int64_t add_gradient_wide(const Number* g, float* total, float sign, int64_t n,
                                  uint32_t bound, WindowScratch& s) {
  const __m512 signs = _mm512_set1_ps(sign);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(bound));
  int64_t listed = 0;
  for (int64_t i = 0; i < n; i += kRange) {
    __m512 x[4];
    for (int v = 0; v < 4; ++v) {
      const int64_t at = i + 16 * v;
      x[v] = _mm512_add_ps(_mm512_mul_ps(signs, read(g + at)), read(total + at));
      write(total + at, x[v]);
    }
    listed = list_range(x, limit, i, listed, s);
  }
  return listed;
}

// List the groups of a row in which some index is taken. Few are, so no branch depends on it.
GX_WIDE int64_t list_groups(const int16_t* indices, int64_t row, int64_t k, int64_t listed,
                            WindowScratch& s) {
  const auto* at = reinterpret_cast<const uint16_t*>(indices);
  const uint8_t* taken = s.taken;
  Group* groups = s.groups_of_rows.data();
  int64_t c = 0;
  for (; c + kGroup <= k; c += kGroup) {
    s.soon.fetch();
    unsigned any = 0;
#pragma GCC unroll 8
    for (int64_t j = 0; j < kGroup; ++j) any |= taken[at[c + j]];
    groups[listed] = {row, c};
    listed += any;
  }
  unsigned any = 0;
  groups[listed] = {row, c};
  for (; c < k; ++c) any |= taken[at[c]];
  return listed + any;
}

// Add the products of a group's values with the new row's. Returns whether all indices are inside.
template <typename Value>
GX_WIDE bool add_products(const int16_t* indices, const Value* values, int64_t count,
                          const WindowScratch& s, double& sum) {
  const auto some = static_cast<__mmask8>(0xFFu >> std::max<int64_t>(0, kGroup - count));
  const __m256i at = _mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(some, indices));
  __mmask8 found = 0;
  alignas(32) uint32_t places[kGroup];
  _mm256_store_si256(reinterpret_cast<__m256i*>(places), at);
  for (int j = 0; j < kGroup; ++j) {
    found |= static_cast<__mmask8>(s.taken[places[j]] << j);
  }
  found &= some;
  const __m256i limit = _mm256_set1_epi32(static_cast<int>(s.inside));
  if (_mm256_mask_cmpge_epu32_mask(found, at, limit) != 0) return false;
  const __m512 x = read_some(values, found);
  const __m256 fresh = _mm256_mmask_i32gather_ps(_mm256_setzero_ps(), found, at, s.fresh, 4);
  const __m512d product = _mm512_mul_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                                        _mm512_cvtps_pd(fresh));
  sum += _mm512_reduce_add_pd(product);
  return true;
}

// Add the gradient, move the largest sums to a row of the window and multiply all rows by it.
template <typename Number, typename Value>
GX_AVX512 void push_block_wide(const Pushed& leaf, int64_t done, int64_t block, bool last,
                               WindowScratch& s, std::atomic<bool>& good) {
  const Window& w = leaf.window;
  const int64_t start = block * w.block_size, n = w.size(block), row = done % w.rows;
  const Entries some = w.entries(block);
  const int64_t k = some.end - some.begin;
  int16_t* indices = w.indices + some.begin;
  auto* values = static_cast<Value*>(w.values) + some.begin;
  const auto* g = static_cast<const Number*>(leaf.grad) + start;
  float* total = leaf.error + start;
  const int64_t newest = (row + w.rows - 1) % w.rows;

  // The block's bound of the last step, moved as far as that of the block before.
  const bool again = leaf.there[newest] && newest != row;
  const int64_t former = again ? int64_t{least_of(values + newest * w.columns, k)} : 0;
  const int64_t guess = former + s.drift - s.margin;
  uint32_t bound = kMagnitude<uint32_t>;
  if (again && guess > 0 && guess < int64_t{bound}) bound = static_cast<uint32_t>(guess);
  int64_t found = add_gradient_wide(g, total, leaf.sign, n, bound, s);
  if (again) {
    if (found < k + k / 2) s.margin = std::min<int64_t>(s.margin + s.margin / 2, 1 << 22);
    if (found > 2 * k) s.margin = std::max<int64_t>(s.margin - s.margin / 4, 1 << 12);
  }
  if (found < k || found > std::max(n / 8, 2 * k)) {
    bound = reached_by_k(total, n, k, s);
    found = list_candidates(total, n, bound, s);
  }
  int16_t* chosen = indices + row * w.columns;
  Value* kept = values + row * w.columns;
  const int64_t least = keep_largest(total, found, k, bound, chosen, kept, s).least;
  if (again) s.drift = least - former;

  s.resize(n);
  for (int64_t c = 0; c < k; ++c) {
    s.taken[chosen[c]] = 1;
    s.fresh[chosen[c]] = widened(kept[c]);
  }
  s.soon.clear(static_cast<size_t>(w.rows + 3));
  if (!last) {
    s.soon.add(g + n, n * static_cast<int64_t>(sizeof *g));
    s.soon.add(total + n, n * static_cast<int64_t>(sizeof *total));
    s.soon.add(kept + k, k * static_cast<int64_t>(sizeof *kept));
    for (int64_t r = 0; r < w.rows; ++r) {
      if (leaf.there[r]) s.soon.add(indices + r * w.columns + k, 2 * k);
    }
  }
  const int64_t rows = std::count(leaf.there, leaf.there + w.rows, true);
  s.soon.spread(std::max<int64_t>(1, rows * k / kGroup));
  s.groups_of_rows.resize(static_cast<size_t>(w.rows * (k / kGroup + 1) + 1));
  int64_t listed = 0;
  for (int64_t r = 0; r < w.rows; ++r) {
    if (leaf.there[r]) listed = list_groups(indices + r * w.columns, r, k, listed, s);
  }
  double* dots = leaf.dots + block * w.rows;
  std::fill_n(dots, w.rows, 0.0);
  bool inside = true;
  for (int64_t i = 0; i < listed; ++i) {
    const Group& group = s.groups_of_rows[static_cast<size_t>(i)];
    __builtin_prefetch(values + group.row * w.columns + group.entry);
  }
  for (int64_t i = 0; i < listed; ++i) {
    const auto [r, c] = s.groups_of_rows[static_cast<size_t>(i)];
    const int64_t at = r * w.columns + c;
    inside &= add_products(indices + at, values + at, k - c, s, dots[r]);
  }
  if (!inside) good = false;
  for (int64_t c = 0; c < k; ++c) s.taken[chosen[c]] = 0;
}

// The first entry in every part of a block of n elements, and the number of entries. Returns whether
// indices ascend, inside of the block.
GX_WIDE bool split(const int16_t* indices, int64_t count, int64_t n, uint16_t* parts) {
  const auto* at = reinterpret_cast<const uint16_t*>(indices);
  const int64_t last = (n - 1) / kPart;
  __mmask32 falls = at[count - 1] >= n;
  int64_t below[kLongest / kPart] = {};
  for (int64_t c = 0; c < count; c += 32) {
    const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 32 - count);
    const __mmask32 more = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 33 - count);
    const __m512i x = _mm512_maskz_loadu_epi16(some, at + c);
    if (c + 1 < count) {
      falls |= _mm512_mask_cmpge_epu16_mask(more, x, _mm512_maskz_loadu_epi16(more, at + c + 1));
    }
    for (int64_t part = 0; part < last; ++part) {
      const __m512i bound = _mm512_set1_epi16(static_cast<int16_t>((part + 1) * kPart));
      below[part] += __builtin_popcount(_mm512_mask_cmplt_epu16_mask(some, x, bound));
    }
  }
  parts[0] = 0;
  for (int64_t part = 0; part < last; ++part) parts[part + 1] = static_cast<uint16_t>(below[part]);
  parts[last + 1] = static_cast<uint16_t>(count);
  return falls == 0;
}

// Find the rows of a block that have a weight. Returns whether the indices of all of them ascend.
GX_AVX512 inline bool split_rows(const Moved& leaf, int64_t block, WindowScratch& s) {
  const Window& w = leaf.window;
  const Entries some = w.entries(block);
  s.rows.clear();
  for (int64_t r = 0; r < w.rows; ++r) {
    const auto weight = static_cast<float>(leaf.weights[r]);
    if (weight == 0.0f) continue;
    s.rows.push_back({r * w.columns, weight, {}});
    const int16_t* at = w.indices + r * w.columns + some.begin;
    if (!split(at, some.end - some.begin, w.size(block), s.rows.back().parts)) return false;
  }
  return true;
}

// Add a row's entries of the part of a block that begins at `start`, from one entry to another.
template <typename Value>
GX_WIDE void add_entries(const int16_t* indices, const Value* values, float weight, int64_t begin,
                         int64_t end, int64_t start, float* sums) {
  const auto* at = reinterpret_cast<const uint16_t*>(indices);
  // Positions are counted from the start of the block.
  float* first = reinterpret_cast<float*>(reinterpret_cast<char*>(sums) - start * 4);
#pragma GCC unroll 4
  for (int64_t c = begin; c < end; ++c) first[at[c]] += weight * widened(values[c]);
}

// The step of the parameters of a part, and of their momentum; empties the sums.
template <typename Param>
GX_WIDE void move_part(const Moved& leaf, Param* p, float* m, int64_t length, WindowScratch& s) {
  const auto decays = static_cast<__mmask16>(leaf.decay != 0.0f ? 0xFFFFu : 0u);
  const __m512 decay = _mm512_set1_ps(leaf.decay), rate = _mm512_set1_ps(-leaf.lr);
  const __m512 mu = _mm512_set1_ps(leaf.mu);
  for (int64_t i = 0; i < length; i += kLanes) {
    __m512 u = _mm512_load_ps(s.sums + i);
    _mm512_store_ps(s.sums + i, _mm512_setzero_ps());
    if (m != nullptr) {
      u = _mm512_add_ps(u, _mm512_mul_ps(mu, read(m + i)));
      write(m + i, u);
    }
    const __m512 old = read(p + i);
    u = _mm512_mask_add_ps(u, decays, u, _mm512_mul_ps(decay, old));
    write(p + i, _mm512_add_ps(old, _mm512_mul_ps(u, rate)));
  }
}

// Add the rows that `split_rows` found, and move the parameters, a part of a block at a time.
template <typename Param, typename Value>
GX_AVX512 void move_block_wide(const Moved& leaf, int64_t block, bool last, WindowScratch& s) {
  const Window& w = leaf.window;
  const int64_t start = block * w.block_size, n = w.size(block);
  const Entries some = w.entries(block);
  const int64_t k = some.end - some.begin;
  const int16_t* indices = w.indices + some.begin;
  const auto* values = static_cast<const Value*>(w.values) + some.begin;
  auto* param = static_cast<Param*>(leaf.param) + start;
  float* momentum = leaf.momentum == nullptr ? nullptr : leaf.momentum + start;
  s.soon.clear(2 * s.rows.size() + 2);
  if (!last) {
    for (const Added& row : s.rows) {
      s.soon.add(indices + row.column + k, 2 * k);
      s.soon.add(values + row.column + k, k * static_cast<int64_t>(sizeof *values));
    }
    s.soon.add(param + n, n * static_cast<int64_t>(sizeof *param));
    if (momentum != nullptr) s.soon.add(momentum + n, n * static_cast<int64_t>(sizeof *momentum));
  }
  const int64_t parts = (n + kPart - 1) / kPart;
  s.soon.spread(std::max<int64_t>(1, parts * static_cast<int64_t>(s.rows.size())));
  for (int64_t part = 0; part < n; part += kPart) {
    for (const Added& row : s.rows) {
      s.soon.fetch();
      const uint16_t* parts = row.parts + part / kPart;
      add_entries(indices + row.column, values + row.column, row.weight, parts[0], parts[1], part,
                  s.sums);
    }
    move_part(leaf, param + part, momentum == nullptr ? nullptr : momentum + part,
              std::min(kPart, n - part), s);
  }
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
