"""C++ for what a pass handles block by block: codes with scales, and random numbers.

A pass cuts its task into segments of whole blocks. What a segment's loop over elements reads from
blocks is decoded into an array on the stack before it, what it gives is encoded from one after it.
"""

from __future__ import annotations

import math

from .cpp_prelude import BLOCK
from .errors import CannotFuseError
from .expression import name, operand
from .graph import EXACT, MOST, Graph, Input
from .places import Places, label
from .schedule import Stage

_SEGMENT = 512  # elements: their arrays stay in the first cache

PRELUDE = """\
GX gx_u32 gx_word(float x) { gx_u32 y; __builtin_memcpy(&y, &x, 4); return y; }
GX float gx_from_word(gx_u32 x) { float y; __builtin_memcpy(&y, &x, 4); return y; }
template <bool SIGNED> GX float gx_magnitude(float x) {
  return gx_abs(!SIGNED && x < 0.0f ? 0.0f : x);
}
template <int BITS, bool SIGNED> GX float gx_decode_one(int code, float scale) {
  if (SIGNED) {
    constexpr int top = (1 << (BITS - 1)) - 1;
    // code / top in two products: the first is exact, so the sum is rounded like the quotient.
    constexpr float high = (float)(gx_int)(8388608.0 / top) / 8388608.0f;
    constexpr float low = (float)(1.0 / top - (double)high);
    const float x = (float)(code - top - 1), base = x * high + x * low;
    return base * gx_abs(base) * scale;
  }
  const float base = (float)(code + 1) * (1.0f / (1 << BITS)), square = base * base;
  return square * square * scale;
}
// ratio: of the magnitude to the scale, not negative.
template <int BITS, bool SIGNED> GX int gx_encode_one(float x, float ratio) {
  if (SIGNED) {
    constexpr int top = (1 << (BITS - 1)) - 1;
    const float shifted = ratio * (float)(top * top) - 0.25f;
    const float root = gx_sqrt(shifted > 0.0f ? shifted : 0.0f) + 0.5f;
    return (int)gx_copysign(root, x) + top + 1;
  }
  const float shifted = gx_sqrt(ratio) * (float)(1 << 2 * BITS) + 1.0f;
  return (int)(gx_sqrt(shifted) + 0.5f) - 1;
}
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
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_decode(const unsigned char* codes, const float* scale, float* out, gx_int n) {
  unsigned char level[SIZE];
  for (gx_int start = 0; start < n; start += SIZE) {
    const gx_int m = gx_least(SIZE, n - start);
    const float s = scale[start / SIZE];
    const unsigned char* code = codes + start;
    if (BITS == 4) {
      gx_unpack_halves(codes + start / 2, level, start % 2, m);
      code = level;
    }
    #pragma omp simd
    for (gx_int k = 0; k < m; ++k) out[start + k] = gx_decode_one<BITS, SIGNED>(code[k], s);
  }
}
template <int BITS, bool SIGNED, gx_int SIZE>
GX void gx_encode(const float* x, unsigned char* codes, float* scale, gx_int n) {
  unsigned char level[SIZE];
  for (gx_int start = 0; start < n; start += SIZE) {
    const gx_int m = gx_least(SIZE, n - start);
    const float* const y = x + start;
    gx_u32 largest = 0;  // magnitudes compare like their bits, and NaN is the largest
    #pragma omp simd reduction(max:largest)
    for (gx_int k = 0; k < m; ++k) {
      const gx_u32 word = gx_word(gx_magnitude<SIGNED>(y[k]));
      largest = word > largest ? word : largest;
    }
    const float s = gx_from_word(largest < 0x7f800000u ? largest : 0x7fc00000u);
    if (scale) scale[start / SIZE] = s;
    if (!codes) continue;
    unsigned char* const to = BITS == 8 ? codes + start : level;
#ifdef __FMA__
    // A product with the reciprocal, corrected once. Only a quotient that is as close to the middle
    // of two numbers as quotients can be might be rounded in another way than by a division, and no
    // border between codes is such a case: all borders with all scales were tried. What underflows
    // here gets the lowest code in any case.
    if (s > 0x1p-60f && s < 0x1p120f) {
      const float inverse = 1.0f / s;
      #pragma omp simd
      for (gx_int k = 0; k < m; ++k) {
        const float a = SIGNED ? gx_abs(y[k]) : y[k] > 0.0f ? y[k] : 0.0f;
        const float near = a * inverse;
        const float ratio = __builtin_fmaf(__builtin_fmaf(-near, s, a), inverse, near);
        to[k] = (unsigned char)gx_encode_one<BITS, SIGNED>(y[k], ratio);
      }
    } else
#endif
    {
      #pragma omp simd
      for (gx_int k = 0; k < m; ++k) {
        const float ratio = gx_magnitude<SIGNED>(y[k]) / s;
        to[k] = (unsigned char)gx_encode_one<BITS, SIGNED>(y[k], ratio > 0.0f ? ratio : 0.0f);
      }
    }
    if (BITS == 4) {
      gx_pack_halves(codes + start / 2, level, start % 2, m);
    }
  }
}
// Random numbers of 16 bits for elements from ``at`` on, from the one whose number is a multiple of
// 8: Philox-4x32-10 gives four words a block, which are halved.
GX void gx_draw(gx_int seed, gx_int counter, gx_int at, gx_u32* out, gx_int n) {
  const gx_int first = at / 8, blocks = (at % 8 + n + 7) / 8;
  #pragma omp simd
  for (gx_int j = 0; j < blocks; ++j) {
    gx_u32 c0 = (gx_u32)(first + j), c1 = (gx_u32)((gx_u64)(first + j) >> 32);
    gx_u32 c2 = (gx_u32)counter, c3 = (gx_u32)((gx_u64)counter >> 32);
    gx_u32 k0 = (gx_u32)seed, k1 = (gx_u32)((gx_u64)seed >> 32);
    #pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const gx_u64 x = (gx_u64)c0 * 0xd2511f53u, y = (gx_u64)c2 * 0xcd9e8d57u;
      c0 = (gx_u32)(y >> 32) ^ c1 ^ k0;
      c2 = (gx_u32)(x >> 32) ^ c3 ^ k1;
      c1 = (gx_u32)y;
      c3 = (gx_u32)x;
      k0 += 0x9e3779b9u;
      k1 += 0xbb67ae85u;
    }
    out[4 * j] = c0;
    out[4 * j + 1] = c1;
    out[4 * j + 2] = c2;
    out[4 * j + 3] = c3;
  }
}
typedef gx_u16 __attribute__((may_alias)) gx_half_word;
GX int gx_half(const gx_u32* words, gx_int i) {
  return ((const gx_half_word*)words)[i ^ (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)];
}
GX gx_int gx_draw_one(gx_int seed, gx_int counter) {
  gx_u32 words[4];
  gx_draw(seed, counter, 0, words, 1);
  return gx_half(words, 0);
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


def is_exact(graph: Graph) -> bool:
    """Whether the compiler must not join products and sums into one operation."""
    return any(node.op in EXACT for node in graph.nodes)


def segment(graph: Graph) -> int:
    """Elements of a segment: whole blocks and whole bytes.

    Raises:
        CannotFuseError: it would be too large for the stack.
    """
    sizes = [node.each for node in graph.nodes if node.each is not None]
    if not sizes:
        return BLOCK
    least = math.lcm(*sizes)
    if least > 2 * MOST:
        raise CannotFuseError("", f"has blocks that only fit together after {least} elements")
    return least * max(1, _SEGMENT // least)


class Arrays:
    """The arrays on the stack of one stage.

    Args:
        places: of the graph.
        stage: the stage.
        size: elements of a segment.
    """

    def __init__(self, places: Places, stage: Stage, size: int) -> None:
        self.graph = places.graph
        self.size = size
        nodes = self.graph.nodes
        self.decoded = [i for i in stage.elements if nodes[i].op == "block_decode"]
        self.drawn = [i for i in stage.elements if nodes[i].op == "random16"]
        self.encoded: dict[tuple[int, tuple[int, int, bool]], dict[str, Input]] = {}
        for target, i in stage.writes:
            if nodes[i].each is not None:
                key = (nodes[i].args[0], nodes[i].value)
                self.encoded.setdefault(key, {})[nodes[i].op] = target

    def __bool__(self) -> bool:
        return bool(self.decoded or self.drawn or self.encoded)

    def before(self, at: str) -> list[str]:
        """Fill the arrays that the loop reads; ``at`` is the first element, ``size`` how many."""
        nodes, lines = self.graph.nodes, []
        for i in self.decoded:
            codes, scale = (f"p_{label(nodes[a].value)}" for a in nodes[i].args)
            lines.append(f"alignas(64) float part{i}[{self.size}];")
            given = _pointers(nodes[i].value, codes, scale, at)
            lines.append(f"gx_decode<{_types(nodes[i].value)}>({given}, part{i}, size);")
        for i in self.drawn:
            key = ", ".join(operand(self.graph, a, "gx_int", False) for a in nodes[i].args)
            lines.append(f"alignas(64) gx_u32 part{i}[{self.size // 2 + 8}];")
            lines.append(f"gx_draw({key}, {at}, part{i}, size);")
            lines.append(f"const gx_int shift{i} = ({at}) % 8;")
        lines += [f"alignas(64) float {self._source(k)}[{self.size}];" for k in self.encoded]
        return lines

    def value(self, i: int) -> str:
        """An element of such an array, "" for other nodes."""
        if i in self.decoded:
            return f"part{i}[k]"
        return f"gx_half(part{i}, shift{i} + k)" if i in self.drawn else ""

    def store(self) -> list[str]:
        """Statements in the loop that keep what is encoded."""
        return [f"{self._source(key)}[k] = {name(key[0])};" for key in self.encoded]

    def after(self, at: str) -> list[str]:
        """Encode the arrays that the loop has written."""
        lines = []
        for key, targets in self.encoded.items():
            codes, scale = (
                f"p_{label(targets[op])}" if op in targets else ""
                for op in ("block_codes", "block_scale")
            )
            given = _pointers(key[1], codes, scale, at)
            lines.append(f"gx_encode<{_types(key[1])}>({self._source(key)}, {given}, size);")
        return lines

    def _source(self, key: tuple[int, tuple[int, int, bool]]) -> str:
        bits, block, signed = key[1]
        return f"full{key[0]}_{bits}_{block}_{int(signed)}"


def _types(spec: tuple[int, int, bool]) -> str:
    bits, block, signed = spec
    return f"{bits}, {str(signed).lower()}, {block}"


def _pointers(spec: tuple[int, int, bool], codes: str, scale: str, at: str) -> str:
    """The codes and the scale from an element on."""
    bits, block, _ = spec
    first = f"{codes} + ({at}) / {8 // bits}" if codes else "(unsigned char*)0"
    second = f"{scale} + ({at}) / {block}" if scale else "(float*)0"
    return f"{first}, {second}"
