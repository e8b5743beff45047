"""C++ for sixteen elements at a time, where the processor has vectors of 512 bits.

Truth values of sixteen elements are the bits of a mask, so signs that are kept as bits need no work
at all. ``lanes`` says which of the sixteen there are: all of them, or the first ones.
"""

from __future__ import annotations

PRELUDE = """\
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && !defined(__clang__)
#define GX_WIDE 1
typedef float gx_wide __attribute__((vector_size(64)));
typedef int gx_wide_int __attribute__((vector_size(64)));
typedef short gx_half_short __attribute__((vector_size(32)));
typedef gx_u16 gx_mask;
struct gx_all {
  constexpr operator gx_mask() const { return 0xffff; }
};
GX gx_mask gx_first(gx_int n) { return (gx_mask)((1u << n) - 1); }
GX gx_wide gx_spread(float x) { return gx_wide{} + x; }
GX gx_wide gx_fma(gx_wide x, gx_wide y, gx_wide z) {
  return __builtin_ia32_vfmaddps512_mask(x, y, z, -1, 4);
}
#define GX_COMPARE(name, how) \\
  GX gx_mask gx_##name(gx_wide x, gx_wide y) { \\
    return __builtin_ia32_cmpps512_mask(x, y, how, -1, 4); }
GX_COMPARE(eq, 0) GX_COMPARE(ne, 4) GX_COMPARE(lt, 17) GX_COMPARE(le, 18) GX_COMPARE(gt, 30)
GX_COMPARE(ge, 29)
GX gx_wide gx_where(gx_mask m, gx_wide x, gx_wide y) {
  return __builtin_ia32_blendmps_512_mask(y, x, m);
}
GX gx_mask gx_where(gx_mask m, gx_mask x, gx_mask y) { return (gx_mask)((m & x) | (~m & y)); }
GX gx_wide gx_abs(gx_wide x) { return (gx_wide)((gx_wide_int)x & 0x7fffffff); }
GX gx_wide gx_sqrt(gx_wide x) { return __builtin_ia32_sqrtps512_mask(x, gx_wide{}, -1, 4); }
GX gx_wide gx_reciprocal(gx_wide x) { return 1.0f / x; }
GX gx_wide gx_rsqrt(gx_wide x) { return 1.0f / gx_sqrt(x); }
// The second one where one of them is not a number.
GX gx_wide gx_above(gx_wide x, gx_wide y) {
  return __builtin_ia32_maxps512_mask(x, y, gx_wide{}, -1, 4);
}
GX gx_wide gx_below(gx_wide x, gx_wide y) {
  return __builtin_ia32_minps512_mask(x, y, gx_wide{}, -1, 4);
}
GX gx_wide gx_max(gx_wide x, gx_wide y) { return gx_where(gx_ne(x, x), x, gx_above(x, y)); }
GX gx_wide gx_min(gx_wide x, gx_wide y) { return gx_where(gx_ne(x, x), x, gx_below(x, y)); }
GX gx_wide gx_sign(gx_wide x) {
  const gx_wide zero{}, one = zero + 1.0f;
  return gx_where(gx_gt(x, zero), one, gx_where(gx_lt(x, zero), -one, zero));
}
GX gx_wide gx_copysign(gx_wide x, gx_wide y) {
  return (gx_wide)((gx_wide_int)x & 0x7fffffff | (gx_wide_int)y & (int)0x80000000);
}
GX gx_wide_int gx_bits_bfloat16(gx_wide x) {
  const gx_wide_int bits = (gx_wide_int)x, rounded = bits + 0x7fff + (bits >> 16 & 1) >> 16;
  const gx_wide none = (gx_wide)(gx_wide_int{} + 0x7fc0);
  return (gx_wide_int)gx_where(gx_ne(x, x), none, (gx_wide)rounded);
}
GX gx_wide gx_round_bfloat16(gx_wide x) { return (gx_wide)(gx_bits_bfloat16(x) << 16); }
GX gx_half_short gx_bits_float16(gx_wide x) {
  return __builtin_ia32_vcvtps2ph512_mask(x, 0, gx_half_short{}, -1);
}
GX gx_wide gx_of_float16(gx_half_short x) {
  return __builtin_ia32_vcvtph2ps512_mask(x, gx_wide{}, -1, 4);
}
GX gx_wide gx_round_float16(gx_wide x) { return gx_of_float16(gx_bits_float16(x)); }
// Elements from p on; those that are not there are not touched, and read as zero.
GX gx_half_short gx_read_half(const void* p, gx_all) {
  gx_half_short x;
  __builtin_memcpy(&x, p, 32);
  return x;
}
GX gx_half_short gx_read_half(const void* p, gx_mask m) {
  return __builtin_ia32_loaddquhi256_mask((const short*)p, gx_half_short{}, m);
}
GX void gx_write_half(void* p, gx_half_short x, gx_all) { __builtin_memcpy(p, &x, 32); }
GX void gx_write_half(void* p, gx_half_short x, gx_mask m) {
  __builtin_ia32_storedquhi256_mask((short*)p, x, m);
}
GX gx_wide gx_read(const float* p, gx_all) {
  gx_wide x;
  __builtin_memcpy(&x, p, 64);
  return x;
}
GX gx_wide gx_read(const float* p, gx_mask m) {
  return __builtin_ia32_loadups512_mask(p, gx_wide{}, m);
}
template <typename L> GX gx_wide gx_read(const gx_u16* p, L lanes) {
  const gx_half_short x = gx_read_half(p, lanes);
  return (gx_wide)(__builtin_ia32_pmovzxwd512_mask(x, gx_wide_int{}, -1) << 16);
}
template <typename L> GX gx_wide gx_read(const _Float16* p, L lanes) {
  return gx_of_float16(gx_read_half(p, lanes));
}
GX void gx_write(float* p, gx_wide x, gx_all) { __builtin_memcpy(p, &x, 64); }
GX void gx_write(float* p, gx_wide x, gx_mask m) { __builtin_ia32_storeups512_mask(p, x, m); }
template <typename L> GX void gx_write(gx_u16* p, gx_wide x, L lanes) {
  const gx_wide_int bits = gx_bits_bfloat16(x);
  gx_write_half(p, __builtin_ia32_pmovdw512_mask(bits, gx_half_short{}, -1), lanes);
}
template <typename L> GX void gx_write(_Float16* p, gx_wide x, L lanes) {
  gx_write_half(p, gx_bits_float16(x), lanes);
}
GX gx_mask gx_read_bits(const unsigned char* p, gx_mask m) {
  gx_mask x = *p;
  if (m > 0xff) __builtin_memcpy(&x, p, 2);
  return x;
}
GX void gx_write_bits(unsigned char* p, gx_mask x, gx_mask m) {
  x &= m;
  if (m > 0xff) __builtin_memcpy(p, &x, 2);
  else *p = (unsigned char)x;
}
// Elements that are not there count as ``none``.
GX gx_wide gx_only(gx_wide x, gx_all, float) { return x; }
GX gx_wide gx_only(gx_wide x, gx_mask m, float none) { return gx_where(m, x, gx_spread(none)); }
// Sixteen numbers as one: halves, quarters, ... are joined.
GX gx_wide gx_sum(gx_wide x, gx_wide y) { return x + y; }
#define GX_FOLD(name) \\
  GX float gx_fold_##name(gx_wide x) { \\
    typedef gx_wide_int I; \\
    x = gx_##name(x, __builtin_shuffle(x, I{8, 9, 10, 11, 12, 13, 14, 15})); \\
    x = gx_##name(x, __builtin_shuffle(x, I{4, 5, 6, 7})); \\
    x = gx_##name(x, __builtin_shuffle(x, I{2, 3})); \\
    return gx_##name(x, __builtin_shuffle(x, I{1}))[0]; \\
  }
GX_FOLD(sum) GX_FOLD(max) GX_FOLD(min)
#else
#define GX_WIDE 0
#endif
"""
