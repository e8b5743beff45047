"""A compiled graph, and the tables that tell it which leaves to update."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...core.reduce import Asks, Reduce
from ..ir.cache import library
from ..ir.errors import CannotCompileError, CannotFuseError
from ..ir.expression import c_type
from ..ir.graph import BLOCKS, Graph
from ..ir.pieces import share_out
from ..ir.places import Places
from ..ir.stages import align, plan_stages
from .blocks import strip
from .passes import chunk
from .prelude import TILE, WIDTH
from .source import emit

_POINTER = ctypes.c_void_p
_SMALL = 1 << 16  # elements below which a second thread costs more than it brings
_NEAR = 1 << 14  # elements of a task that goes over its rows more than once: they stay in cache
_SYNC = 65  # words of ``gx_sync``
_TILES = 128  # of a large leaf: enough to share out, few beside their sums of columns


class Args(ctypes.Structure):
    """The argument block of the generated code; ``gx_args`` in ``cpp_prelude.PRELUDE``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("leaves", "tasks", "threads", "pieces")),
        *((name, _POINTER) for name in ("numel", "first_task", "task_leaf", "task_begin")),
        *((name, _POINTER) for name in ("rows", "columns", "tile_rows", "tile_columns")),
        *((name, _POINTER) for name in ("pointers", "shared", "vectors", "hyper", "hyper_row")),
        ("hypers", ctypes.c_int64),
        *((name, _POINTER) for name in ("slots", "partial", "tree_in", "tree_out")),
        *((name, _POINTER) for name in ("piece", "own", "cursor", "left", "ready", "sync")),
        *((name, _POINTER) for name in ("whole_numel", "whole_rows", "joined", "joined_at")),
    )


class Kernel:
    """One graph, scheduled and compiled.

    Args:
        graph: the graph.
        tree_stage: what ``align`` says for all graphs that run together.
        shards: whether it works on some rows of leaves.
        asks: whether processes may turn back at the first tree reduction.

    Raises:
        CannotCompileError: nothing can be compiled here.
    """

    def __init__(
        self,
        graph: Graph,
        tree_stage: Mapping[Any, int],
        shards: bool = False,
        asks: bool = False,
    ) -> None:
        self.graph = graph
        self.shards = shards
        self.stage_plan = plan_stages(graph, tree_stage, shards, asks)
        places = Places(self.stage_plan)
        self.columns = list(places.column)
        self.source = emit(self.stage_plan)
        self.stages = len(self.stage_plan.stages)
        nodes = graph.nodes
        self.tree = [(s, nodes[n].op, nodes[n].value) for s, n in self.stage_plan.tree_keys()]
        # In the order in which they lie: by stage and operation.
        self.joined = sorted(
            (s, nodes[n].op.rpartition("_")[2], k, nodes[n].form)
            for k, (s, n) in enumerate(self.stage_plan.joined())
        )
        self.partials = len(places.partial)
        self.vectors = [
            (nodes[i].form, _SIZE[c_type(nodes[i].dtype, True)], graph.of_elements(i))
            for i in places.vector
        ]
        self.commits_shared = {t.index for t, _ in self.stage_plan.commits if t.kind == "shared"}
        writing = (s for s, stage in enumerate(self.stage_plan.stages) if stage.writes)
        self.writes_from = min(writing, default=self.stages - 1)
        self.chunk = chunk(strip(graph))
        self.by_row = any(self.stage_plan.by_row(s) for s in range(self.stages))
        try:
            code = library(self.source, ("gx_run", "gx_commit"))
        except CannotFuseError as error:
            raise CannotCompileError(error.reason) from None
        self.run = code.gx_run
        self.commit = code.gx_commit
        self.run.argtypes = (ctypes.POINTER(Args), *3 * [ctypes.c_int64])
        self.commit.argtypes = (ctypes.POINTER(Args), ctypes.c_int64)
        self.run.restype = self.commit.restype = None


def can_compile() -> bool:
    """Whether there is a compiler, and what it makes can be loaded."""
    try:
        library('extern "C" void gx_nothing() {}', ("gx_nothing",))
    except CannotFuseError:
        return False
    return True


_LINE = 64  # bytes of a cache line: no two leaves write to the same
_SIZE = {"float": 4, "double": 8, "int": 4, "gx_int": 8}
_kernels: dict[tuple[Graph, Any, bool, bool], Kernel] = {}


def compile_together(
    graphs: Sequence[Graph], shards: bool = False, asks: bool = False
) -> list[Kernel]:
    """Kernels for graphs that run together, sharing the reductions over the tree.

    Args:
        graphs: the graphs.
        shards: whether they work on some rows of leaves.
        asks: whether processes may turn back at the first tree reduction.

    Raises:
        CannotCompileError: nothing can be compiled here.
        CannotFuseError: what a graph does depends on where an element stands.
    """
    for graph in graphs if shards else ():
        for node in graph.nodes:
            numbered = node.op == "round_stochastic" or (node.op == "random16" and node.args[2:])
            if node.each is not None or (node.op in BLOCKS and not numbered):
                raise CannotFuseError(node.member, f"{node.op} depends on where elements are")
    stages = align(graphs, shards)
    out = []
    for graph in graphs:
        key = (graph, tuple(sorted(stages.items())), shards, asks)
        if key not in _kernels:
            _kernels[key] = Kernel(graph, stages, shards, asks)
        out.append(_kernels[key])
    return out


class Table:
    """The launch tables of a kernel for a fixed list of leaves.

    Args:
        kernel: the compiled graph.
        sizes: number of elements of every leaf.
        rows: which row of the hyperparameters every leaf uses.
        hyper: the rows, a matrix of doubles that the caller fills.
        shared: addresses of the shared tensors.
        matrices: rows and columns of every leaf, where the graph sees leaves as matrices.
        wholes: of leaves of which these are some rows, elements and rows.
    """

    def __init__(
        self,
        kernel: Kernel,
        sizes: Sequence[int],
        rows: Sequence[int],
        hyper: np.ndarray,
        shared: Sequence[int],
        matrices: Sequence[tuple[int, int]] = (),
        wholes: Sequence[tuple[int, int]] = (),
    ) -> None:
        n = len(sizes)
        self.kernel = kernel
        self.numel = np.array(sizes, dtype=np.int64)
        self.matrices = np.array(matrices or [(0, 0)] * n, dtype=np.int64).T.copy()
        self.tiles = _tiles(self.matrices[0], self.matrices[1], kernel.by_row)
        if kernel.graph.view is None:
            chunks = -(-self.numel // kernel.chunk)
        else:
            down, across = -(-self.matrices // self.tiles)
            chunks = down * across
        self.first_task = np.concatenate([[0], np.cumsum(chunks)]).astype(np.int64)
        tasks = int(self.first_task[-1])
        self.task_leaf = np.repeat(np.arange(n, dtype=np.int64), chunks)
        within = np.arange(tasks, dtype=np.int64) - self.first_task[self.task_leaf]
        self.task_begin = within * kernel.chunk
        self.pointers = np.zeros((len(kernel.columns), n), dtype=np.int64)
        self.vectors, self.scratch = self._vectors()
        self.shared = np.array([*shared, 0], dtype=np.int64)
        self.rows = np.array(rows, dtype=np.int64)
        self.hyper = hyper
        self.slots = np.zeros((n, max(len(kernel.stage_plan.slots), 1)))
        self.partial = np.zeros((max(kernel.partials, 1), max(tasks, 1)))
        self.tree_in = np.zeros(max(len(kernel.tree), 1))
        self.tree_out = np.zeros_like(self.tree_in)
        self.is_small = int(self.numel.sum()) < _SMALL
        self.left = np.zeros((kernel.stages, n), dtype=np.int32)
        self.ready = np.zeros(n, dtype=np.int32)
        self.sync = np.zeros(_SYNC, dtype=np.int32)
        self.wholes = np.array(wholes or [(0, 0)] * n, dtype=np.int64).T.copy()
        self.joined_at, self.joined, self.spans = self._joined()
        self.args = Args(
            n,
            tasks,
            0,
            0,
            *(x.ctypes.data for x in (self.numel, self.first_task, self.task_leaf)),
            *(x.ctypes.data for x in (self.task_begin, *self.matrices, *self.tiles)),
            *(x.ctypes.data for x in (self.pointers, self.shared, self.vectors)),
            *(x.ctypes.data for x in (self.hyper, self.rows)),
            self.hyper.shape[1],
            *(x.ctypes.data for x in (self.slots, self.partial, self.tree_in, self.tree_out)),
            *3 * [0],
            *(x.ctypes.data for x in (self.left, self.ready, self.sync)),
            *(x.ctypes.data for x in (*self.wholes, self.joined, self.joined_at)),
        )
        self.reference = ctypes.byref(self.args)

    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Addresses of all vectors that are kept, and the memory they lie in."""
        parts = dict(zip(("column", "row"), -(-self.matrices // self.tiles), strict=True))
        length = dict(zip(("row", "column"), self.matrices, strict=True))
        sizes = np.array(
            [
                size * length[form] * (np.maximum(parts[form], 1) if is_sum else 1)
                for form, size, is_sum in self.kernel.vectors
            ],
            dtype=np.int64,
        ).reshape(-1)
        ends = np.cumsum(-(-sizes // _LINE) * _LINE)
        scratch = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        return scratch.ctypes.data + starts, scratch

    def _joined(self) -> tuple[np.ndarray, np.ndarray, dict[tuple[int, str], slice]]:
        """Memory for what processes add up: where it lies, and what is joined at a time."""
        n = len(self.numel)
        at = np.zeros((max(len(self.kernel.joined), 1), n), dtype=np.int64)
        spans: dict[tuple[int, str], slice] = {}
        end = 0
        for stage, op, k, form in self.kernel.joined:
            length = self.matrices[1] if form == "column" else np.ones(n, dtype=np.int64)
            begin = spans.get((stage, op), slice(end, end)).start
            at[k] = end + np.concatenate([[0], np.cumsum(length)[:-1]])
            end += int(length.sum())
            spans[stage, op] = slice(begin, end)
        return at, np.zeros(max(end, 1)), spans

    def _share_out(self, threads: int) -> None:
        """Give every thread its pieces."""
        pieces, own = share_out(self.numel.tolist(), self.first_task.tolist(), threads)
        cursor = np.zeros((self.kernel.stages, len(pieces)), dtype=np.uint64)
        self.pieces = pieces, own, cursor
        self.args.threads, self.args.pieces = threads, len(pieces)
        self.args.piece, self.args.own, self.args.cursor = (x.ctypes.data for x in self.pieces)

    def run(self, first: int, last: int, ends: bool) -> None:
        """Run some stages; where leaves end with them, they write their scalar state."""
        threads = 1 if self.is_small else torch.get_num_threads()
        if threads != self.args.threads:
            self._share_out(threads)
        self.kernel.run(self.reference, first, last, ends)

    def commit_leaves(self) -> None:
        """Write the scalar state of every leaf."""
        self.kernel.commit(self.reference, 0)

    def commit_shared(self) -> None:
        """Write the state that all leaves share."""
        self.kernel.commit(self.reference, 1)


def _tiles(rows: np.ndarray, columns: np.ndarray, by_row: bool) -> np.ndarray:
    """Rows and columns of a task for every leaf."""
    wide = np.clip(columns, 1, WIDTH)
    size = np.full_like(rows, _NEAR) if by_row else np.maximum(TILE, rows * columns // _TILES)
    return np.stack([np.maximum(size // wide, 1), wide])


def run_tables(tables: Sequence[Table], reduce: Reduce | None = None) -> None:
    """Run the tables of one part together: stage by stage, joined by tree reductions.

    What all leaves share is written at the end, by one kind of leaf, for each kind computes the
    same.

    Args:
        tables: the tables.
        reduce: joins them with those of other processes, which have other leaves, or other rows
            of these.
    """
    parts = any(table.kernel.shards for table in tables)  # then leaves are the same everywhere
    joints = sorted(
        {
            *(at for table in tables for at, _, _ in table.kernel.tree),
            *(at for table in tables for at, *_ in table.kernel.joined),
        }
    )
    first_write = min(table.kernel.writes_from for table in tables)
    if isinstance(reduce, Asks) and first_write <= min(joints, default=first_write):
        reduce.before_writing()
    first = 0
    for last in (*joints, max(table.kernel.stages for table in tables) - 1):
        for table in tables:
            end = table.kernel.stages - 1
            if first <= end:
                table.run(first, min(last, end), ends=last >= end)
        if reduce is not None and parts:
            _join(tables, last, reduce)
        _combine(tables, last, None if parts else reduce)
        first = last + 1
    writers = [t for t in tables if t.kernel.commits_shared]
    if writers:
        max(writers, key=lambda t: len(t.kernel.commits_shared)).commit_shared()


def _join(tables: Sequence[Table], stage: int, reduce: Reduce) -> None:
    """Give every table what processes have of its leaves together, all in one message each."""
    for op in ("sum", "max", "min"):
        own = [t.joined[t.spans[stage, op]] for t in tables if (stage, op) in t.spans]
        if not own:
            continue
        sign = -1 if op == "min" else 1
        x = torch.from_numpy(sign * np.concatenate(own))
        total = (reduce.sum if op == "sum" else reduce.max)(x).numpy() * sign
        ends = np.cumsum([len(part) for part in own])
        for part, found in zip(own, np.split(total, ends[:-1]), strict=True):
            part[:] = found


def _combine(tables: Sequence[Table], stage: int, reduce: Reduce | None) -> None:
    """Give every table the totals over all of them."""
    totals: dict[Any, float] = {}
    ops: dict[Any, str] = {}
    for table in tables:
        for k, (at, op, key) in enumerate(table.kernel.tree):
            if at == stage:
                value = float(table.tree_out[k])
                old = totals.get(key)
                ops[key] = op
                totals[key] = (
                    value
                    if old is None
                    else old + value
                    if op == "tree_sum"
                    else float(np.maximum(old, value))
                )
    if reduce is not None:
        for op, over in (("tree_sum", reduce.sum), ("tree_max", reduce.max)):
            keys = [key for key in totals if ops[key] == op]
            if keys:  # all in one message
                own = torch.tensor([totals[key] for key in keys], dtype=torch.float64, device="cpu")
                totals.update(zip(keys, over(own).tolist(), strict=True))
    if totals:
        for table in tables:
            for k, (at, _, key) in enumerate(table.kernel.tree):
                if at == stage:
                    table.tree_in[k] = totals[key]
