"""Graphs as CUDA C++: a few kernels per graph, each for all leaves at once.

A stage is a kernel for every group of its scalars or vectors, and a kernel for elements, with a
block per task, a task being a chunk of one leaf, or a tile where leaves are seen as matrices.
Partial results of reductions are kept per task and joined in a fixed order: no result depends on
which block comes first. Scalar and vector state is written by kernels of their own, after
everything that reads it.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import NamedTuple

from ..ir.errors import CannotFuseError
from ..ir.expression import expression
from ..ir.graph import BLOCKS, REDUCTIONS, SIZES, TREE_REDUCTIONS, VECTORS, Graph
from ..ir.places import Places
from ..ir.stages import Stage, StagePlan
from .blocks import PRELUDE as BLOCKS_PRELUDE
from .blocks import BlockPass, block_size
from .matrix import MatrixPass
from .passes import flat_pass
from .prelude import PRELUDE, STORAGE
from .values import Scalars, commit_scalars, commit_vectors, vectors


class Launch(NamedTuple):
    """A kernel, and what its blocks are for.

    Attributes:
        kernel: its name.
        over: "leaf threads" (a thread for every leaf), "leaves", "tasks", "chunks" (of vectors), or
            "once" for a single block.
    """

    kernel: str
    over: str


class CudaSource:
    """The source of one schedule, and which kernels it has.

    Attributes:
        text: the translation unit.
        stages: the launches of every stage.
        commits_leaf, commits_shared: launches that write the state of every leaf, and of all.

    Raises:
        CannotFuseError: the graph has something that has no form here.
    """

    def __init__(self, plan: StagePlan) -> None:
        _check(plan.graph)
        self.plan = plan
        self.graph = plan.graph
        self.places = Places(plan)
        self._block = block_size(plan.graph)
        self._parts = [PRELUDE]
        if any(node.op in BLOCKS for node in plan.graph.nodes):
            self._parts.append(BLOCKS_PRELUDE)
        self.stages = [self._stage(s, stage) for s, stage in enumerate(plan.stages)]
        nodes = plan.graph.nodes
        own = [(t, i) for t, i in plan.commits if t.kind != "shared"]
        scalars = commit_scalars(self.places, [(t, i) for t, i in own if not nodes[i].many])
        many = commit_vectors(self.places, [(t, i) for t, i in own if nodes[i].many])
        shared = commit_scalars(self.places, [o for o in plan.commits if o[0].kind == "shared"])
        self.commits_leaf = [
            *self._kernel("commit_leaf", "leaf threads", scalars),
            *self._kernel("commit_vectors", "chunks", many),
        ]
        first = ["const gx_int leaf = 0;", "if (threadIdx.x) return;"]
        lines = [*first, *shared] if shared else []
        self.commits_shared = self._kernel("commit_shared", "once", lines)
        self.text = "\n".join(self._parts)

    def _stage(self, s: int, stage: Stage) -> list[Launch]:
        launches: list[Launch] = []
        for is_scalar, groups in groupby(stage.values, lambda group: group.form == "scalar"):
            nodes = [i for group in groups for i in group.nodes]
            at = f"{s}_{len(launches)}" if launches else str(s)
            if is_scalar:
                scalars = Scalars(self.places, nodes)
                over = "leaves" if scalars.joins else "leaf threads"
                launches += self._kernel(f"scalars_{at}", over, scalars.lines)
            else:
                launches += self._kernel(f"vectors_{at}", "chunks", vectors(self.places, nodes))
        if stage.reductions or stage.writes:
            if self._block is not None:
                lines = BlockPass(self.places, stage, self._block).write()
            elif self.graph.view is None:
                lines = flat_pass(self.places, stage)
            else:
                lines = MatrixPass(self.places, stage).write()
            launches += self._kernel(f"pass_{s}", "tasks", lines)
        return launches + self._kernel(f"tree_{s}", "once", self._trees(stage))

    def _trees(self, stage: Stage) -> list[str]:
        """What the leaves of this table contribute, by one block."""
        lines = []
        for i in stage.tree:
            node, row = self.graph.nodes[i], self.places.tree[i]
            join = "gx_plus" if node.op == "tree_sum" else "gx_larger"
            lines += [
                f"double r{i} = {join}::none();",
                "for (gx_int leaf = threadIdx.x; leaf < A->leaves; leaf += blockDim.x)",
                f"  r{i} = {join}::join(r{i}, (double){self.places.stored(node.args[0])});",
                f"r{i} = gx_reduce<{join}>(r{i});",
                "if (threadIdx.x == 0)",
                f"  A->tree[A->tree_row[{row}] * A->tables + A->table] = r{i};",
            ]
        return lines

    def _kernel(self, label: str, over: str, lines: list[str]) -> list[Launch]:
        """Add a kernel, unless it would do nothing."""
        if not lines:
            return []
        head = f"GX_KERNEL {label}(const __grid_constant__ gx_args args) {{"
        body = ["const gx_args* const A = &args;", *_OWN_LEAF.get(over, []), *lines]
        self._parts.append("\n".join([head, *(f"  {line}" for line in body), "}"]))
        return [Launch(label, over)]


_OWN_LEAF = {
    "leaves": ["const gx_int leaf = blockIdx.x;"],
    "leaf threads": [
        "const gx_int leaf = (gx_int)blockIdx.x * blockDim.x + threadIdx.x;",
        "if (leaf >= A->leaves) return;",
    ],
}
_FORMS = ("scalar", "element", "bits", *VECTORS)
_KINDS = ("grad", "update", "factor", "squares", "param", "state", "shared", "hyper")
_SPECIAL = {
    *("input", "const", "pack_signs", "unpack_signs", "slice"),
    *(*BLOCKS, *SIZES, *REDUCTIONS, *TREE_REDUCTIONS),
}
_DEFINED = set(re.findall(r"\bgx_(\w+)\(|GX_(?:UN|BIN)ARY\((\w+)\)", PRELUDE))
_FUNCTIONS = {word for pair in _DEFINED for word in pair}


def _check(graph: Graph) -> None:
    """Refuse what the statements and the prelude here do not know."""
    blocks = any(node.op in ("block_codes", "block_decode") for node in graph.nodes)
    for i, node in enumerate(graph.nodes):
        coded = node.block is not None and node.op in ("input", "block_codes", "block_scale")
        known = node.form in _FORMS or coded or node.step is not None
        known = known and node.dtype in STORAGE and not (node.step and blocks)
        if node.op == "input":
            known = known and node.value.kind in _KINDS
        elif node.op not in _SPECIAL:
            known = known and _is_expression(graph, i)
        if not known:
            raise CannotFuseError(
                node.member, f"{node.op} ({node.form}) has no form on CUDA devices"
            )


def _is_expression(graph: Graph, i: int) -> bool:
    """Whether the C expression of a node calls only what the prelude defines."""
    try:
        text = expression(graph, i)
    except KeyError:
        return False
    return set(re.findall(r"\bgx_(\w+)\(", text)) <= _FUNCTIONS
