"""CUDA C++ for passes over elements: what flat leaves and matrices share, and flat leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.expression import c_type, expression, name, number_of, operand
from ..ir.graph import FLOATS, Graph, Input
from ..ir.places import Places, label
from ..ir.stages import Stage
from .prelude import STORAGE

_WIDEST = 8  # elements that a thread handles at a time, at most


class Accumulator:
    """The statements of one reduction over elements.

    Attributes:
        node: the reduction.
        kind: the type in which a thread accumulates.
        op: what joins two values.
        start: the value of nothing.
    """

    def __init__(self, places: Places, node: int) -> None:
        graph = places.graph
        source = graph.nodes[node].args[0]
        self.node = node
        self.kind = c_type(graph.nodes[source].dtype, True)
        self.op = places.join(node)
        self.start = f"({self.kind}){self.op}::none()"
        self._value = operand(graph, source, self.kind, True)

    def step(self, to: str) -> str:
        """Take in one element."""
        return f"{to} = {self.op}::join({to}, {self._value});"


class Arrays:
    """The arrays of elements that a pass reads or writes.

    Attributes:
        read, written: their dtypes.
    """

    def __init__(self, graph: Graph, stage: Stage) -> None:
        nodes = graph.nodes
        loads = [i for i in stage.elements if nodes[i].op == "input"]
        self.read = {nodes[i].value: nodes[i].dtype for i in loads}
        self.written = {target: nodes[i].dtype for target, i in stage.writes}
        self.all = self.read | self.written
        self._node = {nodes[i].value: nodes[i] for i in loads}
        self._node |= {target: nodes[i] for target, i in stage.writes}

    def pointers(self, places: Places, begin: str = "") -> list[str]:
        """Variables for where they begin, or where element number ``begin`` is."""
        lines = []
        for where, dtype in self.all.items():
            node = self._node[where]
            offset = f" + {begin}{f' / {node.block}' if node.block else ''}"
            offset = offset if begin and node.step is None else ""
            kind = f"{'' if where in self.written else 'const '}{STORAGE[dtype][0]}*"
            pointer = f"p_{label(where)}"
            lines += [
                f"{kind} __restrict__ {pointer} = ({kind}){places.address(where)}{offset};",
                f"__builtin_assume(__isGlobal({pointer}));",
            ]
        return lines


def uniforms(places: Places, stage: Stage) -> list[str]:
    """Scalars that elements use, in the types in which they use them."""
    nodes, lines = places.graph.nodes, []
    used = (a for i in stage.elements for a in nodes[i].args if not nodes[a].many)
    for a in dict.fromkeys(used):
        if nodes[a].op != "const":
            lines += [places.declare(a), places.narrow(a)]
    return [line for line in lines if line]


def body(
    places: Places,
    stage: Stage,
    source: Callable[[Input], str],
    target: Callable[[Input], str],
    at: str,
) -> list[str]:
    """The statements for one element, packed bits and codes apart.

    Args:
        places: of the graph.
        stage: the stage.
        source: the stored value of an array's element.
        target: where it is written.
        at: number of the element in its leaf.
    """
    nodes, lines = places.graph.nodes, []
    for i in stage.elements:
        node = nodes[i]
        if node.form == "bits" or node.block is not None or node.op == "block_decode":
            continue
        if node.op == "input":
            value = f"gx_load({source(node.value)})"
        elif node.op == "slice":
            value = name(node.args[0])
        elif node.op == "unpack_signs":
            value = f"flag{node.args[0]}"
        elif node.op == "random16":
            key = ", ".join(operand(places.graph, a, "gx_int", False) for a in node.args[:2])
            value = f"gx_draw_at({key}, {number_of(places.graph, node, at)})"
        else:
            value = expression(places.graph, i)
        lines.append(f"const {c_type(node.dtype, True)} {name(i)} = {value};")
    for where, i in stage.writes:
        dtype = nodes[i].dtype
        if nodes[i].form != "element" and nodes[i].step is None:
            continue
        if dtype in FLOATS:
            lines.append(f"gx_store(&{target(where)}, {name(i)});")
        else:
            lines.append(f"{target(where)} = ({STORAGE[dtype][0]}){name(i)};")
    return lines


def slices(
    places: Places, stage: Stage, begin: str, end: str, thread: tuple[str, str], origin: str = ""
) -> list[str]:
    """Loops over the slices of a contiguous part of a leaf, before anything of it is written.

    Args:
        places: of the graph.
        stage: the stage.
        begin: the first element of the part.
        end: the element after it.
        thread: the number of this thread, and of how many.
        origin: the element where pointers to elements point, "" for the first.
    """
    nodes, lines = places.graph.nodes, []
    at = f"at - {origin}" if origin else "at"
    for step, part in stage.slices(places.graph).items():
        sliced = {nodes[i].value for i in part.elements if nodes[i].step}
        sliced.update(where for where, _ in part.writes)

        def place(where: Input, sliced: set[Any] = sliced) -> str:
            return f"p_{label(where)}[{'k' if where in sliced else at}]"

        element = body(places, part, place, place, "at")
        element += [Accumulator(places, i).step(f"a{i}") for i in part.reductions]
        lines += [
            f"for (gx_int k = gx_pieces({begin}, {step}) + {thread[0]}; ; k += {thread[1]}) {{",
            f"  const gx_int at = {step} * k;",
            f"  if (at >= {end}) break;",
            *(f"  {line}" for line in element),
            "}",
        ]
    return lines


def partial(places: Places, part: Accumulator, value: str) -> list[str]:
    """Leave behind what a block has found for its leaf."""
    return [
        f"const double joined{part.node} = gx_reduce<{part.op}>({value});",
        "if (threadIdx.x == 0)",
        f"  A->partial[{places.partial[part.node]} * A->tasks + blockIdx.x] = joined{part.node};",
    ]


def flat_pass(places: Places, stage: Stage) -> list[str]:
    """A task of flat leaves: vectors of elements where all addresses allow, then single ones."""
    whole = stage.whole(places.graph)
    arrays = Arrays(places.graph, whole)
    parts = [Accumulator(places, i) for i in stage.reductions]
    takes = [f"const {STORAGE[dtype][0]} i_{label(w)}" for w, dtype in arrays.read.items()]
    takes += [f"{STORAGE[dtype][0]}& o_{label(w)}" for w, dtype in arrays.written.items()]
    element = body(places, whole, lambda w: f"i_{label(w)}", lambda w: f"o_{label(w)}", "begin + k")
    element += [part.step(f"a{part.node}") for part in parts if part.node in whole.reductions]
    thread = ("threadIdx.x", "blockDim.x")
    sliced = slices(places, stage, "begin", "begin + n", thread, "begin")
    return [
        "const gx_int leaf = A->task_leaf[blockIdx.x];",
        "const gx_int begin = (blockIdx.x - A->first_task[leaf]) * GX_CHUNK;",
        "const int n = (int)gx_least(A->numel[leaf] - begin, GX_CHUNK);",
        *Arrays(places.graph, stage).pointers(places, "begin"),
        *uniforms(places, stage),
        *(f"{part.kind} a{part.node} = {part.start};" for part in parts),
        *sliced,
        *["__syncthreads();"] * bool(sliced),
        *(_loops(arrays, takes, element) if element else []),
        *(line for part in parts for line in partial(places, part, f"(double)a{part.node}")),
    ]


def _loops(arrays: Arrays, takes: list[str], element: list[str]) -> list[str]:
    read, written = arrays.read, arrays.written
    sizes = [STORAGE[dtype][1] for dtype in arrays.all.values()]
    width = min(_WIDEST, 16 // min(sizes)) if sizes else 1
    lines = [
        f"const auto element = [&]({', '.join(['const int k', *takes])}) {{",
        *(f"  {line}" for line in element),
        "};",
        "int done = 0;",
    ]
    if width > 1:
        bits = " | ".join(f"(gx_u64)p_{label(w)}" for w in arrays.all)
        lines += [f"if (({bits}) % 16 == 0) {{", f"  done = n / {width} * {width};"]
        lines.append(f"  for (int k = threadIdx.x; k < n / {width}; k += blockDim.x) {{")
        kinds = {w: f"gx_pack<{STORAGE[d][0]}, {width}>" for w, d in arrays.all.items()}
        for w, kind in kinds.items():
            load = f" = ((const {kind}*)p_{label(w)})[k]" if w in read else ""
            lines.append(f"    {kind} q_{label(w)}{load};")
        given = ", ".join(f"q_{label(w)}.x[j]" for w in (*read, *written))
        lines += [
            "    #pragma unroll",
            f"    for (int j = 0; j < {width}; ++j) element({width} * k + j, {given});",
        ]
        lines += [f"    (({kinds[w]}*)p_{label(w)})[k] = q_{label(w)};" for w in written]
        lines += ["  }", "}"]
    given = ", ".join(["k", *(f"p_{label(w)}[k]" for w in (*read, *written))])
    lines.append(f"for (int k = done + threadIdx.x; k < n; k += blockDim.x) element({given});")
    return lines
