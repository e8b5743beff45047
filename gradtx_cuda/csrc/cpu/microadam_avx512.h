// One block of a MicroAdam step with the AVX-512 of Ice Lake and Zen 4, the bits of
// microadam_block.h: ranges of 64 elements, four registers.
#pragma once

#include "avx512.h"
#include "microadam_block.h"

#if GX_HAS_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // in the headers of GCC
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace gx {

constexpr int64_t kLanes = 16;
constexpr int64_t kRange = 64;   // elements of a range
constexpr int64_t kBatch = 16;   // ranges whose bounds are computed together
constexpr int64_t kLongest = 1 << 15;  // elements of a block

// Buffers of one thread; `present` is zero between blocks.
struct alignas(64) WideScratch {
  float total[kLongest];
  uint32_t groups[kLongest];  // largest magnitudes
  float least[kLongest / kRange], most[kLongest / kRange];
  uint16_t candidates[kLongest + 64];
  uint32_t bits[kLongest + kLanes], magnitudes[kLongest + kLanes];  // of the candidates
  uint8_t present[kLongest + 64];    // whether the window has an entry
  uint64_t entries[kLongest / 64];
  uint32_t before[kLongest / 64];    // entries in earlier words
  uint16_t slots[kLongest + 64];     // of what is present, in the order of the positions
  float addends[2 * kLongest + 64];  // of one row of the window: for first and second moment
  float moments[2 * kLongest + 64];  // of the slots
  float update[kLongest + 64];
  std::vector<uint16_t> places;  // of a window, clamped to the end of the block
};

// total = sign * gradient + error. Returns a magnitude that at least k of n elements reach, hardly
// more: k of 4k groups of elements have one as large.
template <typename G>
GX_WIDE uint32_t add_errors(const Leaf& leaf, int64_t start, int64_t n, int64_t k,
                            WideScratch& s) {
  const G* grad = static_cast<const G*>(leaf.grad) + start;
  const uint8_t* codes = leaf.codes + start / 2;
  const __m512 sign = _mm512_set1_ps(leaf.sign);
  const __m512 digits = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i wide = _mm512_set_epi64(0x380000003C, 0x3000000034, 0x280000002C, 0x2000000024,
                                        0x180000001C, 0x1000000014, 0x080000000C, 0x0000000004);
  const int64_t ranges = n / kRange;
  const int64_t rounds = std::min(ranges, (4 * k + kLanes - 1) / kLanes);
  auto* groups = reinterpret_cast<float*>(s.groups);
  std::fill_n(groups, rounds * kLanes, 0.0f);
  int64_t group = 0;
  for (int64_t first = 0; first < ranges; first += kBatch) {
    const int64_t count = std::min(kBatch, ranges - first);
    const auto some = static_cast<__mmask16>(0xFFFFu >> (kBatch - count));
    const int64_t range = start / kRange + first;
    const __m512 low = widen(_mm256_maskz_loadu_epi16(some, leaf.lo + range));
    const __m512 high = widen(_mm256_maskz_loadu_epi16(some, leaf.hi + range));
    alignas(64) float los[kBatch], steps[kBatch];
    _mm512_store_ps(los, low);
    _mm512_store_ps(steps, _mm512_div_ps(_mm512_sub_ps(high, low), _mm512_set1_ps(kLevels)));
    for (int64_t j = 0; j < count; ++j) {
      const __m512 decoded = _mm512_add_ps(_mm512_mul_ps(digits, _mm512_set1_ps(steps[j])),
                                           _mm512_set1_ps(los[j]));
      __m512 largest = _mm512_load_ps(groups + group * kLanes);
      for (int64_t i = (first + j) * kRange; i < (first + j + 1) * kRange; i += kLanes) {
        int64_t eight;
        std::memcpy(&eight, codes + i / 2, sizeof eight);
        const __m512i code = _mm512_multishift_epi64_epi8(wide, _mm512_set1_epi64(eight));
        const __m512 x =  // the product is exact
            _mm512_fmadd_ps(sign, read(grad + i), _mm512_permutexvar_ps(code, decoded));
        _mm512_store_ps(s.total + i, x);
        largest = _mm512_range_ps(largest, x, 0xB);  // of the magnitudes
      }
      _mm512_store_ps(groups + group * kLanes, largest);
      group = group + 1 == rounds ? 0 : group + 1;
    }
  }
  uint32_t least = UINT32_MAX, most = 0;
  for (int64_t g = 0; g < rounds * kLanes; ++g) {
    least = std::min(least, s.groups[g]);
    most = std::max(most, s.groups[g]);
  }
  int64_t reached;
  return bound_of(s.groups, rounds * kLanes, k, k / 16, least, most, reached);
}

// List what reaches a bound and find the extremes of every range without it.
// Returns how many there are. `soon`, `width` bytes an element, will be wanted soon.
GX_WIDE int64_t list_candidates(int64_t n, uint32_t bound, const char* soon, int64_t width,
                                WideScratch& s) {
  alignas(64) uint8_t bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i);
  const __m512i order = _mm512_load_si512(bytes);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(bound));
  int64_t count = 0;
  for (int64_t first = 0; first < n / kRange; first += kBatch) {
    const int64_t ranges = std::min(kBatch, n / kRange - first);
    __m512 least[kBatch], most[kBatch];
    for (int64_t j = ranges; j < kBatch; ++j) least[j] = most[j] = _mm512_setzero_ps();
    for (int64_t j = 0; j < ranges; ++j) {
      const int64_t start = (first + j) * kRange;
      fetch(soon + start * width, kRange * width);
      __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY);
      __mmask16 small[4];
      for (int v = 0; v < 4; ++v) {
        const __m512 x = _mm512_load_ps(s.total + start + 16 * v);
        small[v] = _mm512_cmplt_epu32_mask(magnitudes(x), limit);
        low = _mm512_mask_min_ps(low, small[v], low, x);
        high = _mm512_mask_max_ps(high, small[v], high, x);
      }
      least[j] = low;
      most[j] = high;
      const __mmask64 large =
          _knot_mask64(_mm512_kunpackd(_mm512_kunpackw(small[3], small[2]),
                                       _mm512_kunpackw(small[1], small[0])));
      const __m512i found = _mm512_maskz_compress_epi8(large, order);
      const __m512i base = _mm512_set1_epi16(static_cast<int16_t>(start));
      const __m512i front = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(found));
      _mm512_storeu_si512(s.candidates + count, _mm512_add_epi16(base, front));
      const int64_t more = __builtin_popcountll(_cvtmask64_u64(large));
      if (__builtin_expect(more > 32, 0)) {
        const __m512i back = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(found, 1));
        _mm512_storeu_si512(s.candidates + count + 32, _mm512_add_epi16(base, back));
      }
      count += more;
    }
    _mm512_store_ps(s.least + first, reduce<false>(least));
    _mm512_store_ps(s.most + first, reduce<true>(most));
  }
  return count;
}

GX_WIDE void count_for_extremes(int64_t i, float x, WideScratch& s) {
  const int64_t range = i / kRange;
  s.least[range] = std::min(s.least[range], x);
  s.most[range] = std::max(s.most[range], x);
}

// Move the k largest of the candidates, ties to the lower position, to a row of the window. What is
// left of the candidates counts for the extremes of their ranges. Returns the least one moved.
GX_WIDE uint32_t keep_largest(int64_t count, int64_t k, uint32_t bound, int16_t* indices,
                              uint16_t* values, WideScratch& s) {
  for (int64_t c = 0; c < count; ++c) s.bits[c] = to_bits(s.total[s.candidates[c]]);
  uint32_t most = bound;
  for (int64_t c = 0; c < count; ++c) {
    s.magnitudes[c] = s.bits[c] & INT32_MAX;
    most = std::max(most, s.magnitudes[c]);
  }
  int64_t reached;
  const uint32_t least = bound_of(s.magnitudes, count, k, 0, bound, most, reached);
  int64_t ties = reached == k ? k : k - count_from(s.magnitudes, count, least + 1);
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(least));
  int64_t done = 0;
  for (int64_t c = 0; c < count; c += kLanes) {
    const auto some = static_cast<__mmask16>(0xFFFFu >> std::max<int64_t>(0, c + kLanes - count));
    const __m512i m = _mm512_load_si512(s.magnitudes + c);
    const unsigned equal = _mm512_mask_cmpeq_epu32_mask(some, m, limit);
    const unsigned first = _pdep_u32(ties >= kLanes ? 0xFFFFu : (1u << ties) - 1u, equal);
    const auto keep = static_cast<__mmask16>(_mm512_mask_cmpgt_epu32_mask(some, m, limit) | first);
    ties -= __builtin_popcount(first);
    const __m256i place =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(s.candidates + c));
    const __m256i value = narrow(_mm512_load_ps(reinterpret_cast<const float*>(s.bits + c)));
    const int more = __builtin_popcount(keep);
    const auto room = static_cast<__mmask16>((1u << more) - 1u);
    _mm256_mask_storeu_epi16(indices + done, room, _mm256_maskz_compress_epi16(keep, place));
    _mm256_mask_storeu_epi16(values + done, room, _mm256_maskz_compress_epi16(keep, value));
    done += more;
    for (unsigned dropped = some & ~keep; dropped != 0; dropped &= dropped - 1) {
      const int64_t i = s.candidates[c + __builtin_ctz(dropped)];
      count_for_extremes(i, s.total[i], s);
    }
  }
  for (int64_t c = 0; c < k; ++c) {
    s.total[indices[c]] = 0.0f;
    count_for_extremes(indices[c], 0.0f, s);
  }
  return least;
}

// The codes of a range by the division that defines them.
GX_WIDE void divide(const float* x, Range range, __m512i* fixed) {
  const __m512 step = _mm512_set1_ps(grid_step(range, kLevels)), lo = _mm512_set1_ps(range.lo);
  const __mmask16 some = _mm512_cmp_ps_mask(step, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  for (int v = 0; v < 4; ++v) {
    __m512 position = _mm512_div_ps(_mm512_sub_ps(_mm512_load_ps(x + 16 * v), lo), step);
    position = _mm512_max_ps(position, _mm512_setzero_ps());  // 0 for NaN
    position = _mm512_min_ps(position, _mm512_set1_ps(kLevels));
    const __m512i code = _mm512_cvttps_epi32(_mm512_add_ps(position, _mm512_set1_ps(0.5f)));
    fixed[v] = _mm512_maskz_slli_epi32(some, code, 16);
  }
}

// Pack codes, the upper halves of 64 words, clamped to [0, 15].
GX_WIDE void pack_codes(const __m512i* fixed, uint8_t* codes) {
  alignas(64) static constexpr uint16_t kUpper[32] = {
      1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  alignas(64) static constexpr uint8_t kOrder[64] = {
      0, 2, 4, 6, 16, 18, 20, 22, 32, 34, 36, 38, 48, 50, 52, 54,
      8, 10, 12, 14, 24, 26, 28, 30, 40, 42, 44, 46, 56, 58, 60, 62};
  const __m512i upper = _mm512_load_si512(kUpper);
  const __m512i a = _mm512_permutex2var_epi16(fixed[0], upper, fixed[1]);
  const __m512i b = _mm512_permutex2var_epi16(fixed[2], upper, fixed[3]);
  const __m512i bytes = _mm512_min_epu8(_mm512_packus_epi16(a, b), _mm512_set1_epi8(kLevels));
  const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x0110));
  const __m512i ordered = _mm512_permutexvar_epi8(_mm512_load_si512(kOrder), pairs);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_castsi512_si256(ordered));
}

// Bounds and codes of up to 16 ranges of finite numbers, from their extremes. `soon`, `width` bytes
// an element, will be wanted soon, if there is anything.
GX_WIDE void encode_batch(const float* total, const float* least, const float* most, int64_t count,
                          const RangeRule& rule, uint8_t* codes, uint16_t* lo, uint16_t* hi,
                          const char* soon, int64_t width) {
  alignas(64) float los[kBatch], his[kBatch], scales[kBatch], offsets[kBatch];
  for (int64_t j = 0; j < kBatch; ++j) {
    const Range range = finish_range({least[j], most[j]}, rule);
    los[j] = range.lo;
    his[j] = range.hi;
  }
  const __m512 low = _mm512_load_ps(los), high = _mm512_load_ps(his);
  const auto some = static_cast<__mmask16>(0xFFFFu >> (kBatch - count));
  _mm256_mask_storeu_epi16(lo, some, narrow(low));
  _mm256_mask_storeu_epi16(hi, some, narrow(high));

  // Positions in fixed point, half a code and two units up. In a range that contains 0 they are
  // exact to a unit, so the codes are those of the division unless the fraction is below 4 units;
  // conversions that fail, of NaN or too large a number, have the fraction 0.
  const __m512 zero = _mm512_setzero_ps(), half = _mm512_set1_ps(32770.0f);
  const __mmask16 contains =
      _mm512_cmp_ps_mask(low, zero, _CMP_LE_OQ) & _mm512_cmp_ps_mask(high, zero, _CMP_GE_OQ);
  const __m512 step = _mm512_div_ps(_mm512_sub_ps(high, low), _mm512_set1_ps(kLevels));
  const __m512 scale = _mm512_div_ps(_mm512_set1_ps(65536.0f), step);
  _mm512_store_ps(scales, scale);
  const __m512 offset = _mm512_fnmadd_ps(low, scale, half);
  _mm512_store_ps(offsets, _mm512_mask_mov_ps(_mm512_set1_ps(NAN), contains, offset));
  for (int64_t j = 0; j < count; ++j) {
    const __m512 factor = _mm512_set1_ps(scales[j]), addend = _mm512_set1_ps(offsets[j]);
    const float* x = total + j * kRange;
    if (soon != nullptr) fetch(soon + j * kRange * width, kRange * width);
    __m512i fixed[4];
    for (int v = 0; v < 4; ++v) {
      fixed[v] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_load_ps(x + 16 * v), factor, addend));
    }
    const __m512i fraction = _mm512_min_epu16(_mm512_min_epu16(fixed[0], fixed[1]),
                                              _mm512_min_epu16(fixed[2], fixed[3]));
    const __mmask32 unsure =
        _mm512_mask_cmplt_epu16_mask(0x55555555u, fraction, _mm512_set1_epi16(4));
    if (__builtin_expect(unsure != 0, 0)) divide(x, {los[j], his[j]}, fixed);
    pack_codes(fixed, codes + j * kRange / 2);
  }
}

GX_WIDE __m128 load_pair(const float* x) {
  double pair;
  std::memcpy(&pair, x, sizeof pair);
  return _mm_castpd_ps(_mm_set_sd(pair));
}
GX_WIDE void store_pair(float* x, __m128 pair) {
  _mm_storel_pi(reinterpret_cast<__m64*>(x), pair);
}

// Add the window up; `entries` marks the positions that it has, `moments` follows their order.
// Returns their number.
GX_WIDE int64_t add_window(const Leaf& leaf, int64_t column, int64_t k, int64_t n,
                           WideScratch& s) {
  const auto rows = static_cast<int64_t>(leaf.weights1.size());
  const int64_t stride = (k + 31) / 32 * 32;
  if (s.places.size() < static_cast<size_t>(rows * stride)) {
    s.places.resize(static_cast<size_t>(rows * stride));
  }
  uint16_t* places = s.places.data();
  const __m512i end = _mm512_set1_epi16(static_cast<int16_t>(n));  // stands for what points out
  for (int64_t row = 0; row < rows; ++row) {
    const int16_t* at = leaf.indices + row * leaf.columns + column;
    uint16_t* place = places + row * stride;
    for (int64_t c = 0; c < k; c += 32) {
      const __mmask32 some = 0xFFFFFFFFu >> std::max<int64_t>(0, c + 32 - k);
      const __m512i i = _mm512_maskz_loadu_epi16(some, at + c);
      _mm512_storeu_si512(place + c, _mm512_min_epu16(i, end));
    }
#pragma GCC unroll 8
    for (int64_t c = 0; c < k; ++c) s.present[place[c]] = 1;
  }
  alignas(64) uint16_t numbers[32];
  for (int i = 0; i < 32; ++i) numbers[i] = static_cast<uint16_t>(i);
  const __m512i iota = _mm512_load_si512(numbers);
  uint32_t count = 0;
  for (int64_t w = 0; w < n / 64; ++w) {
    const __m512i some = _mm512_load_si512(s.present + 64 * w);
    const __mmask64 mask = _mm512_test_epi8_mask(some, some);
    const uint64_t word = _cvtmask64_u64(mask);
    _mm512_store_si512(s.present + 64 * w, _mm512_setzero_si512());
    s.entries[w] = word;
    s.before[w] = count;
    const __m512i low = _mm512_add_epi16(iota, _mm512_set1_epi16(static_cast<int16_t>(count)));
    const auto half = static_cast<uint32_t>(__builtin_popcount(static_cast<uint32_t>(word)));
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(static_cast<int16_t>(half)));
    const auto upper = static_cast<__mmask32>(word >> 32);
    _mm512_store_si512(s.slots + 64 * w,
                       _mm512_maskz_expand_epi16(static_cast<__mmask32>(word), low));
    _mm512_store_si512(s.slots + 64 * w + 32, _mm512_maskz_expand_epi16(upper, high));
    count += half + static_cast<uint32_t>(__builtin_popcount(upper));
  }
  s.slots[n] = static_cast<uint16_t>(count);
  for (int64_t c = 0; c <= 2 * count; c += kLanes) {
    _mm512_store_ps(s.moments + c, _mm512_setzero_ps());
  }
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int64_t row = 0; row < rows; ++row) {
    const uint16_t* of = leaf.values + row * leaf.columns + column;
    const __m512 w1 = _mm512_set1_ps(leaf.weights1[static_cast<size_t>(row)]);
    const __m512 w2 = _mm512_set1_ps(leaf.weights2[static_cast<size_t>(row)]);
    for (int64_t c = 0; c < k; c += kLanes) {
      const auto some = static_cast<__mmask16>(0xFFFFu >> std::max<int64_t>(0, c + kLanes - k));
      const __m512 v = widen(_mm256_maskz_loadu_epi16(some, of + c));
      const __m512 a = _mm512_mul_ps(w1, v), b = _mm512_mul_ps(w2, _mm512_mul_ps(v, v));
      _mm512_store_ps(s.addends + 2 * c, _mm512_permutex2var_ps(a, low, b));
      _mm512_store_ps(s.addends + 2 * c + 16, _mm512_permutex2var_ps(a, high, b));
    }
    const uint16_t* place = places + row * stride;
#pragma GCC unroll 4
    for (int64_t c = 0; c < k; ++c) {
      float* sum = s.moments + 2 * size_t{s.slots[place[c]]};
      store_pair(sum, _mm_add_ps(load_pair(sum), load_pair(s.addends + 2 * c)));
    }
  }
  return count;
}

// Adam's step of the entries, before decay and learning rate.
GX_WIDE void update_entries(int64_t count, const MicroAdamRates& rates, WideScratch& s) {
  const __m512i even =
      _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (int64_t c = 0; c < count; c += kLanes) {
    const __m512 a = _mm512_load_ps(s.moments + 2 * c), b = _mm512_load_ps(s.moments + 2 * c + 16);
    const __m512 first = _mm512_permutex2var_ps(a, even, b);
    const __m512 second = _mm512_permutex2var_ps(a, odd, b);
    const __m512 v = _mm512_mul_ps(_mm512_set1_ps(rates.gain2), second);
    const __mmask16 some = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 scale =
        _mm512_add_ps(_mm512_maskz_sqrt_ps(some, v), _mm512_set1_ps(rates.eps));
    const __m512 m = _mm512_mul_ps(_mm512_set1_ps(rates.gain1), first);
    _mm512_store_ps(s.update + c, _mm512_div_ps(m, scale));
  }
}

template <typename P>
GX_WIDE void move_entries(P* param, int64_t n, const MicroAdamRates& rates, const WideScratch& s) {
  const __m512 decay = _mm512_set1_ps(rates.weight_decay), rate = _mm512_set1_ps(-rates.lr);
  for (int64_t start = 0; start < n; start += 64) {
    const uint64_t word = s.entries[start / 64];
    const float* update = s.update + s.before[start / 64];
    for (int64_t i = 0; i < 64; i += kLanes) {
      const auto some = static_cast<__mmask16>(word >> i);
      const __m512 u = _mm512_maskz_expand_ps(some, _mm512_loadu_ps(update));
      update += __builtin_popcount(some);
      const __m512 p = read(param + start + i);
      const __m512 change = _mm512_mul_ps(_mm512_add_ps(u, _mm512_mul_ps(decay, p)), rate);
      write(param + start + i, _mm512_add_ps(p, change));
    }
  }
}

// Whether step_block_wide computes a block of n elements that keeps k.
inline bool fits_wide(int64_t n, int64_t k, int64_t quant) {
  return quant == kRange && n % kRange == 0 && n <= kLongest && 8 * k <= n;
}

GX_AVX512 inline void step_block_wide(const Leaf& leaf, int64_t block, const RangeRule& rule,
                                      bool last, WideScratch& s) {
  const int64_t start = block * leaf.block_size;
  const int64_t n = std::min(leaf.block_size, leaf.numel - start);
  const int64_t column = block * leaf.k, k = std::min(leaf.k, leaf.columns - column);
  const auto rows = static_cast<int64_t>(leaf.weights1.size());
  for (int64_t row = 0; row < rows; ++row) {
    fetch(leaf.indices + row * leaf.columns + column, 2 * k);
    fetch(leaf.values + row * leaf.columns + column, 2 * k);
  }
  const uint32_t bound = leaf.bf16_grad ? add_errors<uint16_t>(leaf, start, n, k, s)
                                        : add_errors<float>(leaf, start, n, k, s);
  const int64_t width = leaf.bf16_param ? 2 : 4, next_width = leaf.bf16_grad ? 2 : 4;
  char* param = static_cast<char*>(leaf.param) + start * width;
  const char* next =
      last ? nullptr : static_cast<const char*>(leaf.grad) + (start + n) * next_width;
  const int64_t found = list_candidates(n, bound, param, width, s);
  const int64_t row = leaf.row * leaf.columns + column;
  const uint32_t least =
      keep_largest(found, k, bound, leaf.indices + row, leaf.values + row, s);

  const bool finite = least < to_bits(INFINITY);
  for (int64_t j = 0; j < n / kRange; j += kBatch) {
    const int64_t i = j * kRange, count = std::min(kBatch, n / kRange - j), at = start + i;
    uint8_t* codes = leaf.codes + at / 2;
    uint16_t *lo = leaf.lo + at / kRange, *hi = leaf.hi + at / kRange;
    if (finite) {
      const char* soon = last ? nullptr : next + i * next_width;
      encode_batch(s.total + i, s.least + j, s.most + j, count, rule, codes, lo, hi, soon,
                   next_width);
      continue;
    }
    for (int64_t r = 0; r < count; ++r) {
      encode(s.total + i + r * kRange, kRange, rule, codes + r * kRange / 2, lo + r, hi + r);
    }
  }

  update_entries(add_window(leaf, column, k, n, s), leaf.rates, s);
  if (leaf.bf16_param) {
    move_entries(reinterpret_cast<uint16_t*>(param), n, leaf.rates, s);
  } else {
    move_entries(reinterpret_cast<float*>(param), n, leaf.rates, s);
  }
}

}  // namespace gx
#pragma GCC diagnostic pop
#endif
