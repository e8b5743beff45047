"""C++ that decodes and encodes runs of elements; ``gradtx.ops.block_quantize`` defines the codes.

With 512-bit vectors most of the work is arithmetic on 64 elements at a time, four vectors side by
side; what is left over goes one by one, with the same results. No result depends on whether the
compiler joins products and sums into one operation.
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
// The number in a leaf of an element of a part of it, which lies there in rows.
GX gx_int gx_number(gx_int at, gx_int first, gx_int length, gx_int distance) {
  if (at < length) return first + at;
  const gx_int row = at / length;
  return first + row * distance + (at - row * length);
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
// Decoded values as products of a scale, ``unit`` and ``value``, which is a whole number if signed:
// where they are multiplied with something else, one product does for a block.
template <int BITS, bool SIGNED> struct gx_parts {
  static constexpr int top = gx_levels<BITS, SIGNED>::top;
  static constexpr float unit = SIGNED ? 1.0f / (top * top) : 1.0f;
  GX_CONSTANT float value(int code) {
    const int level = code - top - 1;
    return SIGNED ? (float)(level * (level < 0 ? -level : level))
                  : gx_levels<BITS, SIGNED>::value(code);
  }
};
template <bool SIGNED, bool WHOLE> struct gx_table {
  float at[16];
  constexpr gx_table() : at() {
    for (int k = 0; k < 16; ++k)
      at[k] = WHOLE ? gx_parts<4, SIGNED>::value(k) : gx_levels<4, SIGNED>::value(k);
  }
};
#if GX_WIDE
#define GX_RARE static __attribute__((noinline, cold))
#define GX_EACH _Pragma("GCC unroll 4") for (int k = 0; k < GX_SIDE; ++k)
// Values of 16 elements, or their ``gx_parts``.
template <int BITS, bool SIGNED, bool WHOLE> GX gx_wide gx_value(gx_wide_int code) {
  typedef gx_levels<BITS, SIGNED> L;
  if constexpr (BITS == 4 && GX_TABLES) {
    static constexpr gx_table<SIGNED, WHOLE> table;
    return gx_look_up(table.at, code);
  }
  if (SIGNED) {
    const gx_wide x = (gx_wide)(code | 0x4b000000) - (8388609.0f + L::top);
    const gx_wide base = WHOLE ? x : gx_fma(x, gx_spread(L::low), x * L::high);
    return base * (gx_wide)((gx_wide_int)base & 0x7fffffff);
  }
  // In the sum the last bit stands for 1 / top.
  constexpr float sum = 8388608 >> BITS;
  const gx_wide base = (gx_wide)(code | 150 - BITS << 23) - (sum - 1.0f / L::top);
  const gx_wide square = base * base;
  return square * square;
}
template <int BITS, bool SIGNED, bool WHOLE>
GX void gx_wide_decode(const unsigned char* codes, float scale, float* out) {
  gx_wide y[GX_SIDE];
  GX_EACH {
    y[k] = gx_value<BITS, SIGNED, WHOLE>(gx_wide_codes<BITS>(codes + 2 * BITS * k));
    if (!WHOLE) y[k] = y[k] * scale;
  }
  GX_EACH gx_write(out + 16 * k, y[k], gx_all{});
}
// Codes of some elements, step by step: what one waits for is done for the others.
// factor: what gx_factor gives; of values without sign the reciprocal of the scale.
template <int BITS, bool SIGNED>
GX void gx_wide_encode(const float* from, unsigned char* codes, float s, float factor) {
  gx_wide x[GX_SIDE], y[GX_SIDE];
  gx_wide_int level[GX_SIDE];
  GX_EACH x[k] = gx_read(from + 16 * k, gx_all{});
  if (SIGNED) {
    constexpr int sign = (int)0x80000000;
    GX_EACH y[k] = (gx_wide)((gx_wide_int)x[k] & ~sign);
    GX_EACH y[k] = gx_fma(y[k], gx_spread(factor), gx_spread(-0.25f));
    // The root of a negative number is a NaN whose lowest bits are zero, and so is its level. In
    // the sum the last bit stands for one.
    GX_EACH y[k] = gx_sqrt(y[k]);
    GX_EACH y[k] = (gx_wide)((gx_wide_int)y[k] | (gx_wide_int)x[k] & sign) + 12582912.0f;
    GX_EACH level[k] = (gx_wide_int)y[k];
  } else {
    constexpr float one = 1.0f / gx_levels<BITS, false>::top, base = one * 8388608.0f;
    // A level that is right or one too low: the fourth root, rounded, from roots that are nearly
    // right. It is kept below by ``gx_near``, and at 1 or above by what is added.
    constexpr float least = 0.656f * one * one * one * one;
    GX_EACH y[k] = gx_fma(x[k], gx_spread(gx_near * factor), gx_spread(least));
    GX_EACH y[k] = gx_near_rsqrt(y[k]);
    GX_EACH y[k] = gx_near_rsqrt(y[k]) + (base - one);
    GX_EACH level[k] = (gx_wide_int)y[k];
    GX_EACH y[k] = y[k] - (base - 1.5f * one);
    GX_EACH y[k] = gx_fma(y[k], y[k], gx_spread(-one * one));
    GX_EACH y[k] = y[k] * y[k] * s;
    GX_EACH level[k] = level[k] - gx_before((gx_wide_int)y[k], (gx_wide_int)x[k]);
  }
  gx_wide_store<BITS, SIGNED>(codes, level);
}
#undef GX_EACH
#else
#define GX_RARE GX
#define GX_SIDE 1
template <int BITS, bool SIGNED, bool WHOLE>
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
// Values of n elements of one block, or if WHOLE their ``gx_parts``. odd: whether the first code is
// the lower half of a byte.
template <int BITS, bool SIGNED, bool WHOLE>
GX void gx_decode_part(const unsigned char* codes, float s, float* out, gx_int n, bool odd) {
  gx_int k = 0;
  if (GX_WIDE && !odd)
    for (; k + 16 * GX_SIDE <= n; k += 16 * GX_SIDE)
      gx_wide_decode<BITS, SIGNED, WHOLE>(codes + k * BITS / 8, s, out + k);
  unsigned char level[64];
  for (; k < n; k += 64) {
    const gx_int m = gx_least(64, n - k);
    const unsigned char* code = codes + k * BITS / 8;
    if (BITS == 4) {
      gx_unpack_halves(code, level, odd, m);
      code = level;
    }
    #pragma omp simd
    for (gx_int j = 0; j < m; ++j)
      out[k + j] = WHOLE ? gx_parts<BITS, SIGNED>::value(code[j])
                         : gx_levels<BITS, SIGNED>::value(code[j]) * s;
  }
}
// Values of n elements of blocks that begin where the codes begin.
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_decode(const unsigned char* codes, const float* scale, float* out, gx_int n) {
  for (gx_int start = 0; start < n; start += SIZE)
    gx_decode_part<BITS, SIGNED, false>(codes + start * BITS / 8, scale[start / SIZE], out + start,
                                        gx_least(SIZE, n - start), BITS == 4 && start % 2);
}
// The largest magnitude of a block; without sign only what is positive counts, and ``minus`` says
// whether there is anything else.
template <bool SIGNED, typename N> GX float gx_scale_of(const float* x, const N n, bool& minus) {
  gx_u32 top = 0;  // numbers without sign compare like their bits, and NaN is the largest
  #pragma omp simd reduction(max:top)
  for (gx_int k = 0; k < n; ++k) {
    const gx_u32 word = SIGNED ? gx_word(x[k]) & 0x7fffffffu : gx_word(x[k]);
    top = word > top ? word : top;
  }
  if (SIGNED) return gx_finish_scale<true>((int)top, 0);
  int largest = (int)top;
  minus = largest < 0;
  if (minus) {
    largest = 0;
    #pragma omp simd reduction(max:largest)
    for (gx_int k = 0; k < n; ++k) {
      const int word = (int)gx_word(x[k]);
      largest = word > largest ? word : largest;
    }
  }
  return gx_finish_scale<false>(largest, top);
}
// Scales of blocks, and what gx_wide_encode multiplies with: negative where it cannot be used.
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_scales(const float* x, float* scale, float* factor, gx_int n) {
  for (gx_int start = 0; start < n; start += SIZE, x += SIZE) {
    bool minus = false;
    const float s = start + SIZE <= n ? gx_scale_of<SIGNED>(x, gx_size<SIZE>(), minus)
                                      : gx_scale_of<SIGNED>(x, n - start, minus);
    *scale++ = s;
    *factor++ = SIGNED ? s == s ? gx_factor<BITS>(s) : -1.0f
                       : !minus && s > 0x1p-90f && s < 0x1p120f ? 1.0f / s : -1.0f;
  }
}
template <int BITS, bool SIGNED>
GX_RARE void gx_encode_singly(const float* x, unsigned char* codes, float s, gx_int n, bool odd) {
  unsigned char level[64];
  for (gx_int k = 0; k < n; k += 64) {
    const gx_int m = gx_least(64, n - k);
    unsigned char* const to = BITS == 8 ? codes + k : level;
    #pragma omp simd
    for (gx_int j = 0; j < m; ++j) to[j] = (unsigned char)gx_encode_one<BITS, SIGNED>(x[k + j], s);
    if (BITS == 4) gx_pack_halves(codes + k / 2, level, odd, m);
  }
}
// Codes of n elements of one block.
template <int BITS, bool SIGNED>
GX void gx_encode_part(const float* x, unsigned char* codes, float s, float factor, gx_int n,
                       bool odd) {
  gx_int k = 0;
  if (GX_WIDE && factor >= 0.0f && !odd)
    for (; k + 16 * GX_SIDE <= n; k += 16 * GX_SIDE)
      gx_wide_encode<BITS, SIGNED>(x + k, codes + k * BITS / 8, s, factor);
  if (k < n) gx_encode_singly<BITS, SIGNED>(x + k, codes + k * BITS / 8, s, n - k, odd);
}
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_encode(const float* x, unsigned char* codes, const float* scale, const float* factor,
                  gx_int n) {
  for (gx_int start = 0; start < n; start += SIZE)
    gx_encode_part<BITS, SIGNED>(x + start, codes + start * BITS / 8, scale[start / SIZE],
                                 factor[start / SIZE], gx_least(SIZE, n - start),
                                 BITS == 4 && start % 2);
}
"""
)
