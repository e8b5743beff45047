"""C++ that decodes and encodes runs of elements; ``gradtx.ops.block_quantize`` defines the codes.

With 512-bit vectors most of the work is arithmetic on sixteen elements at a time; what is left over
goes one by one, with the same results. No result depends on whether the compiler joins products and
sums into one operation.
"""

from __future__ import annotations

# One element; this is also CUDA C++.
CODES = """\
template <int BITS, bool SIGNED> struct gx_levels {
  static constexpr int top = SIGNED ? (1 << (BITS - 1)) - 1 : 1 << BITS;
  // 1 / top in two parts: a level times the first is exact, so the sum is rounded like a quotient.
  static constexpr float high = (float)(gx_int)(8388608.0 / top) / 8388608.0f;
  static constexpr float low = (float)(1.0 / top - (double)high);
  // What a code stands for where the scale is 1.
  GX_CONSTANT float value(int code) {
    if (SIGNED) {
      const float x = (float)(code - top - 1), base = x * high + x * low;
      return base * __builtin_fabsf(base);
    }
    const float base = (float)(code + 1) * (1.0f / top), square = base * base;
    return square * square;
  }
};
// What signed values are multiplied with. No scale of a signed block is below 2**-100 but zero.
template <int BITS> GX float gx_factor(float s) {
  constexpr float top = gx_levels<BITS, true>::top;
  return s > 0.0f ? top * top / s : 0.0f;
}
// The largest value of a block without sign that gets this level.
template <int BITS> GX float gx_border(int level, float s) {
  constexpr float top = gx_levels<BITS, false>::top;
  const float root = ((float)(level * (level + 1)) - 0.75f) * (1.0f / (top * top));
  return root * root * s;
}
template <int BITS, bool SIGNED> GX int gx_encode_one(float x, float s) {
  constexpr int top = gx_levels<BITS, SIGNED>::top;
  if (SIGNED) {
    const float shifted = (float)((double)gx_abs(x) * (double)gx_factor<BITS>(s) - 0.25);
    const int level = (int)gx_round(gx_sqrt(shifted > 0.0f ? shifted : 0.0f));
    return (x < 0.0f ? -level : level) + top + 1;
  }
  const float ratio = x / s, square = gx_sqrt(ratio > 0.0f ? ratio : 0.0f) * (float)(top * top);
  int level = (int)(gx_sqrt(square + 1.0f) + 0.5f);  // it or a neighbour
  level -= level > 1 && !(gx_border<BITS>(level - 1, s) < x);
  level += gx_border<BITS>(level, s) < x;
  return level - 1;
}
// The scale from the largest word of a block, and from the largest as a number without sign.
template <bool SIGNED> GX float gx_finish_scale(int largest, gx_u32 lowest) {
  if (SIGNED && largest < 0x0d800000) return 0.0f;
  const bool finite = largest < 0x7f800000 && lowest <= 0xff800000u;
  return gx_from_word(finite ? (gx_u32)largest : 0x7fc00000u);
}
GX float gx_round_stochastic(float x, int random, bool clamp) {
  const gx_u32 word = gx_word(x);
  const gx_u32 carry = clamp & ((word >> 16 & 0x7fff) == 0x7f7f) ? 0 : (gx_u32)random & 0xffff;
  const bool finite = (word & 0x7f800000u) != 0x7f800000u;
  return finite ? gx_from_word(word + carry & 0xffff0000u) : gx_round_bfloat16(x);
}
GX double gx_round_stochastic(double x, gx_int random, bool clamp) {
  return gx_round_stochastic((float)x, (int)random, clamp);
}
"""
PRELUDE = (
    """\
#define GX_CONSTANT static constexpr
GX gx_u32 gx_word(float x) { gx_u32 y; __builtin_memcpy(&y, &x, 4); return y; }
GX float gx_from_word(gx_u32 x) { float y; __builtin_memcpy(&y, &x, 4); return y; }
"""
    + CODES
    + """\
template <bool SIGNED> struct gx_table {
  float at[16];
  constexpr gx_table() : at() {
    for (int k = 0; k < 16; ++k) at[k] = gx_levels<4, SIGNED>::value(k);
  }
};
#if defined(__AVX512BW__) && !defined(__clang__)
#define GX_WIDE 1
typedef float gx_wide __attribute__((vector_size(64)));
typedef int gx_wide_int __attribute__((vector_size(64)));
typedef long long gx_wide_long __attribute__((vector_size(64)));
typedef char gx_narrow __attribute__((vector_size(16)));
typedef long long gx_two __attribute__((vector_size(16)));
GX gx_wide gx_spread(float x) { return gx_wide{} + x; }
GX gx_wide gx_fma(gx_wide x, gx_wide y, gx_wide z) {
  return __builtin_ia32_vfmaddps512_mask(x, y, z, -1, 4);
}
GX gx_wide gx_near_rsqrt(gx_wide x) { return __builtin_ia32_rsqrt14ps512_mask(x, gx_wide{}, -1); }
GX gx_wide gx_positive(gx_wide x) {  // zero where there is a sign
  const gx_wide_int y = (gx_wide_int)x;
  return (gx_wide)(y > 0 ? y : gx_wide_int{});
}
template <int BITS> GX gx_wide_int gx_wide_codes(const unsigned char* codes) {
  if (BITS == 8) {
    gx_narrow y;
    __builtin_memcpy(&y, codes, 16);
    return __builtin_ia32_pmovzxbd512_mask(y, gx_wide_int{}, -1);
  }
  long long half;
  __builtin_memcpy(&half, codes, 8);
  const gx_narrow y = (gx_narrow)gx_two{half, 0};
  const gx_wide_long pairs = __builtin_ia32_pmovzxbq512_mask(y, gx_wide_long{}, -1);
  return (gx_wide_int)(pairs >> 4 | pairs << 32) & 15;
}
template <int BITS> GX void gx_wide_store(unsigned char* codes, gx_wide_int x) {  // lowest bits
  if (BITS == 8) {
    const gx_narrow y = __builtin_ia32_pmovdb512_mask(x, gx_narrow{}, -1);
    __builtin_memcpy(codes, &y, 16);
    return;
  }
  const gx_wide_long pairs = (gx_wide_long)(x & 15);
  const gx_narrow y = __builtin_ia32_pmovqb512_mask(pairs << 4 | pairs >> 32, gx_narrow{}, -1);
  const long long half = ((gx_two)y)[0];
  __builtin_memcpy(codes, &half, 8);
}
template <int BITS, bool SIGNED>
GX void gx_wide_decode(const unsigned char* codes, float scale, float* out) {
  typedef gx_levels<BITS, SIGNED> L;
  const gx_wide_int code = gx_wide_codes<BITS>(codes);
  gx_wide y;
  if (BITS == 4) {
    static constexpr gx_table<SIGNED> table;
    gx_wide values;
    __builtin_memcpy(&values, table.at, 64);
    y = __builtin_ia32_permvarsf512_mask(values, code, gx_wide{}, -1);
  } else if (SIGNED) {
    const gx_wide x = (gx_wide)(code | 0x4b000000) - (8388609.0f + L::top);
    const gx_wide base = gx_fma(x, gx_spread(L::low), x * L::high);
    y = base * (gx_wide)((gx_wide_int)base & 0x7fffffff);
  } else {
    const gx_wide base = (gx_wide)(code | 0x47000000) - (32768.0f - 1.0f / 256);
    y = base * base;
    y = y * y;
  }
  y = y * scale;
  __builtin_memcpy(out, &y, 64);
}
// factor: what gx_factor gives; of values without sign the reciprocal of the scale.
template <int BITS, bool SIGNED>
GX void gx_wide_encode(const float* from, unsigned char* codes, float s, float factor) {
  gx_wide x;
  __builtin_memcpy(&x, from, 64);
  if (SIGNED) {
    constexpr int sign = (int)0x80000000, top = gx_levels<BITS, true>::top;
    const gx_wide a = (gx_wide)((gx_wide_int)x & 0x7fffffff);
    const gx_wide square = gx_positive(gx_fma(a, gx_spread(factor), gx_spread(-0.25f)));
    const gx_wide root = __builtin_ia32_sqrtps512_mask(square, gx_wide{}, -1, 4);
    // In these numbers the last bit stands for one.
    const gx_wide t = (gx_wide)((gx_wide_int)root | (gx_wide_int)x & sign) + (12582913.0f + top);
    gx_wide_store<BITS>(codes, (gx_wide_int)t);
    return;
  }
  constexpr float one = 1.0f / gx_levels<BITS, false>::top, base = one * 8388608.0f;
  x = gx_positive(x);
  // A level that is right or one too low: the fourth root, rounded, from roots that are good to 14
  // bits. It is kept below by 0.999, and at 1 or above by what is added.
  constexpr float least = 0.656f * one * one * one * one;
  const gx_wide ratio = gx_fma(x, gx_spread(0.999f * factor), gx_spread(least));
  const gx_wide t = gx_near_rsqrt(gx_near_rsqrt(ratio)) + (base - one);
  const gx_wide middle = t - (base - 1.5f * one);
  const gx_wide root = gx_fma(middle, middle, gx_spread(-one * one));
  const gx_wide_int border = (gx_wide_int)(root * root * s);
  gx_wide_store<BITS>(codes, (gx_wide_int)t - (border - (gx_wide_int)x >> 31));
}
#else
#define GX_WIDE 0
template <int BITS, bool SIGNED>
GX void gx_wide_decode(const unsigned char*, float, float*) {}
template <int BITS, bool SIGNED>
GX void gx_wide_encode(const float*, unsigned char*, float, float) {}
#endif
// Codes of 4 bits, two to a byte; the first of n is the lower half of its byte if odd.
GX void gx_unpack_halves(const unsigned char* pairs, unsigned char* level, int odd, gx_int n) {
  if (odd) *level++ = *pairs++ & 15, --n;
  for (gx_int k = 0; k < n / 2; ++k) {
    level[2 * k] = pairs[k] >> 4;
    level[2 * k + 1] = pairs[k] & 15;
  }
  if (n % 2) level[n - 1] = pairs[n / 2] >> 4;
}
GX void gx_pack_halves(unsigned char* pairs, const unsigned char* level, int odd, gx_int n) {
  if (odd) *pairs++ |= *level++, --n;
  for (gx_int k = 0; k < n / 2; ++k)
    pairs[k] = (unsigned char)(level[2 * k] << 4 | level[2 * k + 1]);
  if (n % 2) pairs[n / 2] = (unsigned char)(level[n - 1] << 4);
}
// The codes of n elements and the scales of their blocks, the first of which may have begun before.
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_decode(const unsigned char* codes, const float* scale, float* out, gx_int n) {
  unsigned char level[SIZE];
  for (gx_int start = 0; start < n; start += SIZE) {
    const gx_int m = gx_least(SIZE, n - start);
    const float s = scale[start / SIZE];
    gx_int k = start;
    if (GX_WIDE && SIZE % 16 == 0)
      for (; k + 16 <= start + m; k += 16)
        gx_wide_decode<BITS, SIGNED>(codes + k * BITS / 8, s, out + k);
    const unsigned char* code = codes + k;
    const gx_int rest = start + m - k;
    if (BITS == 4) {
      gx_unpack_halves(codes + k / 2, level, k % 2, rest);
      code = level;
    }
    #pragma omp simd
    for (gx_int j = 0; j < rest; ++j) out[k + j] = gx_levels<BITS, SIGNED>::value(code[j]) * s;
  }
}
// The largest magnitude of a block; without sign only what is positive counts.
template <bool SIGNED, typename N> GX float gx_scale_of(const float* x, const N n) {
  int largest = 0;  // numbers without sign compare like their bits, and NaN is the largest
  gx_u32 lowest = 0;  // of what has a sign, only to find NaN
  #pragma omp simd reduction(max:largest) reduction(max:lowest)
  for (gx_int k = 0; k < n; ++k) {
    const gx_u32 word = SIGNED ? gx_word(x[k]) & 0x7fffffffu : gx_word(x[k]);
    largest = (int)word > largest ? (int)word : largest;
    if (!SIGNED) lowest = word > lowest ? word : lowest;
  }
  return gx_finish_scale<SIGNED>(largest, lowest);
}
// Scales of blocks, and what gx_wide_encode multiplies with: negative where it cannot be used.
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_scales(const float* x, float* scale, float* factor, gx_int n) {
  for (gx_int start = 0; start < n; start += SIZE, x += SIZE) {
    const float s = start + SIZE <= n ? gx_scale_of<SIGNED>(x, gx_size<SIZE>())
                                      : gx_scale_of<SIGNED>(x, n - start);
    *scale++ = s;
    *factor++ = SIGNED ? s == s ? gx_factor<BITS>(s) : -1.0f
                       : s > 0x1p-60f && s < 0x1p120f ? 1.0f / s : -1.0f;
  }
}
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_encode(const float* x, unsigned char* codes, const float* scale, const float* factor,
                  gx_int n) {
  unsigned char level[SIZE];
  for (gx_int start = 0; start < n; start += SIZE) {
    const gx_int m = gx_least(SIZE, n - start);
    const float s = scale[start / SIZE], f = factor[start / SIZE];
    gx_int k = start;
    if (GX_WIDE && SIZE % 16 == 0 && f >= 0.0f)
      for (; k + 16 <= start + m; k += 16)
        gx_wide_encode<BITS, SIGNED>(x + k, codes + k * BITS / 8, s, f);
    const gx_int rest = start + m - k;
    unsigned char* const to = BITS == 8 ? codes + k : level;
    #pragma omp simd
    for (gx_int j = 0; j < rest; ++j)
      to[j] = (unsigned char)gx_encode_one<BITS, SIGNED>(x[k + j], s);
    if (BITS == 4) gx_pack_halves(codes + k / 2, level, k % 2, rest);
  }
}
"""
)
