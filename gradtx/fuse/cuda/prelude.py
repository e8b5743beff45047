"""What generated CUDA C++ may call: conversions, arithmetic, argument blocks, reductions.

Everything is self-contained, so that NVRTC needs no headers. A block has a power of two of at most
``THREADS`` threads.
"""

from __future__ import annotations

from ..ir.arithmetic import ARITHMETIC

CHUNK = 8192  # elements of a task, one block each; a multiple of every vector width
THREADS = 256
PUT_WORDS = 480  # 8-byte words of one upload: an argument block holds at most 4096 bytes
WIDTH = 256  # columns of a task on a matrix: a warp reads its part of a row in eight loads
ENTRIES = 32  # entries of a vector that a block computes, its warps sharing the parts of each

STORAGE = {
    **{"float64": ("double", 8), "float32": ("float", 4)},
    **{"bfloat16": ("gx_bfloat16", 2), "float16": ("gx_float16", 2)},
    **{"int64": ("gx_int", 8), "int32": ("int", 4), "int16": ("short", 2)},
    **{"int8": ("signed char", 1), "uint8": ("unsigned char", 1), "bool": ("unsigned char", 1)},
}

_SIZES = f"""\
#define GX_CHUNK {CHUNK}
#define GX_THREADS {THREADS}
#define GX_PUT_WORDS {PUT_WORDS}
#define GX_WIDTH {WIDTH}
#define GX_ENTRIES {ENTRIES}
#define GX_ALL 0xffffffffu
"""
PRELUDE = (
    _SIZES
    + """\
#define __builtin_inf() __longlong_as_double(0x7ff0000000000000LL)
#define __builtin_nan(tag) __longlong_as_double(0x7ff8000000000000LL)
typedef long long gx_int;
typedef unsigned short gx_u16;
typedef unsigned int gx_u32;
typedef unsigned long long gx_u64;
struct gx_bfloat16 { gx_u16 bits; };
struct gx_float16 { gx_u16 bits; };
#define GX static __device__ __forceinline__
#define GX_KERNEL extern "C" __global__ void __launch_bounds__(GX_THREADS)
#define GX_UNARY(name) \\
  GX float gx_##name(float x) { return name##f(x); } \\
  GX double gx_##name(double x) { return name(x); }
#define GX_BINARY(name) \\
  GX float gx_##name(float x, float y) { return name##f(x, y); } \\
  GX double gx_##name(double x, double y) { return name(x, y); }
GX_UNARY(sqrt) GX_UNARY(exp) GX_UNARY(expm1) GX_UNARY(log) GX_UNARY(log1p) GX_UNARY(log2)
GX_UNARY(exp2) GX_UNARY(sin) GX_UNARY(cos) GX_UNARY(tan) GX_UNARY(tanh) GX_UNARY(erf)
GX_UNARY(floor) GX_UNARY(ceil) GX_UNARY(trunc)
GX_BINARY(pow) GX_BINARY(fmod) GX_BINARY(atan2) GX_BINARY(copysign) GX_BINARY(hypot)
GX float gx_round(float x) { return rintf(x); }
GX double gx_round(double x) { return rint(x); }
GX float gx_abs(float x) { return fabsf(x); }
GX double gx_abs(double x) { return fabs(x); }
"""
    + ARITHMETIC
    + """\
GX gx_int gx_pow(gx_int x, gx_int y) { return (gx_int)pow((double)x, (double)y); }

GX float gx_load(float x) { return x; }
GX double gx_load(double x) { return x; }
GX gx_int gx_load(gx_int x) { return x; }
GX int gx_load(int x) { return x; }
GX int gx_load(short x) { return x; }
GX int gx_load(signed char x) { return x; }
GX int gx_load(unsigned char x) { return x; }
GX float gx_load(gx_bfloat16 x) { return __uint_as_float((gx_u32)x.bits << 16); }
GX gx_bfloat16 gx_to_bfloat16(float x) {
  const gx_u32 bits = __float_as_uint(x);
  const gx_u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {(gx_u16)(x != x ? 0x7fc0u : rounded)};
}
GX float gx_load(gx_float16 x) {
  const gx_u32 sign = (gx_u32)(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}
GX gx_float16 gx_to_float16(float x) {
  const gx_u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  gx_u32 out;
  if (rest > 0x7f800000u) out = 0x7e00u;
  else if (rest >= 0x477ff000u) out = 0x7c00u;
  else if (rest < 0x38800000u) out = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000u;
  else out = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  return {(gx_u16)(sign | out)};
}
GX float gx_round_bfloat16(float x) { return gx_load(gx_to_bfloat16(x)); }
GX double gx_round_bfloat16(double x) { return (double)gx_load(gx_to_bfloat16((float)x)); }
GX float gx_round_float16(float x) { return gx_load(gx_to_float16(x)); }
GX double gx_round_float16(double x) { return (double)gx_load(gx_to_float16((float)x)); }
GX void gx_store(float* p, float x) { *p = x; }
GX void gx_store(double* p, double x) { *p = x; }
GX void gx_store(gx_bfloat16* p, float x) { *p = gx_to_bfloat16(x); }
GX void gx_store(gx_float16* p, float x) { *p = gx_to_float16(x); }

template <typename T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) gx_pack {
  T x[N];
};

struct gx_number { union { double value; const void* at; }; gx_int kind; };
GX double gx_value(const gx_number& n) {
  switch (n.kind) {
    case 1: return *(const double*)n.at;
    case 2: return *(const float*)n.at;
    case 3: return gx_load(*(const gx_bfloat16*)n.at);
    case 4: return gx_load(*(const gx_float16*)n.at);
    case 5: return (double)*(const gx_int*)n.at;
    case 6: return *(const int*)n.at;
    default: return n.value;
  }
}

union gx_slot { double d; gx_int i; };
struct gx_args {
  gx_int leaves, tasks, hypers, tables, table;
  const gx_number* hyper; const gx_int* hyper_row; const gx_int* numel;
  const gx_int* rows; const gx_int* columns; const gx_int* tile_rows;
  const gx_int* first_task; const gx_int* first_chunk; const gx_int* tree_row;
  char* const* shared; char* const* vectors; char* const* pointers;
  gx_int* task_leaf; gx_int* chunk_leaf; gx_slot* slots; double* partial; double* tree;
};
struct gx_words { gx_int* to; gx_int count; gx_int word[GX_PUT_WORDS]; };

template <bool B> struct gx_flag { __device__ constexpr operator bool() const { return B; } };
GX gx_int gx_least(gx_int x, gx_int y) { return x < y ? x : y; }
GX gx_int gx_pieces(gx_int n, gx_int size) { return (n + size - 1) / size; }
GX int gx_lane() { return threadIdx.x % 32; }
GX int gx_warp() { return threadIdx.x / 32; }
GX int gx_warps() { return blockDim.x / 32; }

struct gx_plus {
  static __device__ double none() { return 0; }
  template <typename T> static __device__ T join(T x, T y) { return x + y; }
};
struct gx_larger {
  static __device__ double none() { return -__builtin_inf(); }
  template <typename T> static __device__ T join(T x, T y) { return gx_max(x, y); }
};
struct gx_smaller {
  static __device__ double none() { return __builtin_inf(); }
  template <typename T> static __device__ T join(T x, T y) { return gx_min(x, y); }
};

// All threads of a block call this and get the same result; the order of joining is fixed.
template <typename Op> GX double gx_reduce(double x) {
  __shared__ double held[GX_THREADS];
  __syncthreads();
  held[threadIdx.x] = x;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      held[threadIdx.x] = Op::join(held[threadIdx.x], held[threadIdx.x + half]);
    __syncthreads();
  }
  return held[0];
}
template <typename Op, typename T> GX double gx_gather(const T* x, gx_int first, gx_int stop) {
  double r = Op::none();
  for (gx_int t = first + threadIdx.x; t < stop; t += blockDim.x)
    r = Op::join(r, (double)gx_load(x[t]));
  return gx_reduce<Op>(r);
}
template <typename Op> GX double gx_total(const gx_args* A, int k) {
  double r = Op::none();
  for (gx_int t = 0; t < A->tables; ++t) r = Op::join(r, A->tree[A->tree_row[k] * A->tables + t]);
  return r;
}
// All lanes of a warp call this and get the same result.
template <typename Op, typename T> GX T gx_across(T x) {
  #pragma unroll
  for (int far = 16; far > 0; far /= 2) x = Op::join(x, __shfl_xor_sync(GX_ALL, x, far));
  return x;
}
GX void* gx_held() {
  __shared__ double held[GX_THREADS / 32 * GX_WIDTH];
  return held;
}
// Joins what the warps of a block have found for its columns; each lane has every 32nd column.
template <typename Op, typename T, typename U> GX void gx_down(const T* own, U* y, int columns) {
  T* const held = (T*)gx_held();
  __syncthreads();
  #pragma unroll
  for (int j = 0; j < GX_WIDTH / 32; ++j) held[gx_warp() * GX_WIDTH + 32 * j + gx_lane()] = own[j];
  __syncthreads();
  for (int k = threadIdx.x; k < columns; k += blockDim.x) {
    double r = Op::none();
    for (int w = 0; w < gx_warps(); ++w) r = Op::join(r, (double)held[w * GX_WIDTH + k]);
    y[k] = (U)r;
  }
}
// Entry k of a vector of n, of which there are several parts; all threads of a block call this,
// k being the same in all warps.
template <typename Op, typename T> GX T gx_entry(const T* x, gx_int parts, gx_int n, gx_int k) {
  __shared__ double held[GX_THREADS];
  double r = Op::none();
  if (k < n)
    for (gx_int t = gx_warp(); t < parts; t += gx_warps()) r = Op::join(r, (double)x[t * n + k]);
  __syncthreads();
  held[threadIdx.x] = r;
  __syncthreads();
  r = Op::none();
  for (int warp = 0; warp < gx_warps(); ++warp) r = Op::join(r, held[32 * warp + gx_lane()]);
  return (T)r;
}

GX_KERNEL gx_put(const __grid_constant__ gx_words words) {
  for (int k = threadIdx.x; k < words.count; k += blockDim.x) words.to[k] = words.word[k];
}
GX_KERNEL gx_tasks(const __grid_constant__ gx_args args) {
  const gx_int leaf = blockIdx.x, stop = args.first_task[leaf + 1];
  for (gx_int t = args.first_task[leaf] + threadIdx.x; t < stop; t += blockDim.x)
    args.task_leaf[t] = leaf;
  const gx_int last = args.first_chunk[leaf + 1];
  for (gx_int t = args.first_chunk[leaf] + threadIdx.x; t < last; t += blockDim.x)
    args.chunk_leaf[t] = leaf;
}
"""
)
