"""Graphs as C++: one shared library per graph, plain C interface, no headers.

Work is a flat list of tasks, a task being a chunk of one leaf, or a tile where leaves are seen as
matrices. Partial results of reductions are kept per task and combined in task order, so results do
not depend on the number of threads.
"""

from __future__ import annotations

from ..ir import codes as cpp_codes
from ..ir.graph import BLOCKS
from ..ir.places import Places
from ..ir.stages import Stage, StagePlan
from . import blocks as cpp_blocks
from . import vectors
from .matrix import MatrixPass
from .passes import flat_pass
from .prelude import PRELUDE, of_shards
from .tasks import TASKS
from .values import Values, commit, leave


class Emitter:
    """Writes the source of one schedule."""

    def __init__(self, plan: StagePlan) -> None:
        self.plan = plan
        self.graph = plan.graph
        self.places = Places(plan)

    def source(self) -> str:
        """The whole translation unit."""
        parts = [of_shards(PRELUDE) if self.plan.shards else PRELUDE, vectors.PRELUDE]
        if any(n.op in BLOCKS for n in self.graph.nodes):
            parts += [cpp_codes.PRELUDE, cpp_blocks.PRELUDE]
        for s, stage in enumerate(self.plan.stages):
            head, some = "(const gx_args* A, gx_int", self.plan.by_row(s)
            values = Values(self.places, stage, some).write()
            rows = ", gx_int from, gx_int to" if some else ""
            parts.append(_function(f"static void values_{s}{head} leaf{rows})", values))
            if stage.elements or stage.writes:
                parts.append(_function(f"static void pass_{s}{head} task)", self._pass(stage)))
        parts += [self._commit(), self._stages(), TASKS, self._entry()]
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
            for label, lines in (("gx_commit_leaf", own), ("gx_commit_all", shared))
        )

    def _stages(self) -> str:
        """What ``cpp_tasks`` asks for, by number of a stage."""
        values, tasks, passes, skips = [], [], [], []
        for s, stage in enumerate(self.plan.stages):
            some = self.plan.by_row(s)
            values.append(f"case {s}: values_{s}(A, l{', 0, A->rows[l]' if some else ''}); break;")
            if some:
                skips.append(f"case {s}: return gx_whole(A, l);")
            if stage.elements or stage.writes:
                passes.append(f"case {s}: return true;")
                tasks += [f"case {s}: {{", *(f"  {line}" for line in self._task(s)), "} break;"]
        return "\n".join(
            _function(head, ["switch (s) {", *(f"  {x}" for x in cases), "}", *end])
            for head, cases, end in (
                ("static void gx_values(const gx_args* A, gx_int s, gx_int l)", values, []),
                ("static void gx_task(const gx_args* A, gx_int s, gx_int t)", tasks, []),
                ("static bool gx_has_pass(gx_int s)", passes, ["return false;"]),
                (
                    "static bool gx_skips(const gx_args* A, gx_int s, gx_int l)",
                    skips,
                    ["return false;"],
                ),
            )
        )

    def _entry(self) -> str:
        """``gx_run`` does stages ``first`` to ``last``; leaves may end with it."""
        run = ["gx_share_out(A, {first, last, ends != 0});"]
        for s, stage in enumerate(self.plan.stages):
            if stage.joined:
                lines = [line for i in stage.joined for line in leave(self.places, i)]
                run += [f"if (last == {s}) for (gx_int leaf = 0; leaf < A->leaves; ++leaf) {{"]
                run += [*(f"  {line}" for line in lines), "}"]
            for i in stage.tree:
                run += [f"if (last == {s}) {{", *self._tree_partial(i), "}"]
        commits = [
            "if (shared) gx_commit_all(A, 0);",
            "else for (gx_int l = 0; l < A->leaves; ++l) gx_commit_leaf(A, l);",
        ]
        arguments = "const gx_args* A, gx_int first, gx_int last, gx_int ends"
        return "\n".join(
            [
                _function(f'extern "C" void gx_run({arguments})', run),
                _function('extern "C" void gx_commit(const gx_args* A, gx_int shared)', commits),
            ]
        )

    def _task(self, s: int) -> list[str]:
        """A task of a stage, and of the stages after it that the same rows suffice for."""
        lines = [f"pass_{s}(A, t);"]
        if self.plan.by_row(s) or not self.plan.by_row(s + 1):
            return lines
        lines += [
            "const gx_int l = A->task_leaf[t];",
            "if (!gx_whole(A, l)) break;",
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


def emit(plan: StagePlan) -> str:
    """C++ source of a schedule."""
    return Emitter(plan).source()
