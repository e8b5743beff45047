"""Graphs as C++: one shared library per graph, plain C interface, no headers.

Work is a flat list of tasks, a task being a chunk of one leaf, or a tile where leaves are seen as
matrices. Partial results of reductions are kept per task and combined in task order, so results do
not depend on the number of threads.
"""

from __future__ import annotations

from . import cpp_blocks, cpp_codes
from .cpp_matrix import MatrixPass
from .cpp_pass import flat_pass
from .cpp_prelude import PRELUDE
from .cpp_values import Values, commit
from .graph import BLOCKS
from .places import Places
from .schedule import Schedule, Stage

_NEAR = 1 << 21  # elements of leaves that go through several passes together, while in cache


class Emitter:
    """Writes the source of one schedule."""

    def __init__(self, plan: Schedule) -> None:
        self.plan = plan
        self.graph = plan.graph
        self.places = Places(plan)

    def source(self) -> str:
        """The whole translation unit."""
        parts = [PRELUDE]
        if any(n.op in BLOCKS for n in self.graph.nodes):
            parts += [cpp_codes.PRELUDE, cpp_blocks.PRELUDE]
        for s, stage in enumerate(self.plan.stages):
            head, some = "(const gx_args* A, gx_int", self.plan.by_row(s)
            values = Values(self.places, stage, some).write()
            rows = ", gx_int from, gx_int to" if some else ""
            parts.append(_function(f"static void values_{s}{head} leaf{rows})", values))
            if stage.elements or stage.writes:
                parts.append(_function(f"static void pass_{s}{head} task)", self._pass(stage)))
        parts.append(self._commit())
        parts.append(self._entry())
        return "\n".join(parts)

    def _pass(self, stage: Stage) -> list[str]:
        if self.graph.view is None:
            return flat_pass(self.places, stage)
        return MatrixPass(self.places, stage).write()

    def _commit(self) -> str:
        """Write what is no elements: a leaf's own, or what all share."""
        own: list[str] = []
        shared: list[str] = []
        for target, i in self.plan.commits:
            lines = shared if target.kind == "shared" else own
            lines += commit(self.places, target, i)
        return "\n".join(
            _function(f"static void {label}(const gx_args* A, gx_int leaf)", lines)
            for label, lines in (("commit_leaf", own), ("commit_shared", shared))
        )

    def _entry(self) -> str:
        """``gx_run`` does stages ``first`` to ``last``, a few leaves at a time."""
        bodies, cases, tree = [], [], []
        for s, stage in enumerate(self.plan.stages):
            some = self.plan.by_row(s)
            rest, rows = ("if (!gx_whole(A, l)) ", ", 0, A->rows[l]") if some else ("", "")
            lines = [
                f"#pragma omp for schedule({'static' if self.graph.view is None else 'dynamic'})",
                f"for (gx_int l = start; l < stop; ++l) {rest}values_{s}(A, l{rows});",
            ]
            if stage.elements or stage.writes:
                lines += [
                    "#pragma omp for schedule(dynamic)",
                    "for (gx_int t = A->first_task[start]; t < A->first_task[stop]; ++t) {",
                    *(f"  {line}" for line in self._task(s)),
                    "}",
                ]
            head = f"static void stage_{s}(const gx_args* A, gx_int start, gx_int stop)"
            bodies.append(_function(head, lines))
            cases.append(f"      case {s}: stage_{s}(A, start, stop); break;")
            for i in stage.tree:
                tree.append(f"if (last == {s}) {{")
                tree += [*self._tree_partial(i), "}"]
        near = "first < last" if self.plan.passes() > 1 else "false"
        run = [
            "#pragma omp parallel num_threads(A->threads) if (A->threads > 1)",
            "for (gx_int start = 0, stop; start < A->leaves; start = stop) {",
            "  gx_int size = A->numel[start];",
            "  for (stop = start + 1; stop < A->leaves; ++stop) {",
            "    size += A->numel[stop];",
            f"    if ({near} && size > {_NEAR}) break;",
            "  }",
            "  for (gx_int stage = first; stage <= last; ++stage)",
            "    switch (stage) {",
            *cases,
            "    }",
            "}",
            *tree,
        ]
        write = [
            "if (shared) { commit_shared(A, 0); return; }",
            "#pragma omp parallel for schedule(dynamic) num_threads(A->threads) if (A->threads > 1)"
            if self.graph.view is not None
            else "",
            "for (gx_int l = 0; l < A->leaves; ++l) commit_leaf(A, l);",
        ]
        head = 'extern "C" void gx_'
        return "\n".join(
            [
                *bodies,
                _function(f"{head}run(const gx_args* A, gx_int first, gx_int last)", run),
                _function(f"{head}commit(const gx_args* A, gx_int shared)", write),
            ]
        )

    def _task(self, s: int) -> list[str]:
        """A task of a stage, and of the stages after it that the same rows suffice for."""
        lines = ["const gx_int l = A->task_leaf[t];"]
        if self.plan.by_row(s):
            return [*lines, f"if (!gx_whole(A, l)) pass_{s}(A, t);"]
        lines.append(f"pass_{s}(A, t);")
        if not self.plan.by_row(s + 1):
            return [f"pass_{s}(A, t);"]
        lines += [
            "if (!gx_whole(A, l)) continue;",
            "const gx_int from = (t - A->first_task[l]) * A->tile_rows[l];",
            "const gx_int to = gx_least(from + A->tile_rows[l], A->rows[l]);",
        ]
        while self.plan.by_row(s + 1):
            s += 1
            lines += [f"values_{s}(A, l, from, to);", f"pass_{s}(A, t);"]
        return lines

    def _tree_partial(self, i: int) -> list[str]:
        value = f"(double){self.places.stored(self.graph.nodes[i].args[0], 'l')}"
        is_sum = self.graph.nodes[i].op == "tree_sum"
        step = f"r + {value}" if is_sum else f"gx_max(r, {value})"
        return [
            f"  double r = {'0' if is_sum else '-__builtin_inf()'};",
            f"  for (gx_int l = 0; l < A->leaves; ++l) r = {step};",
            f"  A->tree_out[{self.places.tree[i]}] = r;",
        ]


def _function(head: str, lines: list[str]) -> str:
    return "\n".join([f"{head} {{", *(f"  {line}" for line in lines), "}"])


def emit(plan: Schedule) -> str:
    """C++ source of a schedule."""
    return Emitter(plan).source()
