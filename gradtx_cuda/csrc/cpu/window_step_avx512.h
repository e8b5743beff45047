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

// Buffers of one thread.
struct alignas(64) WindowScratch : WideTopK {
  // By the lowest seven bits of an index, bits for the three above the lowest eight, then for the
  // three above those: whether the new row may have it.
  uint8_t sieves[256];
  uint8_t taken[1 << 16] = {};  // by index: whether the new row has it
  float fresh[1 << 16];         // the values of those that are taken
  float sums[kLongest] = {};    // zeros, but while a block is computed
  std::vector<uint16_t> likely_rows, likely;  // entries that pass the sieves
  std::vector<int64_t> shared;                // those whose indices are taken, by likely entry
  std::vector<int64_t> rows;                  // that have a weight
  Soon soon;
  int64_t drift = 0;         // of the bits of the least magnitude kept, since the last step
  int64_t margin = 1 << 19;  // below the expected bound
};

// Whether these functions compute a block.
inline bool fits_wide(const Window& w, int64_t block) {
  const int64_t n = w.size(block);
  const Entries some = w.entries(block);
  const int64_t count = some.end - some.begin;
  return n % kRange == 0 && n <= kLongest && count >= 1 && 8 * count <= n && w.rows <= 1 << 16;
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

// 32 indices from the c-th of a row on, zeros behind the last of k.
GX_WIDE __m512i read_indices(const int16_t* indices, int64_t c, int64_t k) {
  const __mmask32 some = c < k ? 0xFFFFFFFFu >> std::max<int64_t>(0, c + 32 - k) : 0u;
  return _mm512_maskz_loadu_epi16(some, indices + c);
}

// Remember the new row.
template <typename Value>
GX_WIDE void take(const int16_t* indices, const Value* values, int64_t k, WindowScratch& s) {
  std::fill_n(s.sieves, sizeof s.sieves, uint8_t{0});
  for (int64_t c = 0; c < k; ++c) {
    const int i = indices[c];
    s.sieves[i & 127] |= static_cast<uint8_t>(1 << ((i >> 8) & 7));
    s.sieves[128 + (i & 127)] |= static_cast<uint8_t>(1 << ((i >> 11) & 7));
    s.taken[i] = 1;
    s.fresh[i] = widened(values[c]);
  }
}

// List the entries of a row that pass the sieves: most of those that the new row has too and few
// others.
GX_WIDE int64_t list_likely(const int16_t* indices, int64_t row, int64_t k, int64_t listed,
                            __m512i& largest, WindowScratch& s) {
  const __m512i order = _mm512_load_si512(kOrder);
  const __m512i low = _mm512_add_epi8(order, order);  // the bytes of 64 indices
  const __m512i high = _mm512_add_epi8(low, _mm512_set1_epi8(1));
  const __m512i bits = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201));
  const __m512i rows = _mm512_set1_epi16(static_cast<int16_t>(row));
  __m512i sieves[4];
  for (int i = 0; i < 4; ++i) sieves[i] = _mm512_load_si512(s.sieves + 64 * i);
  const auto room = static_cast<size_t>(listed + k + kRange);
  if (s.likely.size() < room) {
    s.likely.resize(2 * room);
    s.likely_rows.resize(2 * room);
  }
  for (int64_t c = 0; c < k; c += kRange) {
    s.soon.fetch();
    const __m512i a = read_indices(indices, c, k), b = read_indices(indices, c + 32, k);
    largest = _mm512_max_epu16(largest, _mm512_max_epu16(a, b));
    const __m512i place = _mm512_permutex2var_epi8(a, low, b);
    const __m512i above = _mm512_permutex2var_epi8(a, high, b);
    __mmask64 some = ~uint64_t{0} >> std::max<int64_t>(0, c + kRange - k);
    some = _mm512_mask_test_epi8_mask(some, _mm512_permutex2var_epi8(sieves[0], place, sieves[1]),
                                      _mm512_shuffle_epi8(bits, above));
    const __m512i top = _mm512_and_si512(_mm512_srli_epi16(above, 3), _mm512_set1_epi8(7));
    some = _mm512_mask_test_epi8_mask(some, _mm512_permutex2var_epi8(sieves[2], place, sieves[3]),
                                      _mm512_shuffle_epi8(bits, top));
    for (int64_t i = 0; i < kRange; i += 32) {
      _mm512_storeu_si512(s.likely_rows.data() + listed + i, rows);
    }
    listed = list_positions(some, c, listed, s.likely.data());
  }
  return listed;
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

  take(chosen, kept, k, s);
  s.soon.clear(static_cast<size_t>(w.rows + 1));
  if (!last) {  // the processor itself foresees the gradient and the error
    s.soon.add(kept + k, k * static_cast<int64_t>(sizeof *kept));
    for (int64_t r = 0; r < w.rows; ++r) {
      if (leaf.there[r]) s.soon.add(indices + r * w.columns + k, 2 * k);
    }
  }
  const int64_t rows = std::count(leaf.there, leaf.there + w.rows, true);
  s.soon.spread(std::max<int64_t>(1, rows * ((k + kRange - 1) / kRange)));
  int64_t likely = 0;
  __m512i largest = _mm512_setzero_si512();
  for (int64_t r = 0; r < w.rows; ++r) {
    if (leaf.there[r]) likely = list_likely(indices + r * w.columns, r, k, likely, largest, s);
  }
  double* dots = leaf.dots + block * w.rows;
  std::fill_n(dots, w.rows, 0.0);
  if (_mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(static_cast<int16_t>(n))) != 0) {
    good = false;
    likely = 0;
  }
  const auto room = static_cast<size_t>(likely + 1);
  if (s.shared.size() < room) s.shared.resize(2 * room);
  const uint16_t *of_row = s.likely_rows.data(), *of_block = s.likely.data();
  const auto place = [&](int64_t i) { return of_row[i] * w.columns + of_block[i]; };
  int64_t listed = 0;
  for (int64_t i = 0; i < likely; ++i) {  // few are shared, so no branch depends on it
    s.shared[static_cast<size_t>(listed)] = i;
    listed += s.taken[static_cast<uint16_t>(indices[place(i)])];
  }
  for (int64_t j = 0; j < listed; ++j) {
    __builtin_prefetch(values + place(s.shared[static_cast<size_t>(j)]));
  }
  for (int64_t j = 0; j < listed; ++j) {
    const int64_t i = s.shared[static_cast<size_t>(j)], at = place(i);
    dots[of_row[i]] +=
        static_cast<double>(widened(values[at])) * static_cast<double>(s.fresh[indices[at]]);
  }
  for (int64_t c = 0; c < k; ++c) s.taken[chosen[c]] = 0;
}

// Whether the indices of a row ascend, inside of a block of n elements.
GX_WIDE bool ascend(const int16_t* indices, int64_t k, int64_t n) {
  __mmask32 falls = static_cast<uint16_t>(indices[k - 1]) >= n;
  for (int64_t c = 0; c + 1 < k; c += 32) {
    const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 33 - k);
    falls |= _mm512_mask_cmpge_epu16_mask(some, _mm512_maskz_loadu_epi16(some, indices + c),
                                          _mm512_maskz_loadu_epi16(some, indices + c + 1));
  }
  return falls == 0;
}

// Find the rows that have a weight. Returns whether the indices of all of them ascend in a block.
GX_AVX512 inline bool find_rows(const Moved& leaf, int64_t block, WindowScratch& s) {
  const Window& w = leaf.window;
  const Entries some = w.entries(block);
  s.rows.clear();
  for (int64_t r = 0; r < w.rows; ++r) {
    if (static_cast<float>(leaf.weights[r]) == 0.0f) continue;
    s.rows.push_back(r);
    const int16_t* at = w.indices + r * w.columns + some.begin;
    if (!ascend(at, some.end - some.begin, w.size(block))) return false;
  }
  return true;
}

GX_WIDE __m128 read_four(const float* x) { return _mm_loadu_ps(x); }
GX_WIDE __m128 read_four(const uint16_t* x) {
  const __m128i half = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(half), 16));
}

// sums[indices] += weight * values, no position twice.
template <typename Value>
GX_WIDE void add_entries(const int16_t* indices, const Value* values, float weight, int64_t count,
                         float* sums) {
  const auto* at = reinterpret_cast<const uint16_t*>(indices);
  const __m128 scale = _mm_set1_ps(weight);
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    float* x[4];
    for (int j = 0; j < 4; ++j) x[j] = sums + at[c + j];
    __m128 sum = _mm_load_ss(x[0]);
    sum = _mm_insert_ps(sum, _mm_load_ss(x[1]), 0x10);
    sum = _mm_insert_ps(sum, _mm_load_ss(x[2]), 0x20);
    sum = _mm_insert_ps(sum, _mm_load_ss(x[3]), 0x30);
    sum = _mm_add_ps(sum, _mm_mul_ps(scale, read_four(values + c)));
    _mm_store_ss(x[0], sum);
    _MM_EXTRACT_FLOAT(*x[1], sum, 1);
    _MM_EXTRACT_FLOAT(*x[2], sum, 2);
    _MM_EXTRACT_FLOAT(*x[3], sum, 3);
  }
  for (; c < count; ++c) sums[at[c]] += weight * widened(values[c]);
}

// The step of a block's parameters, and of their momentum; empties the sums.
template <typename Param>
GX_WIDE void move_sums(const Moved& leaf, Param* p, float* m, int64_t n, WindowScratch& s) {
  const auto decays = static_cast<__mmask16>(leaf.decay != 0.0f ? 0xFFFFu : 0u);
  const __m512 decay = _mm512_set1_ps(leaf.decay), rate = _mm512_set1_ps(-leaf.lr);
  const __m512 mu = _mm512_set1_ps(leaf.mu);
  for (int64_t i = 0; i < n; i += kLanes) {
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

// Add the rows that `find_rows` found, and move the parameters.
template <typename Param, typename Value>
GX_AVX512 void move_block_wide(const Moved& leaf, int64_t block, bool last, WindowScratch& s) {
  constexpr int64_t kTogether = 32;  // entries between two looks at what is wanted soon
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
    for (const int64_t r : s.rows) {
      s.soon.add(indices + r * w.columns + k, 2 * k);
      s.soon.add(values + r * w.columns + k, k * static_cast<int64_t>(sizeof *values));
    }
    s.soon.add(param + n, n * static_cast<int64_t>(sizeof *param));
    if (momentum != nullptr) s.soon.add(momentum + n, n * static_cast<int64_t>(sizeof *momentum));
  }
  const auto rows = static_cast<int64_t>(s.rows.size());
  s.soon.spread(std::max<int64_t>(1, rows * ((k + kTogether - 1) / kTogether)));
  for (const int64_t r : s.rows) {
    const int16_t* at = indices + r * w.columns;
    const Value* of = values + r * w.columns;
    const auto weight = static_cast<float>(leaf.weights[r]);
    for (int64_t c = 0; c < k; c += kTogether) {
      s.soon.fetch();
      add_entries(at + c, of + c, weight, std::min(kTogether, k - c), s.sums);
    }
  }
  move_sums(leaf, param, momentum, n, s);
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
