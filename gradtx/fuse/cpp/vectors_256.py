"""C++ for sixteen elements at a time as two vectors of 256 bits.

Truth values are integers that are 0 or -1; where signs are kept as bits, a word is spread over them
or gathered from them. Halves of vectors are taken apart where elements change their size: what goes
across the middle of a vector is slow on most of these processors.
"""

from __future__ import annotations

TEST = "defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)"
WORDS = """\
typedef float gx_8 __attribute__((vector_size(32)));
typedef int gx_8_int __attribute__((vector_size(32)));
typedef int gx_4_int __attribute__((vector_size(16)));
typedef long long gx_4_long __attribute__((vector_size(32)));
typedef short gx_8_short __attribute__((vector_size(16)));
typedef char gx_narrow __attribute__((vector_size(16)));
typedef long long gx_two __attribute__((vector_size(16)));
// The operators of a vector.
template <typename V, typename T> struct gx_pair {
  V low, high;
  gx_pair() = default;
  constexpr gx_pair(V x, V y) : low(x), high(y) {}
  explicit gx_pair(T x) : low(V{} + x), high(V{} + x) {}
  template <typename W, typename S> explicit gx_pair(gx_pair<W, S> x)
      : low((V)x.low), high((V)x.high) {}
};
typedef gx_pair<gx_8, float> gx_wide;
typedef gx_pair<gx_8_int, int> gx_wide_int;
typedef gx_wide_int gx_mask;
#define GX_OPERATOR(T, S, op) \\
  GX T operator op(T x, T y) { return {x.low op y.low, x.high op y.high}; } \\
  GX T operator op(T x, S y) { return {x.low op y, x.high op y}; } \\
  GX T operator op(S x, T y) { return {x op y.low, x op y.high}; }
GX_OPERATOR(gx_wide, float, +) GX_OPERATOR(gx_wide, float, -) GX_OPERATOR(gx_wide, float, *)
GX_OPERATOR(gx_wide, float, /)
GX_OPERATOR(gx_wide_int, int, +) GX_OPERATOR(gx_wide_int, int, -) GX_OPERATOR(gx_wide_int, int, &)
GX_OPERATOR(gx_wide_int, int, |) GX_OPERATOR(gx_wide_int, int, ^)
GX gx_wide operator-(gx_wide x) { return {-x.low, -x.high}; }
GX gx_wide_int operator~(gx_wide_int x) { return {~x.low, ~x.high}; }
GX gx_wide_int operator<<(gx_wide_int x, int n) { return {x.low << n, x.high << n}; }
GX gx_wide_int operator>>(gx_wide_int x, int n) { return {x.low >> n, x.high >> n}; }
struct gx_all {
  operator gx_mask() const { return gx_mask(-1); }
};
struct gx_some {
  gx_int count;
  operator gx_mask() const {
    const gx_8_int at = {0, 1, 2, 3, 4, 5, 6, 7};
    return {at < (int)count, at + 8 < (int)count};
  }
};
GX gx_some gx_first(gx_int n) { return {n}; }
GX gx_wide gx_fma(gx_wide x, gx_wide y, gx_wide z) {
  return {__builtin_ia32_vfmaddps256(x.low, y.low, z.low),
          __builtin_ia32_vfmaddps256(x.high, y.high, z.high)};
}
#define GX_COMPARE(name, op) \\
  GX gx_mask gx_##name(gx_wide x, gx_wide y) { return {x.low op y.low, x.high op y.high}; }
GX_COMPARE(eq, ==) GX_COMPARE(ne, !=) GX_COMPARE(lt, <) GX_COMPARE(le, <=) GX_COMPARE(gt, >)
GX_COMPARE(ge, >=)
GX gx_wide gx_where(gx_mask m, gx_wide x, gx_wide y) {
  return {__builtin_ia32_blendvps256(y.low, x.low, (gx_8)m.low),
          __builtin_ia32_blendvps256(y.high, x.high, (gx_8)m.high)};
}
GX gx_mask gx_where(gx_mask m, gx_mask x, gx_mask y) { return (m & x) | (~m & y); }
GX gx_wide gx_sqrt(gx_wide x) {
  return {__builtin_ia32_sqrtps256(x.low), __builtin_ia32_sqrtps256(x.high)};
}
// The second one where one of them is not a number.
GX gx_wide gx_above(gx_wide x, gx_wide y) {
  return {__builtin_ia32_maxps256(x.low, y.low), __builtin_ia32_maxps256(x.high, y.high)};
}
GX gx_wide gx_below(gx_wide x, gx_wide y) {
  return {__builtin_ia32_minps256(x.low, y.low), __builtin_ia32_minps256(x.high, y.high)};
}
struct gx_half_short { gx_8_short low, high; };
GX gx_half_short gx_bits_float16(gx_wide x) {
  return {__builtin_ia32_vcvtps2ph256(x.low, 0), __builtin_ia32_vcvtps2ph256(x.high, 0)};
}
GX gx_wide gx_of_float16(gx_half_short x) {
  return {__builtin_ia32_vcvtph2ps256(x.low), __builtin_ia32_vcvtph2ps256(x.high)};
}
GX gx_wide_int gx_widen(gx_half_short x) {
  return {__builtin_ia32_pmovzxwd256(x.low), __builtin_ia32_pmovzxwd256(x.high)};
}
GX gx_8_short gx_shorten(gx_8_int x) {
  x &= 0xffff;
  return __builtin_ia32_packusdw128((gx_4_int)__builtin_ia32_extract128i256((gx_4_long)x, 0),
                                    (gx_4_int)__builtin_ia32_extract128i256((gx_4_long)x, 1));
}
GX gx_half_short gx_shorten(gx_wide_int x) { return {gx_shorten(x.low), gx_shorten(x.high)}; }
// Elements from p on; those that are not there are not touched, and read as zero.
template <typename T> GX T gx_taken(const void* p) {
  T x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
GX gx_half_short gx_read_half(const void* p, gx_all) {
  return {gx_taken<gx_8_short>(p), gx_taken<gx_8_short>((const char*)p + 16)};
}
GX void gx_write_half(void* p, gx_half_short x, gx_all) {
  __builtin_memcpy(p, &x.low, 16);
  __builtin_memcpy((char*)p + 16, &x.high, 16);
}
GX gx_wide gx_read(const float* p, gx_all) { return {gx_taken<gx_8>(p), gx_taken<gx_8>(p + 8)}; }
GX void gx_write(float* p, gx_wide x, gx_all) {
  __builtin_memcpy(p, &x.low, 32);
  __builtin_memcpy(p + 8, &x.high, 32);
}
GX gx_half_short gx_read_half(const void* p, gx_some lanes) {
  short part[16] = {};
  __builtin_memcpy(part, p, 2 * lanes.count);
  return gx_read_half(part, gx_all{});
}
GX void gx_write_half(void* p, gx_half_short x, gx_some lanes) {
  short part[16];
  gx_write_half(part, x, gx_all{});
  __builtin_memcpy(p, part, 2 * lanes.count);
}
GX gx_wide gx_read(const float* p, gx_some lanes) {
  float part[16] = {};
  __builtin_memcpy(part, p, 4 * lanes.count);
  return gx_read(part, gx_all{});
}
GX void gx_write(float* p, gx_wide x, gx_some lanes) {
  float part[16];
  gx_write(part, x, gx_all{});
  __builtin_memcpy(p, part, 4 * lanes.count);
}
GX gx_mask gx_of_bits(int word) {
  const gx_8_int low = {1, 2, 4, 8, 16, 32, 64, 128}, high = low << 8, x = gx_8_int{} + word;
  return {(x & low) == low, (x & high) == high};
}
GX int gx_to_bits(gx_mask x) {
  return __builtin_ia32_movmskps256((gx_8)x.low) | __builtin_ia32_movmskps256((gx_8)x.high) << 8;
}
GX gx_mask gx_read_bits(const unsigned char* p, gx_all) { return gx_of_bits(gx_taken<gx_u16>(p)); }
GX gx_mask gx_read_bits(const unsigned char* p, gx_some lanes) {
  return gx_of_bits(lanes.count > 8 ? gx_taken<gx_u16>(p) : *p);
}
GX void gx_write_bits(unsigned char* p, gx_mask x, gx_all) {
  const gx_u16 word = (gx_u16)gx_to_bits(x);
  __builtin_memcpy(p, &word, 2);
}
GX void gx_write_bits(unsigned char* p, gx_mask x, gx_some lanes) {
  const gx_u16 word = (gx_u16)(gx_to_bits(x) & (1 << lanes.count) - 1);
  __builtin_memcpy(p, &word, lanes.count > 8 ? 2 : 1);
}
// The N numbers after the first N.
template <int N> GX gx_wide gx_next(gx_wide x) {
  if (N == 8) return {x.high, x.low};
  const gx_8_int from = {N & 7, N + 1 & 7, N + 2 & 7, N + 3 & 7};
  return {__builtin_shuffle(x.low, from), x.high};
}
GX float gx_one(gx_wide x) { return x.low[0]; }
#define GX_SIDE 1  // vectors of codes side by side
#define GX_TABLES 0
GX gx_wide_int gx_before(gx_wide_int x, gx_wide_int y) { return {x.low < y.low, x.high < y.high}; }
static constexpr float gx_near = 0.9965f;  // good to 12 bits only
GX gx_wide gx_near_rsqrt(gx_wide x) {
  return {__builtin_ia32_rsqrtps256(x.low), __builtin_ia32_rsqrtps256(x.high)};
}
template <int BITS> GX gx_wide_int gx_wide_codes(const unsigned char* codes) {
  gx_narrow y;
  if (BITS == 8) {
    y = gx_taken<gx_narrow>(codes);
  } else {
    const gx_narrow pairs = (gx_narrow)gx_two{gx_taken<long long>(codes), 0};
    const gx_narrow first = (gx_narrow)((gx_8_short)pairs >> 4);
    y = __builtin_ia32_punpcklbw128(first, pairs) & (char)15;
  }
  const gx_narrow rest = (gx_narrow)__builtin_shuffle((gx_two)y, gx_two{1, 1});
  return {__builtin_ia32_pmovzxbd256(y), __builtin_ia32_pmovzxbd256(rest)};
}
// Codes from 16 numbers: their lowest bits, of which the first is flipped if FLIP.
template <int BITS, bool FLIP> GX void gx_wide_store(unsigned char* codes, const gx_wide_int* x) {
  constexpr int flip = FLIP ? 1 << (BITS - 1) : 0, all = (1 << BITS) - 1;
  const gx_half_short y = gx_shorten(*x & all);
  const gx_narrow z = __builtin_ia32_packuswb128(y.low, y.high) ^ (char)flip;
  if (BITS == 8) return (void)__builtin_memcpy(codes, &z, 16);
  const gx_8_short pairs = __builtin_ia32_pmaddubsw128(z, (gx_narrow)(gx_8_short{} + 0x0110));
  const gx_narrow packed = __builtin_ia32_packuswb128(pairs, pairs);
  __builtin_memcpy(codes, &packed, 8);
}
"""
