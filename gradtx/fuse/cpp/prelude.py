"""What generated C++ may call: conversions, arithmetic, sums of vectors, and the argument block.

Everything is self-contained, so that no headers are needed.
"""

from __future__ import annotations

from ..ir.arithmetic import ARITHMETIC

CHUNK = 32768  # elements of a task: large against its overhead, small against a core's share
BLOCK = 1024  # elements that are summed in float before they are added in double
STRIP = 64  # rows that are summed in float before they are added in double
WIDTH = 8192  # columns of a task on a matrix, at most
TILE = 1 << 18  # elements of such a task: large against the sums that it leaves behind

STORAGE = {
    **{"float64": "double", "float32": "float", "bfloat16": "gx_u16", "float16": "_Float16"},
    **{"int64": "gx_int", "int32": "int", "int16": "short", "int8": "signed char"},
    **{"uint8": "unsigned char", "bool": "unsigned char"},
}

PRELUDE = (
    """\
typedef __INT64_TYPE__ gx_int;
typedef unsigned short gx_u16;
typedef unsigned int gx_u32;
typedef unsigned long long gx_u64;
#define GX static inline __attribute__((always_inline))
#define GX_UNARY(name) \\
  GX float gx_##name(float x) { return __builtin_##name##f(x); } \\
  GX double gx_##name(double x) { return __builtin_##name(x); }
#define GX_BINARY(name) \\
  GX float gx_##name(float x, float y) { return __builtin_##name##f(x, y); } \\
  GX double gx_##name(double x, double y) { return __builtin_##name(x, y); }
GX_UNARY(sqrt) GX_UNARY(exp) GX_UNARY(expm1) GX_UNARY(log) GX_UNARY(log1p) GX_UNARY(log2)
GX_UNARY(exp2) GX_UNARY(sin) GX_UNARY(cos) GX_UNARY(tan) GX_UNARY(tanh) GX_UNARY(erf)
GX_UNARY(floor) GX_UNARY(ceil) GX_UNARY(trunc)
GX_BINARY(pow) GX_BINARY(fmod) GX_BINARY(atan2) GX_BINARY(copysign) GX_BINARY(hypot)
GX float gx_round(float x) { return __builtin_rintf(x); }
GX double gx_round(double x) { return __builtin_rint(x); }
GX float gx_abs(float x) { return __builtin_fabsf(x); }
GX double gx_abs(double x) { return __builtin_fabs(x); }
"""
    + ARITHMETIC
    + """\
GX gx_int gx_pow(gx_int x, gx_int y) { return (gx_int)__builtin_pow((double)x, (double)y); }
GX float gx_load(float x) { return x; }
GX double gx_load(double x) { return x; }
GX int gx_load(int x) { return x; }
GX gx_int gx_load(gx_int x) { return x; }
GX int gx_load(short x) { return x; }
GX int gx_load(signed char x) { return x; }
GX int gx_load(unsigned char x) { return x; }
GX float gx_load(_Float16 x) { return (float)x; }
GX float gx_load(gx_u16 x) {
  gx_u32 bits = (gx_u32)x << 16; float y; __builtin_memcpy(&y, &bits, 4); return y;
}
GX gx_u16 gx_bits_bfloat16(float x) {
  gx_u32 bits; __builtin_memcpy(&bits, &x, 4);
  gx_u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (gx_u16)(x != x ? 0x7fc0u : rounded);
}
GX float gx_round_bfloat16(float x) { return gx_load(gx_bits_bfloat16(x)); }
GX double gx_round_bfloat16(double x) { return (double)gx_load(gx_bits_bfloat16((float)x)); }
GX float gx_round_float16(float x) { return (float)(_Float16)x; }
GX double gx_round_float16(double x) { return (double)(_Float16)(float)x; }
GX void gx_store(float* p, float x) { *p = x; }
GX void gx_store(double* p, double x) { *p = x; }
GX void gx_store(_Float16* p, float x) { *p = (_Float16)x; }
GX void gx_store(gx_u16* p, float x) { *p = gx_bits_bfloat16(x); }
template <gx_int N> struct gx_size { constexpr operator gx_int() const { return N; } };
GX gx_int gx_least(gx_int x, gx_int y) { return x < y ? x : y; }
// Elements of a run of SIZE that begins at ``run``: a constant where ``all`` is one, a multiple.
template <gx_int SIZE, gx_int N> GX gx_size<SIZE> gx_run(gx_size<N>, gx_int) { return {}; }
template <gx_int SIZE> GX gx_int gx_run(gx_int all, gx_int run) {
  return gx_least(SIZE, all - run);
}
GX gx_int gx_pieces(gx_int n, gx_int size) { return (n + size - 1) / size; }
// Signs of n elements: as bits, and as integers, which loops take in and give as fast as floats.
// Integers are zero or not zero where they come from bits, 0 or -1 where they become bits; their
// number is rounded up to a multiple of 16.
GX void gx_unpack(const unsigned char* bits, int* flags, gx_int n) {
  for (gx_int k = 0; k < n; k += 16) {
    gx_u16 word = bits[k / 8];
    if (k + 8 < n) __builtin_memcpy(&word, bits + k / 8, 2);
    for (int j = 0; j < 16; ++j) flags[k + j] = word & (1 << j);
  }
}
GX gx_u32 gx_word(const int* flags) {
#ifdef __AVX512DQ__
  int __attribute__((vector_size(64))) x;
  __builtin_memcpy(&x, flags, sizeof x);
  return __builtin_ia32_cvtd2mask512(x);
#elif defined(__AVX__)
  float __attribute__((vector_size(32))) x, y;
  __builtin_memcpy(&x, flags, sizeof x);
  __builtin_memcpy(&y, flags + 8, sizeof y);
  return __builtin_ia32_movmskps256(x) | __builtin_ia32_movmskps256(y) << 8;
#else
  gx_u32 word = 0;
  for (int j = 0; j < 16; ++j) word |= flags[j] & (1 << j);
  return word;
#endif
}
GX void gx_pack(unsigned char* bits, int* flags, gx_int n) {
  for (gx_int k = n; k % 16; ++k) flags[k] = 0;
  for (gx_int k = 0; k < n; k += 16) {
    const gx_u16 word = (gx_u16)gx_word(flags + k);
    __builtin_memcpy(bits + k / 8, &word, k + 8 < n ? 2 : 1);
  }
}
struct gx_plus {
  static constexpr double none = 0;
  template <typename T> GX T join(T x, T y) { return x + y; }
};
struct gx_larger {
  static constexpr double none = -__builtin_inf();
  template <typename T> GX T join(T x, T y) { return gx_max(x, y); }
};
struct gx_smaller {
  static constexpr double none = __builtin_inf();
  template <typename T> GX T join(T x, T y) { return gx_min(x, y); }
};
// Brings the parts of a vector of n values together in the first, in order.
template <typename Op, typename T> GX void gx_gather(T* x, gx_int parts, gx_int n) {
  for (gx_int start = 0; start < n; start += 256) {
    const gx_int m = gx_least(256, n - start);
    double r[256];
    for (gx_int k = 0; k < m; ++k) r[k] = Op::none;
    for (gx_int t = 0; t < parts; ++t)
      for (gx_int k = 0; k < m; ++k) r[k] = Op::join(r[k], (double)x[t * n + start + k]);
    for (gx_int k = 0; k < m; ++k) x[start + k] = (T)r[k];
  }
}
template <typename Op, typename T> GX double gx_total(const T* x, gx_int n) {
  double lane[8] = {Op::none, Op::none, Op::none, Op::none, Op::none, Op::none, Op::none, Op::none};
  for (gx_int k = 0; k < n; ++k) lane[k % 8] = Op::join(lane[k % 8], (double)gx_load(x[k]));
  double r = lane[0];
  for (int k = 1; k < 8; ++k) r = Op::join(r, lane[k]);
  return r;
}
union gx_slot { double d; gx_int i; };
struct gx_piece { gx_int leaf, leaf_end, task, task_end, shared; };  // see pieces.py
struct gx_sync {  // leaves and pieces to finish; what has happened; who sleeps
  int open, apart_0[31], event, apart_1[31], waiters;
};
struct gx_args {
  gx_int leaves, tasks, threads, pieces;
  const gx_int* numel; const gx_int* first_task;
  const gx_int* task_leaf; const gx_int* task_begin;
  const gx_int* rows; const gx_int* columns;
  const gx_int* tile_rows; const gx_int* tile_columns;
  char* const* pointers; char* const* shared; char* const* vectors;
  const double* hyper; const gx_int* hyper_row; gx_int hypers;
  gx_slot* slots; double* partial; const double* tree_in; double* tree_out;
  const gx_piece* piece; const gx_int* own;  // the first piece of every thread, and of all
  gx_u64* cursor; int* left; int* ready; gx_sync* sync;
};
// Whether every task of a leaf has whole rows.
GX bool gx_whole(const gx_args* A, gx_int l) { return A->columns[l] <= A->tile_columns[l]; }
"""
)

# What kernels have besides that work on some rows of leaves: sizes of all of a leaf, and memory for
# sums that processes add up.
_FIELDS = """\
  const gx_int* whole_numel; const gx_int* whole_rows; double* joined; const gx_int* joined_at;
};
// Whether every task"""
_FUNCTIONS = """
template <typename T> GX void gx_take(T* to, const double* x, gx_int n) {
  for (gx_int k = 0; k < n; ++k) to[k] = (T)x[k];
}
// The parts of a vector of n values together.
template <typename Op, typename T>
GX void gx_leave(double* to, const T* x, gx_int parts, gx_int n) {
  for (gx_int k = 0; k < n; ++k) to[k] = Op::none;
  for (gx_int t = 0; t < parts; ++t)
    for (gx_int k = 0; k < n; ++k) to[k] = Op::join(to[k], (double)x[t * n + k]);
}
"""


def of_shards(prelude: str) -> str:
    """The prelude of kernels that work on some rows of leaves."""
    return prelude.replace("};\n// Whether every task", _FIELDS) + _FUNCTIONS
