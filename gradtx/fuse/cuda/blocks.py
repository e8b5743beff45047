"""CUDA C++ for codes with scales and for random numbers.

A pass with codes gives every block of elements to a warp: a lane has two neighbours of every 64
elements, decodes what it reads, keeps in registers what is encoded, and the warp finds the scale.
"""

from __future__ import annotations

from ..ir.codes import CODES
from ..ir.errors import CannotFuseError
from ..ir.expression import name
from ..ir.graph import Graph, Input
from ..ir.places import Places, label
from ..ir.stages import Stage
from .passes import Accumulator, Arrays, body, partial, uniforms
from .prelude import CHUNK

_LARGEST = 2048  # elements of a block: a lane keeps a 32nd of them

PRELUDE = (
    """\
#define GX_CONSTANT static __device__ __forceinline__
#define __builtin_fabsf fabsf
GX gx_u32 gx_word(float x) { return __float_as_uint(x); }
GX float gx_from_word(gx_u32 x) { return __uint_as_float(x); }
"""
    + CODES
    + """\
template <int BITS> GX int gx_code(const unsigned char* codes, int k) {
  return BITS == 8 ? codes[k] : codes[k / 2] >> (k % 2 ? 0 : 4) & 15;
}
// The scale of a block that a warp holds, the same in all lanes; zeros stand where it has ended.
template <bool SIGNED, int N> GX float gx_block_scale(const float (&x)[N]) {
  int largest = 0;  // numbers without sign compare like their bits, and NaN is the largest
  gx_u32 lowest = 0;  // of what has a sign, only to find NaN
  #pragma unroll
  for (int k = 0; k < N; ++k) {
    const gx_u32 word = SIGNED ? gx_word(x[k]) & 0x7fffffffu : gx_word(x[k]);
    largest = (int)word > largest ? (int)word : largest;
    if (!SIGNED) lowest = word > lowest ? word : lowest;
  }
  #pragma unroll
  for (int far = 16; far > 0; far /= 2) {
    const int other = __shfl_xor_sync(GX_ALL, largest, far);
    const gx_u32 below = __shfl_xor_sync(GX_ALL, lowest, far);
    largest = other > largest ? other : largest;
    lowest = below > lowest ? below : lowest;
  }
  return gx_finish_scale<SIGNED>(largest, lowest);
}
// The codes of the n elements of a block.
template <int BITS, bool SIGNED, int N>
GX void gx_block_codes(const float (&x)[N], float s, unsigned char* codes, int n) {
  #pragma unroll
  for (int j = 0; j < N / 2; ++j) {
    const int k = 64 * j + 2 * gx_lane();
    const int first = k < n ? gx_encode_one<BITS, SIGNED>(x[2 * j], s) : 0;
    const int second = k + 1 < n ? gx_encode_one<BITS, SIGNED>(x[2 * j + 1], s) : 0;
    if (BITS == 4) {
      if (k < n) codes[k / 2] = (unsigned char)(first << 4 | second);
    } else {
      if (k < n) codes[k] = (unsigned char)first;
      if (k + 1 < n) codes[k + 1] = (unsigned char)second;
    }
  }
}
// The random number of 16 bits of one element: Philox-4x32-10 gives eight a block.
GX int gx_draw_at(gx_int seed, gx_int counter, gx_int at) {
  const gx_u64 block = (gx_u64)at / 8;
  gx_u32 c0 = (gx_u32)block, c1 = (gx_u32)(block >> 32);
  gx_u32 c2 = (gx_u32)counter, c3 = (gx_u32)((gx_u64)counter >> 32);
  gx_u32 k0 = (gx_u32)seed, k1 = (gx_u32)((gx_u64)seed >> 32);
  #pragma unroll
  for (int round = 0; round < 10; ++round) {
    const gx_u64 x = (gx_u64)c0 * 0xd2511f53u, y = (gx_u64)c2 * 0xcd9e8d57u;
    c0 = (gx_u32)(y >> 32) ^ c1 ^ k0;
    c2 = (gx_u32)(x >> 32) ^ c3 ^ k1;
    c1 = (gx_u32)y;
    c3 = (gx_u32)x;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  const int half = (int)(at % 8), word = half / 2;
  const gx_u32 drawn = word == 0 ? c0 : word == 1 ? c1 : word == 2 ? c2 : c3;
  return (int)(drawn >> 16 * (half % 2) & 0xffffu);
}
GX gx_int gx_draw_one(gx_int seed, gx_int counter, gx_int at) {
  return gx_draw_at(seed, counter, at);
}
"""
)


def block_size(graph: Graph) -> int | None:
    """Elements of a block, None if the graph has no codes.

    Raises:
        CannotFuseError: blocks of several sizes, or of a size that warps cannot share evenly.
    """
    coded = [n for n in graph.nodes if n.op in ("block_decode", "block_codes", "block_scale")]
    sizes = {n.value[1] for n in coded}
    if not sizes:
        return None
    size = max(sizes)
    if len(sizes) > 1 or size % 64 or CHUNK % size or size > _LARGEST or graph.view is not None:
        where = " on matrices" if graph.view is not None else ""
        raise CannotFuseError(
            coded[0].member, f"blocks of {sorted(sizes)}{where} have no form on CUDA devices"
        )
    return size


class BlockPass:
    """Writes the pass of one stage over flat leaves, block by block."""

    def __init__(self, places: Places, stage: Stage, size: int) -> None:
        self.places = places
        self.stage = stage
        self.size = size
        self.nodes = nodes = places.graph.nodes
        self.decoded = [i for i in stage.elements if nodes[i].op == "block_decode"]
        self.encoded = stage.encoded(places.graph)

    def write(self) -> list[str]:
        """The statements."""
        parts = [Accumulator(self.places, i) for i in self.stage.reductions]
        arrays = Arrays(self.places.graph, self.stage)
        return [
            "const gx_int leaf = A->task_leaf[blockIdx.x];",
            "const gx_int begin = (blockIdx.x - A->first_task[leaf]) * GX_CHUNK;",
            "const int n = (int)gx_least(A->numel[leaf] - begin, GX_CHUNK);",
            *arrays.pointers(self.places, "begin"),
            *uniforms(self.places, self.stage),
            *(f"{part.kind} a{part.node} = {part.start};" for part in parts),
            f"for (int first = gx_warp() * {self.size}; first < n;",
            f"     first += gx_warps() * {self.size}) {{",
            f"  const int m = (int)gx_least(n - first, {self.size});",
            *(f"  {line}" for line in self._block(parts)),
            "}",
            *(x for part in parts for x in partial(self.places, part, f"(double)a{part.node}")),
        ]

    def _block(self, parts: list[Accumulator]) -> list[str]:
        element = [f"const float {name(i)} = {self._decode(i)};" for i in self.decoded]
        element += body(self.places, self.stage, _element, _element, "begin + k")
        element += [part.step(f"a{part.node}") for part in parts]
        element += [f"{_kept(key)}[2 * j + h] = {name(key[0])};" for key in self.encoded]
        return [
            *(f"const float scale{i} = {self._scale(i)};" for i in self.decoded),
            *(f"float {_kept(key)}[{self.size // 32}] = {{}};" for key in self.encoded),
            "#pragma unroll",
            f"for (int j = 0; j < {self.size // 64}; ++j) {{",
            "  #pragma unroll",
            "  for (int h = 0; h < 2; ++h) {",
            "    const int in = 64 * j + 2 * gx_lane() + h, k = first + in;",
            "    if (in < m) {",
            *(f"      {line}" for line in element),
            "    }",
            "  }",
            "}",
            *(line for key, targets in self.encoded.items() for line in self._encode(key, targets)),
        ]

    def _scale(self, i: int) -> str:
        scales = f"p_{label(self.nodes[self.nodes[i].args[1]].value)}"
        return f"{scales}[first / {self.size}]"

    def _decode(self, i: int) -> str:
        bits, _, signed = self.nodes[i].value
        codes = f"p_{label(self.nodes[self.nodes[i].args[0]].value)}"
        levels = f"gx_levels<{bits}, {str(signed).lower()}>"
        return f"{levels}::value(gx_code<{bits}>({codes}, k)) * scale{i}"

    def _encode(
        self, key: tuple[int, tuple[int, int, bool]], targets: dict[str, Input]
    ) -> list[str]:
        bits, _, signed = key[1]
        kind, kept = str(signed).lower(), _kept(key)
        lines = [f"const float {kept}_scale = gx_block_scale<{kind}>({kept});"]
        if "block_scale" in targets:
            to = f"p_{label(targets['block_scale'])}[first / {self.size}]"
            lines.append(f"if (gx_lane() == 0) {to} = {kept}_scale;")
        if "block_codes" in targets:
            to = f"p_{label(targets['block_codes'])} + first / {8 // bits}"
            lines.append(f"gx_block_codes<{bits}, {kind}>({kept}, {kept}_scale, {to}, m);")
        return lines


def _element(where: Input) -> str:
    return f"p_{label(where)}[k]"


def _kept(key: tuple[int, tuple[int, int, bool]]) -> str:
    bits, _, signed = key[1]
    return f"full{key[0]}_{bits}_{int(signed)}"
