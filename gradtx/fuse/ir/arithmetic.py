"""Arithmetic that C++ and CUDA C++ spell alike; part of both preludes.

Expects ``GX`` (how a function is declared), ``gx_int`` and the functions ``gx_sqrt``, ``gx_exp``
and ``gx_fmod`` for float and double.
"""

ARITHMETIC = """\
GX int gx_abs(int x) { return x < 0 ? -x : x; }
GX gx_int gx_abs(gx_int x) { return x < 0 ? -x : x; }
#define GX_EACH(T) \\
  GX T gx_max(T x, T y) { const T z = x > y ? x : y; return x != x ? x : z; } \\
  GX T gx_min(T x, T y) { const T z = x < y ? x : y; return x != x ? x : z; } \\
  GX T gx_sign(T x) { return (T)((x > 0) - (x < 0)); }
GX_EACH(float) GX_EACH(double) GX_EACH(int) GX_EACH(gx_int)
#define GX_REAL(T) \\
  GX T gx_rsqrt(T x) { return (T)1 / gx_sqrt(x); } \\
  GX T gx_reciprocal(T x) { return (T)1 / x; } \\
  GX T gx_sigmoid(T x) { return (T)1 / ((T)1 + gx_exp(-x)); } \\
  GX T gx_modulo(T x, T y) { return gx_fmod(x, y); }
GX_REAL(float) GX_REAL(double)
GX int gx_modulo(int x, int y) { return x % y; }
GX gx_int gx_modulo(gx_int x, gx_int y) { return x % y; }
#define GX_SIGNED(T) \\
  GX T gx_remainder(T x, T y) { \\
    T r = gx_modulo(x, y); return (r != 0) & ((r < 0) != (y < 0)) ? r + y : r; }
GX_SIGNED(float) GX_SIGNED(double) GX_SIGNED(int) GX_SIGNED(gx_int)
"""
