"""Graphs as CUDA C++: a few kernels per graph, each for all leaves at once.

A stage is a kernel for scalars, with a thread or a block per leaf, and a kernel for elements, with
a block per task, a task being a chunk of one leaf. Partial results of reductions are kept per task
and joined in a fixed order: no result depends on which block comes first. Scalar state is written
by kernels of their own, after everything that reads it.
"""

from __future__ import annotations

from .cpp import columns
from .cuda_prelude import PRELUDE
from .expression import c_type, expression, literal, name, operand
from .graph import REDUCTIONS, TREE_REDUCTIONS, Input
from .schedule import Schedule, Stage

_STORAGE = {
    **{"float64": ("double", 8), "float32": ("float", 4)},
    **{"bfloat16": ("gx_bfloat16", 2), "float16": ("gx_float16", 2)},
    **{"int64": ("gx_int", 8), "int32": ("int", 4), "int16": ("short", 2)},
    **{"int8": ("signed char", 1), "uint8": ("unsigned char", 1), "bool": ("unsigned char", 1)},
}
_FLOATS = ("float64", "float32", "bfloat16", "float16")
_JOIN = {"sum": "gx_plus", "max": "gx_larger", "min": "gx_smaller"}
_WIDEST = 8  # elements that a thread handles at a time, at most


class CudaSource:
    """The source of one schedule, and which kernels it has.

    Attributes:
        text: the translation unit.
        scalars: per stage "" without a kernel, "thread" or "block" for what handles a leaf.
        passes: per stage whether there is a kernel over elements.
        trees: per stage whether something is combined over leaves.
        commits_leaf, commits_shared: whether scalar state is written.
    """

    def __init__(self, plan: Schedule) -> None:
        self.plan = plan
        self.graph = plan.graph
        self.slot = {node: k for k, node in enumerate(plan.slots)}
        self.column = {where: k for k, where in enumerate(columns(plan.graph))}
        self.tree = {node: k for k, (_, node) in enumerate(plan.tree_keys())}
        reductions = [n for stage in plan.stages for n in stage.reductions]
        self.partial = {node: k for k, node in enumerate(reductions)}
        self.scalars: list[str] = []
        self.passes = [bool(stage.reductions or stage.writes) for stage in plan.stages]
        self.trees = [bool(stage.tree) for stage in plan.stages]
        parts = [PRELUDE]
        for s, stage in enumerate(plan.stages):
            parts.append(self._scalars(s, stage))
            if self.passes[s]:
                parts.append(self._pass(s, stage))
            if self.trees[s]:
                parts.append(self._trees(s, stage))
        own = [self._write(t, i) for t, i in plan.commits if t.kind != "shared"]
        shared = [self._write(t, i) for t, i in plan.commits if t.kind == "shared"]
        self.commits_leaf, self.commits_shared = bool(own), bool(shared)
        if own:
            parts.append(_kernel("commit_leaf", [*_A_THREAD_PER_LEAF, *own]))
        if shared:
            head = ["const gx_int leaf = 0;", "if (threadIdx.x) return;"]
            parts.append(_kernel("commit_shared", [*head, *shared]))
        self.text = "\n".join(part for part in parts if part)

    # -- scalars -----------------------------------------------------------------------------

    def _slot(self, i: int) -> str:
        union = "i" if c_type(self.graph.nodes[i].dtype, False) == "gx_int" else "d"
        return f"A->slots[leaf * {len(self.slot)} + {self.slot[i]}].{union}"

    def _stored(self, i: int) -> str:
        """A scalar that is known from an earlier kernel."""
        node = self.graph.nodes[i]
        if node.op == "const":
            return literal(node, c_type(node.dtype, False))
        return "A->numel[leaf]" if node.op == "numel" else self._slot(i)

    def _declare(self, i: int) -> str:
        kind = c_type(self.graph.nodes[i].dtype, False)
        return f"const {kind} {name(i)} = {self._stored(i)};"

    def _scalars(self, s: int, stage: Stage) -> str:
        nodes, lines = self.graph.nodes, []
        known: set[int] = set()
        computed = [i for i in stage.scalars if nodes[i].op not in ("const", "numel")]
        for i in computed:
            if nodes[i].op not in REDUCTIONS + TREE_REDUCTIONS:
                outer = [a for a in nodes[i].args if a not in known and nodes[a].op != "const"]
                lines += [self._declare(a) for a in dict.fromkeys(outer)]
                known.update(outer)
            known.add(i)
            kind = c_type(nodes[i].dtype, False)
            lines.append(f"const {kind} {name(i)} = {self._value(i, kind)};")
            if i in self.slot:
                lines.append(f"{self._slot(i)} = {name(i)};")
        joins = any(nodes[i].op in REDUCTIONS for i in computed)
        self.scalars.append(("block" if joins else "thread") if computed else "")
        head = ["const gx_int leaf = blockIdx.x;"] if joins else _A_THREAD_PER_LEAF
        return _kernel(f"scalars_{s}", [*head, *lines]) if computed else ""

    def _value(self, i: int, kind: str) -> str:
        node = self.graph.nodes[i]
        if node.op in TREE_REDUCTIONS:
            join = _JOIN[node.op.removeprefix("tree_")]
            return f"({kind})gx_total<{join}>(A, {self.tree[i]})"
        if node.op in REDUCTIONS:
            join = _JOIN[node.op.removeprefix("leaf_")]
            base = f"A->partial + {self.partial[i]} * A->tasks"
            span = "A->first_task[leaf], A->first_task[leaf + 1]"
            return f"({kind})gx_gather<{join}>({base}, {span})"
        if node.op != "input":
            return expression(self.graph, i)
        if node.value.kind == "hyper":
            at = f"A->hyper_row[leaf] * A->hypers + {node.value.index}"
            return f"gx_value(A->hyper[{at}])"
        value = f"*(const {_STORAGE[node.dtype][0]}*){self._address(node.value)}"
        return f"gx_load({value})" if node.dtype in _FLOATS else value

    def _address(self, where: Input) -> str:
        if where.kind == "shared":
            return f"A->shared[{where.index}]"
        return f"A->pointers[{self.column[where]} * A->leaves + leaf]"

    def _write(self, target: Input, i: int) -> str:
        dtype = self.graph.nodes[i].dtype
        kind, _ = _STORAGE[dtype]
        pointer = f"({kind}*){self._address(target)}"
        if dtype in _FLOATS:
            wide = "double" if dtype == "float64" else "float"
            return f"gx_store({pointer}, ({wide}){self._stored(i)});"
        return f"*{pointer} = ({kind}){self._stored(i)};"

    def _trees(self, s: int, stage: Stage) -> str:
        """What the leaves of this table contribute, by one block."""
        lines = []
        for i in stage.tree:
            node = self.graph.nodes[i]
            join = _JOIN[node.op.removeprefix("tree_")]
            lines += [
                f"double r{i} = {join}::none();",
                "for (gx_int leaf = threadIdx.x; leaf < A->leaves; leaf += blockDim.x)",
                f"  r{i} = {join}::join(r{i}, (double){self._stored(node.args[0])});",
                f"r{i} = gx_reduce<{join}>(r{i});",
                "if (threadIdx.x == 0)",
                f"  A->tree[A->tree_row[{self.tree[i]}] * A->tables + A->table] = r{i};",
            ]
        return _kernel(f"tree_{s}", lines)

    # -- elements ----------------------------------------------------------------------------

    def _pass(self, s: int, stage: Stage) -> str:
        nodes = self.graph.nodes
        loads = [i for i in stage.elements if nodes[i].op == "input"]
        read = {nodes[i].value: nodes[i].dtype for i in loads}
        written = {target: nodes[i].dtype for target, i in stage.writes}
        dtypes = read | written
        sizes = [_STORAGE[dtype][1] for dtype in dtypes.values()]
        width = min(_WIDEST, 16 // min(sizes)) if sizes else 1
        lines = [
            "const gx_int leaf = A->task_leaf[blockIdx.x];",
            "const gx_int begin = (blockIdx.x - A->first_task[leaf]) * GX_CHUNK;",
            "const gx_int rest = A->numel[leaf] - begin;",
            "const int n = rest < GX_CHUNK ? (int)rest : GX_CHUNK;",
        ]
        for where, dtype in dtypes.items():
            kind = f"{'' if where in written else 'const '}{_STORAGE[dtype][0]}*"
            pointer = f"p_{_label(where)}"
            lines += [
                f"{kind} __restrict__ {pointer} = ({kind}){self._address(where)} + begin;",
                f"__builtin_assume(__isGlobal({pointer}));",
            ]
        lines += self._uniforms(stage)
        for i in stage.reductions:
            kind, join = self._accumulator(i)
            lines.append(f"{kind} a{i} = ({kind}){join}::none();")
        takes = [f"const {_STORAGE[dtype][0]} i_{_label(w)}" for w, dtype in read.items()]
        takes += [f"{_STORAGE[dtype][0]}& o_{_label(w)}" for w, dtype in written.items()]
        lines.append(f"const auto element = [&]({', '.join(takes)}) {{")
        lines += [f"  {line}" for line in self._body(stage)] + ["};"]
        lines += _loops(read, written, dtypes, width)
        for i in stage.reductions:
            _, join = self._accumulator(i)
            lines += [
                f"const double r{i} = gx_reduce<{join}>((double)a{i});",
                "if (threadIdx.x == 0)",
                f"  A->partial[{self.partial[i]} * A->tasks + blockIdx.x] = r{i};",
            ]
        return _kernel(f"pass_{s}", lines)

    def _accumulator(self, i: int) -> tuple[str, str]:
        node = self.graph.nodes[i]
        kind = c_type(self.graph.nodes[node.args[0]].dtype, self.graph.nodes[node.args[0]].element)
        return kind, _JOIN[node.op.removeprefix("leaf_")]

    def _uniforms(self, stage: Stage) -> list[str]:
        """Scalars that elements use, in the types in which they use them."""
        nodes = self.graph.nodes
        takers = [*stage.elements, *stage.reductions]
        used = [a for i in takers for a in nodes[i].args if not nodes[a].element]
        lines = []
        for a in dict.fromkeys(used):
            if nodes[a].op == "const":
                continue
            lines.append(self._declare(a))
            if c_type(nodes[a].dtype, False) == "double":
                lines.append(f"const float {name(a)}f = (float){name(a)};")
        return lines

    def _body(self, stage: Stage) -> list[str]:
        nodes, lines = self.graph.nodes, []
        for i in stage.elements:
            kind = c_type(nodes[i].dtype, True)
            if nodes[i].op == "input":
                value = f"i_{_label(nodes[i].value)}"
                value = f"gx_load({value})" if nodes[i].dtype in _FLOATS else value
            else:
                value = expression(self.graph, i)
            lines.append(f"const {kind} {name(i)} = {value};")
        for i in stage.reductions:
            kind, _ = self._accumulator(i)
            value = operand(self.graph, nodes[i].args[0], kind, True)
            op = nodes[i].op.removeprefix("leaf_")
            lines.append(f"a{i} += {value};" if op == "sum" else f"a{i} = gx_{op}(a{i}, {value});")
        for target, i in stage.writes:
            out = f"o_{_label(target)}"
            if nodes[i].dtype in _FLOATS:
                lines.append(f"gx_store(&{out}, {name(i)});")
            else:
                lines.append(f"{out} = ({_STORAGE[nodes[i].dtype][0]}){name(i)};")
        return lines


_A_THREAD_PER_LEAF = [
    "const gx_int leaf = (gx_int)blockIdx.x * blockDim.x + threadIdx.x;",
    "if (leaf >= A->leaves) return;",
]


def _loops(
    read: dict[Input, str], written: dict[Input, str], dtypes: dict[Input, str], width: int
) -> list[str]:
    """Vectors of ``width`` elements where all addresses allow, then single elements."""
    lines = ["int done = 0;"]
    if width > 1:
        bits = " | ".join(f"(gx_u64)p_{_label(w)}" for w in dtypes)
        lines += [f"if (({bits}) % 16 == 0) {{", f"  done = n / {width} * {width};"]
        lines.append(f"  for (int k = threadIdx.x; k < n / {width}; k += blockDim.x) {{")
        kinds = {w: f"gx_pack<{_STORAGE[dtype][0]}, {width}>" for w, dtype in dtypes.items()}
        for w, kind in kinds.items():
            load = f" = ((const {kind}*)p_{_label(w)})[k]" if w in read else ""
            lines.append(f"    {kind} q_{_label(w)}{load};")
        given = ", ".join(f"q_{_label(w)}.x[j]" for w in (*read, *written))
        lines += ["    #pragma unroll", f"    for (int j = 0; j < {width}; ++j) element({given});"]
        lines += [f"    (({kinds[w]}*)p_{_label(w)})[k] = q_{_label(w)};" for w in written]
        lines += ["  }", "}"]
    given = ", ".join(f"p_{_label(w)}[k]" for w in (*read, *written))
    lines.append(f"for (int k = done + threadIdx.x; k < n; k += blockDim.x) element({given});")
    return lines


def _label(where: Input) -> str:
    single = where.kind in ("grad", "param", "update")
    return where.kind if single else f"{where.kind}{where.index}"


def _kernel(label: str, lines: list[str]) -> str:
    head = f"GX_KERNEL {label}(const __grid_constant__ gx_args args) {{"
    body = ["const gx_args* const A = &args;", *lines]
    return "\n".join([head, *(f"  {line}" for line in body), "}"])
