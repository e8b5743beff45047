"""C++ for passes over elements: what passes over flat leaves and over matrices have in common."""

from __future__ import annotations

from ..ir.expression import c_type, expression, name, operand
from ..ir.graph import FLOATS, Graph
from ..ir.places import Places, label
from ..ir.stages import Stage
from .blocks import Arrays, strip
from .prelude import CHUNK, STORAGE


class Accumulator:
    """The statements of one reduction inside a loop, to a total per task or per row.

    Args:
        graph: the graph.
        node: the reduction.
        total: the double that takes in the values of a loop.
        row: ending of the variables' names, where a loop handles several rows.
    """

    def __init__(self, graph: Graph, node: int, total: str, row: str = "") -> None:
        source = graph.nodes[node].args[0]
        self.node = node
        self.mark = f"{node}{row}"
        self.total = total
        self.op = graph.nodes[node].op.rpartition("_")[2]
        self.kind = c_type(graph.nodes[source].dtype, True)
        self.value = operand(graph, source, self.kind, True)
        self.start = {"sum": "0", "max": "-__builtin_inf()", "min": "__builtin_inf()"}[self.op]

    def declare(self) -> list[str]:
        """Variables of a loop."""
        out = [f"{self.kind} a{self.mark} = ({self.kind}){self.start};"]
        return out if self.op == "sum" else [*out, f"int nan{self.mark} = 0;"]

    def clauses(self) -> str:
        """The reduction clauses of the loop."""
        if self.op == "sum":
            return f"reduction(+:a{self.mark})"
        return f"reduction({self.op}:a{self.mark}) reduction(|:nan{self.mark})"

    def step(self) -> list[str]:
        """Take in one value."""
        a, x = f"a{self.mark}", self.value
        if self.op == "sum":
            return [f"{a} += {x};"]
        sign = ">" if self.op == "max" else "<"
        return [f"{a} = {x} {sign} {a} ? {x} : {a};", f"nan{self.mark} |= {x} != {x};"]

    def finish(self) -> list[str]:
        """Bring a loop into the total; NaN wins, as in torch."""
        a = f"(double)a{self.mark}"
        if self.op == "sum":
            return [f"{self.total} += {a};"]
        value = f'nan{self.mark} ? __builtin_nan("") : {a}'
        return [f"{self.total} = gx_{self.op}({self.total}, {value});"]


def pointers(places: Places, stage: Stage) -> list[str]:
    """Variables for the arrays of elements that a pass reads or writes."""
    nodes = places.graph.nodes
    written = {target: nodes[i].dtype for target, i in stage.writes}
    read = {nodes[i].value: nodes[i].dtype for i in stage.elements if nodes[i].op == "input"}
    lines = []
    for where, dtype in (read | written).items():
        kind = f"{'' if where in written else 'const '}{STORAGE[dtype]}*"
        lines.append(f"{kind} const p_{label(where)} = ({kind}){places.address(where)};")
    return lines


def uniforms(places: Places, stage: Stage) -> list[str]:
    """Scalars that the loop uses, in the types in which it uses them."""
    nodes = places.graph.nodes
    used = (a for i in stage.elements for a in nodes[i].args if not nodes[a].many)
    lines = []
    for a in dict.fromkeys(used):
        if nodes[a].op != "const":
            lines += [places.declare(a), places.narrow(a)]
    return [line for line in lines if line]


def body(places: Places, stage: Stage, at: str, arrays: Arrays, row: str = "") -> list[str]:
    """The statements for one element.

    Args:
        places: of the graph.
        stage: the stage.
        at: position of the element in its leaf; its number in the loop, or in a slice, is ``k``.
        arrays: what is read from and written to the stack.
        row: ending of the names of flags, where a loop handles several rows.
    """
    nodes, lines = places.graph.nodes, []
    for i in stage.elements:
        node = nodes[i]
        if node.form == "bits":
            if node.op == "pack_signs":
                kind = c_type(nodes[node.args[0]].dtype, True)
                value = operand(places.graph, node.args[0], kind, True)
                lines.append(f"flags{i}{row}[k] = -({value} > 0);")
            continue
        if node.block is not None:
            continue
        value = (
            f"flags{node.args[0]}{row}[k] != 0" if node.op == "unpack_signs" else arrays.value(i)
        )
        if node.op == "input":
            value = f"gx_load(p_{label(node.value)}[{at if node.step is None else 'k'}])"
        elif node.op == "slice":
            value = name(node.args[0])
        value = value or expression(places.graph, i)
        lines.append(f"const {c_type(node.dtype, True)} {name(i)} = {value};")
    for target, i in stage.writes:
        place = at if nodes[i].step is None else "k"
        pointer, dtype = f"p_{label(target)} + {place}", nodes[i].dtype
        if nodes[i].form != "element" and nodes[i].step is None:
            continue
        if dtype in FLOATS:
            lines.append(f"gx_store({pointer}, {name(i)});")
        else:
            lines.append(f"*({pointer}) = ({STORAGE[dtype]}){name(i)};")
    return lines + arrays.store()


def slices(places: Places, stage: Stage, begin: str, end: str) -> list[str]:
    """Loops over the slices of a contiguous part of a leaf, before anything of it is written."""
    lines = []
    for step, part in stage.slices(places.graph).items():
        sums = [Accumulator(places.graph, i, f"total{i}") for i in part.reductions]
        element = body(places, part, "at", Arrays(places, part, 0))
        lines += [
            f"{{ const gx_int stop = gx_pieces({end}, {step});",
            *(f"  {x}" for one in sums for x in one.declare()),
            f"  #pragma omp simd {' '.join(one.clauses() for one in sums)}".rstrip(),
            f"  for (gx_int k = gx_pieces({begin}, {step}); k < stop; ++k) {{",
            f"    const gx_int at = {step} * k;",
            *(f"    {x}" for x in (*element, *(x for one in sums for x in one.step()))),
            "  }",
            *(f"  {x}" for one in sums for x in one.finish()),
            "}",
        ]
    return lines


def chunk(strip: int) -> int:
    """Elements of a task on a flat leaf: whole strips."""
    return strip * max(1, CHUNK // strip)


def flat_pass(places: Places, stage: Stage) -> list[str]:
    """A task of flat leaves; sums are taken in the element's type, then in double."""
    whole = stage.whole(places.graph)
    parts = [Accumulator(places.graph, i, f"total{i}") for i in stage.reductions]
    size = strip(places.graph)
    arrays = Arrays(places, whole, size)
    lines = [
        "const gx_int leaf = A->task_leaf[task], begin = A->task_begin[task];",
        f"const gx_int n = gx_least(A->numel[leaf] - begin, {chunk(size)});",
        *pointers(places, stage),
        *uniforms(places, stage),
    ]
    lines += [f"double {part.total} = {part.start};" for part in parts]
    lines += slices(places, stage, "begin", "begin + n")
    if not whole.reductions and not arrays:
        lines += ["#pragma omp simd", "for (gx_int k = 0; k < n; ++k) {"]
        lines += [*(f"  {line}" for line in body(places, whole, "begin + k", arrays)), "}"]
        return lines + _partials(places, stage)
    parts = [part for part in parts if part.node in whole.reductions]
    loop = [
        *arrays.before("begin + block + run"),
        *(x for part in parts for x in part.declare()),
        f"#pragma omp simd {' '.join(part.clauses() for part in parts)}",
        "for (gx_int k = 0; k < size; ++k) {",
        *(f"  {line}" for line in body(places, whole, "begin + block + run + k", arrays)),
        *(f"  {x}" for part in parts for x in part.step()),
        "}",
        *(x for part in parts for x in part.finish()),
    ]
    lines += [
        "const auto strip = [&](gx_int block, const auto all) __attribute__((always_inline)) {",
        *(f"  {x}" for x in arrays.declare()),
        *(f"  {x}" for x in arrays.runs(loop, arrays.scales("begin + block + first"))),
        *(f"  {x}" for x in arrays.after("begin + block")),
        "};",
        "gx_int block = 0;",
        # A strip of known size is several times faster to loop over than the rest of a chunk.
        f"for (; block + {size} <= n; block += {size}) strip(block, gx_size<{size}>());",
        "if (block < n) strip(block, n - block);",
    ]
    return lines + _partials(places, stage)


def _partials(places: Places, stage: Stage) -> list[str]:
    """Leave the sums of a task behind."""
    return [
        f"A->partial[{places.partial[i]} * A->tasks + task] = total{i};" for i in stage.reductions
    ]
