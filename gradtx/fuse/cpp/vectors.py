"""C++ for sixteen elements at a time: one vector of 512 bits, or two of 256.

``lanes`` says which of the sixteen there are: all of them, or the first ones.
"""

from __future__ import annotations

from . import vectors_256, vectors_512

PRELUDE = (
    f"""\
#if defined(__clang__)
#define GX_WIDE 0
#elif {vectors_512.TEST}
#define GX_WIDE 1
{vectors_512.WORDS}\
#elif {vectors_256.TEST}
#define GX_WIDE 1
{vectors_256.WORDS}\
#else
#define GX_WIDE 0
#endif
#if GX_WIDE
"""
    + """\
GX gx_wide gx_spread(float x) { return gx_wide{} + x; }
GX gx_wide gx_abs(gx_wide x) { return (gx_wide)((gx_wide_int)x & 0x7fffffff); }
GX gx_wide gx_reciprocal(gx_wide x) { return 1.0f / x; }
GX gx_wide gx_rsqrt(gx_wide x) { return 1.0f / gx_sqrt(x); }
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
GX gx_wide gx_round_float16(gx_wide x) { return gx_of_float16(gx_bits_float16(x)); }
template <typename L> GX gx_wide gx_read(const gx_u16* p, L lanes) {
  return (gx_wide)(gx_widen(gx_read_half(p, lanes)) << 16);
}
template <typename L> GX gx_wide gx_read(const _Float16* p, L lanes) {
  return gx_of_float16(gx_read_half(p, lanes));
}
template <typename L> GX void gx_write(gx_u16* p, gx_wide x, L lanes) {
  gx_write_half(p, gx_shorten(gx_bits_bfloat16(x)), lanes);
}
template <typename L> GX void gx_write(_Float16* p, gx_wide x, L lanes) {
  gx_write_half(p, gx_bits_float16(x), lanes);
}
// Elements that are not there count as ``none``.
GX gx_wide gx_only(gx_wide x, gx_all, float) { return x; }
GX gx_wide gx_only(gx_wide x, gx_mask m, float none) { return gx_where(m, x, gx_spread(none)); }
GX gx_wide gx_sum(gx_wide x, gx_wide y) { return x + y; }
// Sixteen numbers as one: halves, quarters, ... are joined.
#define GX_FOLD(name) \\
  GX float gx_fold_##name(gx_wide x) { \\
    x = gx_##name(x, gx_next<8>(x)); \\
    x = gx_##name(x, gx_next<4>(x)); \\
    x = gx_##name(x, gx_next<2>(x)); \\
    return gx_one(gx_##name(x, gx_next<1>(x))); \\
  }
GX_FOLD(sum) GX_FOLD(max) GX_FOLD(min)
#endif
"""
)
