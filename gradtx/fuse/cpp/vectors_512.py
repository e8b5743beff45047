"""C++ for sixteen elements at a time, where the processor has vectors of 512 bits.

Truth values of sixteen elements are the bits of a mask, so signs that are kept as bits need no work
at all.
"""

from __future__ import annotations

TEST = "defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)"
WORDS = """\
typedef float gx_wide __attribute__((vector_size(64)));
typedef int gx_wide_int __attribute__((vector_size(64)));
typedef short gx_half_short __attribute__((vector_size(32)));
typedef gx_u16 gx_mask;
struct gx_all {
  constexpr operator gx_mask() const { return 0xffff; }
};
GX gx_mask gx_first(gx_int n) { return (gx_mask)((1u << n) - 1); }
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
GX gx_wide gx_sqrt(gx_wide x) { return __builtin_ia32_sqrtps512_mask(x, gx_wide{}, -1, 4); }
// The second one where one of them is not a number.
GX gx_wide gx_above(gx_wide x, gx_wide y) {
  return __builtin_ia32_maxps512_mask(x, y, gx_wide{}, -1, 4);
}
GX gx_wide gx_below(gx_wide x, gx_wide y) {
  return __builtin_ia32_minps512_mask(x, y, gx_wide{}, -1, 4);
}
GX gx_half_short gx_bits_float16(gx_wide x) {
  return __builtin_ia32_vcvtps2ph512_mask(x, 0, gx_half_short{}, -1);
}
GX gx_wide gx_of_float16(gx_half_short x) {
  return __builtin_ia32_vcvtph2ps512_mask(x, gx_wide{}, -1, 4);
}
GX gx_wide_int gx_widen(gx_half_short x) {
  return __builtin_ia32_pmovzxwd512_mask(x, gx_wide_int{}, -1);
}
GX gx_half_short gx_shorten(gx_wide_int x) {
  return __builtin_ia32_pmovdw512_mask(x, gx_half_short{}, -1);
}
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
GX void gx_write(float* p, gx_wide x, gx_all) { __builtin_memcpy(p, &x, 64); }
GX void gx_write(float* p, gx_wide x, gx_mask m) { __builtin_ia32_storeups512_mask(p, x, m); }
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
// The N numbers after the first N.
template <int N> GX gx_wide gx_next(gx_wide x) {
#define GX_AT(k) k < N ? N + k : 0
  return __builtin_shuffle(x, gx_wide_int{GX_AT(0), GX_AT(1), GX_AT(2), GX_AT(3), GX_AT(4),
                                          GX_AT(5), GX_AT(6), GX_AT(7)});
#undef GX_AT
}
GX float gx_one(gx_wide x) { return x[0]; }
#define GX_SIDE 4  // vectors of codes side by side
#define GX_TABLES 1
typedef long long gx_wide_long __attribute__((vector_size(64)));
typedef short gx_wide_short __attribute__((vector_size(64)));
typedef char gx_narrow __attribute__((vector_size(16)));
typedef char gx_half_wide __attribute__((vector_size(32)));
typedef long long gx_two __attribute__((vector_size(16)));
GX gx_wide gx_look_up(const float* table, gx_wide_int at) {
  return __builtin_ia32_permvarsf512_mask(gx_read(table, gx_all{}), at, gx_wide{}, -1);
}
// -1 where numbers that are not negative are ordered like this, else 0.
GX gx_wide_int gx_before(gx_wide_int x, gx_wide_int y) { return x - y >> 31; }
// Good to 14 bits; this much less than a fourth root that two of them give is below the right one.
static constexpr float gx_near = 0.999f;
GX gx_wide gx_near_rsqrt(gx_wide x) { return __builtin_ia32_rsqrt14ps512_mask(x, gx_wide{}, -1); }
// Codes of 4 bits are the lowest bits of what this gives.
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
  return (gx_wide_int)(pairs >> 4 | pairs << 32);
}
struct gx_evens {
  short at[32];
  constexpr gx_evens() : at() {
    for (int k = 0; k < 32; ++k) at[k] = (short)(2 * k);
  }
};
// Codes from 64 numbers: their lowest bits, of which the first is flipped if FLIP.
template <int BITS, bool FLIP> GX void gx_wide_store(unsigned char* codes, const gx_wide_int* x) {
  static constexpr gx_evens evens;
  constexpr int flip = FLIP ? 1 << (BITS - 1) : 0;
  gx_wide_short lower;
  __builtin_memcpy(&lower, evens.at, 64);
  #pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    const gx_wide_short first = (gx_wide_short)x[2 * k], second = (gx_wide_short)x[2 * k + 1];
    gx_wide_short y = __builtin_ia32_vpermt2varhi512_mask(lower, first, second, -1);
    if (BITS == 8) {
      const gx_half_wide z = __builtin_ia32_pmovwb512_mask(y, gx_half_wide{}, -1) ^ (char)flip;
      __builtin_memcpy(codes + 32 * k, &z, 32);
    } else {
      const gx_wide_short places = (gx_wide_short)(gx_wide_int{} + 0x00010010);
      y = (y & 15) ^ (short)flip;
      const gx_wide_int pairs = __builtin_ia32_pmaddwd512_mask(y, places, gx_wide_int{}, -1);
      const gx_narrow z = __builtin_ia32_pmovdb512_mask(pairs, gx_narrow{}, -1);
      __builtin_memcpy(codes + 16 * k, &z, 16);
    }
  }
}
"""
