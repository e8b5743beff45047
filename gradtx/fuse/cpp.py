"""Graphs as C++: one shared library per graph, plain C interface, no headers.

Work is a flat list of tasks, a task being a chunk of one leaf. Partial results of reductions are
kept per task and added in task order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from .arithmetic import ARITHMETIC
from .expression import c_type, expression, name, operand
from .graph import Graph, Input
from .schedule import Schedule, Stage

CHUNK = 32768  # elements of a task: large against its overhead, small against a core's share
_BLOCK = 1024  # elements that are summed in float before they are added in double
_NEAR = 1 << 21  # elements of leaves that go through several stages together, while in cache

_STORAGE = {
    **{"float64": "double", "float32": "float", "bfloat16": "gx_u16", "float16": "_Float16"},
    **{"int64": "gx_int", "int32": "int", "int16": "short", "int8": "signed char"},
    **{"uint8": "unsigned char", "bool": "unsigned char"},
}

PRELUDE = (
    """\
typedef __INT64_TYPE__ gx_int;
typedef unsigned short gx_u16;
typedef unsigned int gx_u32;
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
union gx_slot { double d; gx_int i; };
struct gx_args {
  gx_int leaves, tasks, threads;
  const gx_int* numel; const gx_int* first_task;
  const gx_int* task_leaf; const gx_int* task_begin;
  char* const* pointers; char* const* shared;
  const double* hyper; const gx_int* hyper_row; gx_int hypers;
  gx_slot* slots; double* partial; const double* tree_in; double* tree_out;
};
"""
)


class Accumulator:
    """The statements of one reduction inside a loop."""

    def __init__(self, graph: Graph, node: int) -> None:
        source = graph.nodes[node].args[0]
        self.node = node
        self.op = graph.nodes[node].op.removeprefix("leaf_")
        self.kind = c_type(graph.nodes[source].dtype, True)
        self.value = operand(graph, source, self.kind, True)
        self.start = {"sum": "0", "max": "-__builtin_inf()", "min": "__builtin_inf()"}[self.op]

    def declare(self) -> list[str]:
        """Variables of a block."""
        out = [f"{self.kind} a{self.node} = ({self.kind}){self.start};"]
        return out if self.op == "sum" else [*out, f"int nan{self.node} = 0;"]

    def clauses(self) -> str:
        """The reduction clauses of the loop."""
        if self.op == "sum":
            return f"reduction(+:a{self.node})"
        return f"reduction({self.op}:a{self.node}) reduction(|:nan{self.node})"

    def step(self) -> list[str]:
        """Take in one value."""
        a, x = f"a{self.node}", f"r.x{self.node}"
        if self.op == "sum":
            return [f"{a} += {x};"]
        sign = ">" if self.op == "max" else "<"
        return [f"{a} = {x} {sign} {a} ? {x} : {a};", f"nan{self.node} |= {x} != {x};"]

    def finish(self) -> list[str]:
        """Bring a block into the total; NaN wins, as in torch."""
        total, a = f"total{self.node}", f"(double)a{self.node}"
        if self.op == "sum":
            return [f"{total} += {a};"]
        value = f'nan{self.node} ? __builtin_nan("") : {a}'
        return [f"{total} = gx_{self.op}({total}, {value});"]


class Emitter:
    """Writes the source of one schedule."""

    def __init__(self, plan: Schedule) -> None:
        self.plan = plan
        self.graph: Graph = plan.graph
        self.slot = {node: k for k, node in enumerate(plan.slots)}
        self.column = {where: k for k, where in enumerate(columns(plan.graph))}
        self.tree = {node: k for k, (_, node) in enumerate(plan.tree_keys())}
        reductions = [n for stage in plan.stages for n in stage.reductions]
        self.partial = {node: k for k, node in enumerate(reductions)}

    def source(self) -> str:
        """The whole translation unit."""
        parts = [PRELUDE]
        for s, stage in enumerate(self.plan.stages):
            parts.append(self._scalars(s, stage))
            if stage.elements or stage.writes:
                parts.append(self._pass(s, stage))
        parts.append(self._commit())
        parts.append(self._entry())
        return "\n".join(parts)

    # -- scalars -----------------------------------------------------------------------------

    def _slot(self, i: int, leaf: str = "leaf") -> str:
        union = "i" if c_type(self.graph.nodes[i].dtype, False) == "gx_int" else "d"
        return f"A->slots[{leaf} * {len(self.slot)} + {self.slot[i]}].{union}"

    def _declare(self, i: int) -> str:
        """A scalar of an earlier stage, or one without memory, as a local variable."""
        node = self.graph.nodes[i]
        kind = c_type(node.dtype, False)
        source = "A->numel[leaf]" if node.op == "numel" else self._slot(i)
        return f"const {kind} {name(i)} = {source};"

    def _scalars(self, s: int, stage: Stage) -> str:
        graph, here = self.graph, set(stage.scalars)
        lines, known = [], set()
        for i in stage.scalars:
            node = graph.nodes[i]
            if node.op in ("const", "numel"):
                continue
            for a in node.args:
                n = graph.nodes[a]
                if n.op != "const" and not n.element and a not in known:
                    if a not in here or n.op == "numel":
                        lines.append(self._declare(a))
                    known.add(a)
            known.add(i)
            kind = c_type(node.dtype, False)
            lines.extend(self._compute(i, kind))
            if i in self.slot:
                lines.append(f"{self._slot(i)} = {name(i)};")
        return _function(f"static void scalars_{s}(const gx_args* A, gx_int leaf)", lines)

    def _compute(self, i: int, kind: str) -> list[str]:
        node = self.graph.nodes[i]
        if node.op == "input":
            return [f"const {kind} {name(i)} = {self._scalar_input(node.value, node.dtype)};"]
        if node.op in self._tree_ops:
            source = f"A->tree_in[{self.tree[i]}]"
            return [f"const {kind} {name(i)} = ({kind}){source};"]
        if i in self.partial:
            return self._combine(i, kind)
        return [f"const {kind} {name(i)} = {expression(self.graph, i)};"]

    _tree_ops = ("tree_sum", "tree_max")

    def _scalar_input(self, where: Input, dtype: str) -> str:
        if where.kind == "hyper":
            return f"A->hyper[A->hyper_row[leaf] * A->hypers + {where.index}]"
        if where.kind == "shared":
            base = f"A->shared[{where.index}]"
        else:
            base = f"A->pointers[{self.column[where]} * A->leaves + leaf]"
        value = f"*(const {_STORAGE[dtype]}*){base}"
        return f"gx_load({value})" if dtype in ("bfloat16", "float16") else value

    def _combine(self, i: int, kind: str) -> list[str]:
        """Add up the partial results of a leaf's tasks, in order."""
        start, step = {
            "leaf_sum": ("0", "r + x"),
            "leaf_max": ("-__builtin_inf()", "gx_max(r, x)"),
            "leaf_min": ("__builtin_inf()", "gx_min(r, x)"),
        }[self.graph.nodes[i].op]
        return [
            f"double r{i} = {start};",
            "for (gx_int t = A->first_task[leaf]; t < A->first_task[leaf + 1]; ++t) {",
            f"  const double r = r{i}, x = A->partial[{self.partial[i]} * A->tasks + t];",
            f"  r{i} = {step};",
            "}",
            f"const {kind} {name(i)} = ({kind})r{i};",
        ]

    # -- elements ----------------------------------------------------------------------------

    def _pass(self, s: int, stage: Stage) -> str:
        graph = self.graph
        lines = [
            "const gx_int leaf = A->task_leaf[task], begin = A->task_begin[task];",
            f"const gx_int rest = A->numel[leaf] - begin, n = rest < {CHUNK} ? rest : {CHUNK};",
        ]
        lines.extend(self._pointers(stage))
        lines.extend(self._uniforms(stage))
        body = []
        for i in stage.elements:
            node = graph.nodes[i]
            kind = c_type(node.dtype, True)
            if node.op == "input":
                value = f"{_pointer(node.value)}[k]"
                if node.dtype in ("bfloat16", "float16", "float32", "float64"):
                    value = f"gx_load({value})"
                body.append(f"const {kind} {name(i)} = {value};")
            else:
                body.append(f"const {kind} {name(i)} = {expression(graph, i)};")
        for target, i in stage.writes:
            node = graph.nodes[i]
            pointer = f"{_pointer(target)} + k"
            if node.dtype in ("bfloat16", "float16", "float32", "float64"):
                body.append(f"gx_store({pointer}, {name(i)});")
            else:
                body.append(f"*({pointer}) = ({_STORAGE[node.dtype]}){name(i)};")
        if stage.reductions:
            lines.extend(self._reducing_loop(stage, body))
        else:
            lines += ["#pragma omp simd", "for (gx_int k = 0; k < n; ++k) {"]
            lines += [f"  {line}" for line in body] + ["}"]
        return _function(f"static void pass_{s}(const gx_args* A, gx_int task)", lines)

    def _pointers(self, stage: Stage) -> list[str]:
        written = {target for target, _ in stage.writes}
        read = {
            self.graph.nodes[i].value: self.graph.nodes[i].dtype
            for i in stage.elements
            if self.graph.nodes[i].op == "input"
        }
        dtypes = read | {target: self.graph.nodes[i].dtype for target, i in stage.writes}
        lines = []
        for where, dtype in dtypes.items():
            constant = "" if where in written else "const "
            kind = f"{constant}{_STORAGE[dtype]}*"
            base = f"A->pointers[{self.column[where]} * A->leaves + leaf]"
            lines.append(f"{kind} {_pointer(where)} = ({kind}){base} + begin;")
        return lines

    def _uniforms(self, stage: Stage) -> list[str]:
        """Scalars that the loop uses, in the types in which it uses them."""
        used: dict[int, None] = {}
        for i in stage.elements:
            for a in self.graph.nodes[i].args:
                node = self.graph.nodes[a]
                if not node.element and node.op != "const":
                    used[a] = None
        lines = []
        for a in used:
            lines.append(self._declare(a))
            if c_type(self.graph.nodes[a].dtype, False) == "double":
                lines.append(f"const float {name(a)}f = (float){name(a)};")
        return lines

    def _reducing_loop(self, stage: Stage, body: list[str]) -> list[str]:
        """Blocks are combined in the element's type, then in double."""
        lines: list[str] = []
        members: list[str] = []
        values: list[str] = []
        parts = [Accumulator(self.graph, i) for i in stage.reductions]
        for part in parts:
            members.append(f"{part.kind} x{part.node};")
            values.append(part.value)
            lines.append(f"double total{part.node} = {part.start};")
        lines.append(f"struct Values {{ {' '.join(members)} }};")
        lines.append("const auto at = [&](gx_int k) __attribute__((always_inline)) {")
        lines += [f"  {line}" for line in body]
        lines += [f"  return Values{{{', '.join(values)}}};", "};"]
        lines.append(f"for (gx_int block = 0; block < n; block += {_BLOCK}) {{")
        # A block of known size is several times faster to loop over than the rest of a chunk.
        for head, size in ((f"if (block + {_BLOCK} <= n)", str(_BLOCK)), ("else", "n - block")):
            lines.append(f"  {head} {{")
            lines += [f"    {x}" for part in parts for x in part.declare()]
            lines.append(f"    #pragma omp simd {' '.join(part.clauses() for part in parts)}")
            lines.append(f"    for (gx_int k = 0; k < {size}; ++k) {{")
            lines.append("      const Values r = at(block + k);")
            lines += [f"      {x}" for part in parts for x in part.step()]
            lines.append("    }")
            lines += [f"    {x}" for part in parts for x in part.finish()]
            lines.append("  }")
        lines.append("}")
        for i in stage.reductions:
            lines.append(f"A->partial[{self.partial[i]} * A->tasks + task] = total{i};")
        return lines

    # -- commits and entry points --------------------------------------------------------------

    def _commit(self) -> str:
        """Write scalar outputs: a leaf's own, or what all share."""
        own: list[str] = []
        shared: list[str] = []
        for target, i in self.plan.commits:
            node = self.graph.nodes[i]
            value = str(node.value) if node.op == "const" else self._slot(i)
            if node.op == "const":
                value = operand(self.graph, i, c_type(node.dtype, False), False)
            dtype = self.target_dtype(i)
            is_shared = target.kind == "shared"
            base = (
                f"A->shared[{target.index}]"
                if is_shared
                else f"A->pointers[{self.column[target]} * A->leaves + leaf]"
            )
            if dtype in ("bfloat16", "float16"):
                line = f"gx_store(({_STORAGE[dtype]}*){base}, (float){value});"
            else:
                line = f"*({_STORAGE[dtype]}*){base} = ({_STORAGE[dtype]}){value};"
            (shared if is_shared else own).append(line)
        return "\n".join(
            _function(f"static void {label}(const gx_args* A, gx_int leaf)", lines)
            for label, lines in (("commit_leaf", own), ("commit_shared", shared))
        )

    def target_dtype(self, i: int) -> str:
        """Outputs have the dtype of what they replace; tracing has checked that."""
        return self.graph.nodes[i].dtype

    def _entry(self) -> str:
        """``gx_run`` does stages ``first`` to ``last``, a few leaves at a time."""
        bodies, cases, tree = [], [], []
        for s, stage in enumerate(self.plan.stages):
            lines = [
                "#pragma omp for schedule(static)",
                f"for (gx_int l = start; l < stop; ++l) scalars_{s}(A, l);",
            ]
            if stage.elements or stage.writes:
                lines += [
                    "#pragma omp for schedule(dynamic)",
                    "for (gx_int t = A->first_task[start]; t < A->first_task[stop]; ++t)",
                    f"  pass_{s}(A, t);",
                ]
            head = f"static void stage_{s}(const gx_args* A, gx_int start, gx_int stop)"
            bodies.append(_function(head, lines))
            cases.append(f"      case {s}: stage_{s}(A, start, stop); break;")
            for i in stage.tree:
                tree.append(f"if (last == {s}) {{")
                tree += [*self._tree_partial(i), "}"]
        run = [
            "#pragma omp parallel num_threads(A->threads) if (A->threads > 1)",
            "for (gx_int start = 0, stop; start < A->leaves; start = stop) {",
            "  gx_int size = A->numel[start];",
            "  for (stop = start + 1; stop < A->leaves; ++stop) {",
            "    size += A->numel[stop];",
            f"    if (first < last && size > {_NEAR}) break;",
            "  }",
            "  for (gx_int stage = first; stage <= last; ++stage)",
            "    switch (stage) {",
            *cases,
            "    }",
            "}",
            *tree,
        ]
        commit = [
            "if (shared) { commit_shared(A, 0); return; }",
            "for (gx_int l = 0; l < A->leaves; ++l) commit_leaf(A, l);",
        ]
        head = 'extern "C" void gx_'
        return "\n".join(
            [
                *bodies,
                _function(f"{head}run(const gx_args* A, gx_int first, gx_int last)", run),
                _function(f"{head}commit(const gx_args* A, gx_int shared)", commit),
            ]
        )

    def _tree_partial(self, i: int) -> list[str]:
        source = self.graph.nodes[i].args[0]
        node = self.graph.nodes[source]
        value = (
            operand(self.graph, source, "double", False)
            if node.op == "const"
            else "(double)A->numel[l]"
            if node.op == "numel"
            else f"(double){self._slot(source, 'l')}"
        )
        is_sum = self.graph.nodes[i].op == "tree_sum"
        step = f"r + {value}" if is_sum else f"gx_max(r, {value})"
        return [
            f"  double r = {'0' if is_sum else '-__builtin_inf()'};".replace(
                "  double", "  { double"
            ),
            f"  for (gx_int l = 0; l < A->leaves; ++l) r = {step};",
            f"  A->tree_out[{self.tree[i]}] = r; }}",
        ]


def columns(graph: Graph) -> list[Input]:
    """Per-leaf tensors of a graph, in the order of the pointer table."""
    read = [w for w in graph.inputs() if w.kind not in ("shared", "hyper")]
    written = [w for w, _ in graph.outputs if w.kind != "shared"]
    return sorted(set(read + written), key=lambda w: (w.kind, w.index))


def _pointer(where: Input) -> str:
    return (
        f"p_{where.kind}"
        if where.kind in ("grad", "param", "update")
        else f"p_{where.kind}{where.index}"
    )


def _function(head: str, lines: list[str]) -> str:
    return "\n".join([f"{head} {{", *(f"  {line}" for line in lines), "}"])


def emit(plan: Schedule) -> str:
    """C++ source of a schedule."""
    return Emitter(plan).source()
