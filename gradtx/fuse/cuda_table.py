"""Kernels on a CUDA device, and the tables on the device that tell them which leaves to update.

Tables are written by kernels that carry the words in their argument block. So no step waits for
the device, none needs pinned memory, and a CUDA graph contains everything that it needs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cpp import columns
from .cuda_launch import Module, load
from .cuda_prelude import CHUNK, PUT_WORDS, THREADS
from .cuda_source import CudaSource
from .errors import CannotFuseError
from .graph import Graph
from .schedule import align, schedule

_SMALL_BLOCK = 128  # threads of a block with a thread per leaf
_KINDS = {
    **{torch.float64: 1, torch.float32: 2, torch.bfloat16: 3, torch.float16: 4},
    **{torch.int64: 5, torch.int32: 6},
}
_TABLES = ("hyper", "hyper_row", "numel", "first_task", "tree_row", "shared", "pointers")
_BUFFERS = ("task_leaf", "slots", "partial", "tree")


class Args(ctypes.Structure):
    """``gx_args`` of the prelude."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("leaves", "tasks", "hypers", "tables", "table")),
        *((name, ctypes.c_void_p) for name in (*_TABLES, *_BUFFERS)),
    )


class Words(ctypes.Structure):
    """``gx_words`` of the prelude."""

    _fields_ = (
        ("to", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("word", ctypes.c_int64 * PUT_WORDS),
    )


class CudaKernel:
    """One graph, scheduled and compiled for a device."""

    def __init__(
        self,
        graph: Graph,
        tree_stage: Mapping[Any, int],
        device: torch.device,
        loader: Callable[[str, torch.device], Module],
    ) -> None:
        self.graph = graph
        self.device = device
        self.schedule = schedule(graph, tree_stage)
        self.columns = columns(graph)
        self.source = CudaSource(self.schedule)
        self.stages = len(self.schedule.stages)
        nodes = graph.nodes
        self.tree = [(s, nodes[n].op, nodes[n].value) for s, n in self.schedule.tree_keys()]
        self.partials = sum(len(stage.reductions) for stage in self.schedule.stages)
        self.commits_shared = {t.index for t, _ in self.schedule.commits if t.kind == "shared"}
        self.module = loader(self.source.text, device)


class CudaTable:
    """The launch tables of a kernel for a fixed list of leaves.

    Args:
        kernel: the compiled graph.
        sizes: number of elements of every leaf.
        rows: which row of the hyperparameters every leaf uses.
        hyper: the rows, made by ``CudaBackEnd.numbers``, which the caller fills.
        shared: addresses of the shared tensors.

    Attributes:
        pointers: addresses by column and leaf, which the caller fills.
        numel: the sizes.
    """

    def __init__(
        self,
        kernel: CudaKernel,
        sizes: Sequence[int],
        rows: Sequence[int],
        hyper: np.ndarray,
        shared: Sequence[int],
    ) -> None:
        n = len(sizes)
        self.kernel = kernel
        self.numel = np.array(sizes, dtype=np.int64)
        first_task = np.concatenate([[0], np.cumsum((self.numel + CHUNK - 1) // CHUNK)])
        self.tasks = int(first_task[-1])
        self._hyper = hyper
        lengths = (2 * hyper.size, n, n, n + 1, len(kernel.tree), len(shared))
        ends = np.cumsum((*lengths, len(kernel.columns) * n))
        self._starts = dict(zip(_TABLES, (0, *ends[:-1].tolist()), strict=True))
        self._words = np.zeros(int(ends[-1]), dtype=np.int64)
        self._view("hyper_row")[:n] = rows
        self._view("numel")[:n] = self.numel
        self._view("first_task")[: n + 1] = first_task
        self._view("shared")[: len(shared)] = shared
        self.pointers = self._view("pointers").reshape(len(kernel.columns), n)
        self._sent: np.ndarray | None = None
        self._buffers: list[Tensor] = []
        self._stream = 0
        self.args = Args(n, self.tasks, hyper.shape[1])

    def _view(self, table: str) -> np.ndarray:
        return self._words[self._starts[table] :]

    # -- before a run --------------------------------------------------------------------------

    def prepare(self, totals: Tensor, rows: Sequence[int], tables: int, table: int) -> None:
        """Bring the device's tables up to date.

        Args:
            totals: one row per reduction over the tree, one column per table.
            rows: the row of each of this kernel's reductions over the tree.
            tables: how many tables run together.
            table: the place of this one.
        """
        self._view("tree_row")[: len(rows)] = rows
        self._view("hyper")[: 2 * self._hyper.size] = self._hyper.view(np.int64).ravel()
        # Another stream gets other buffers, and so does a graph under capture: it may outlive this
        # table, and other steps must not change what it reads.
        stream, captures = _stream(self.kernel.device)
        fresh = captures or self._sent is None or stream != self._stream
        if fresh:
            self._buffers = self._allocate()
            self._stream = stream
        words, *buffers = self._buffers
        for name, start in self._starts.items():
            setattr(self.args, name, words.data_ptr() + 8 * start)
        for name, buffer in zip(_BUFFERS, (*buffers, totals), strict=True):
            setattr(self.args, name, buffer.data_ptr())
        self.args.tables, self.args.table = tables, table
        self._put(words, None if fresh else self._sent)
        self._sent = None if captures else self._words.copy()
        if fresh and self.tasks:
            self.kernel.module.launch("gx_tasks", self.args.leaves, THREADS, self.args)

    def _allocate(self) -> list[Tensor]:
        kernel, n = self.kernel, len(self.numel)
        integers = (len(self._words), self.tasks)
        doubles = (n * len(kernel.schedule.slots), kernel.partials * self.tasks)
        device = kernel.device
        return [
            *(torch.empty(max(size, 1), dtype=torch.int64, device=device) for size in integers),
            *(torch.empty(max(size, 1), dtype=torch.float64, device=device) for size in doubles),
        ]

    def _put(self, words: Tensor, sent: np.ndarray | None) -> None:
        """Write the words that differ from what was sent before."""
        size = len(self._words)
        for start in range(0, size, PUT_WORDS):
            block = self._words[start : start + PUT_WORDS]
            if sent is not None and np.array_equal(block, sent[start : start + PUT_WORDS]):
                continue
            put = Words(words.data_ptr() + 8 * start, len(block))
            ctypes.memmove(put.word, block.ctypes.data, block.nbytes)
            self.kernel.module.launch("gx_put", 1, THREADS, put)

    # -- launches --------------------------------------------------------------------------------

    def run_stage(self, stage: int) -> None:
        """Launch one stage."""
        source, leaves = self.kernel.source, len(self.numel)
        if source.scalars[stage] == "block":
            self._launch(f"scalars_{stage}", leaves, THREADS)
        elif source.scalars[stage]:
            self._each_leaf(f"scalars_{stage}")
        if source.passes[stage] and self.tasks:
            self._launch(f"pass_{stage}", self.tasks, THREADS)
        if source.trees[stage]:
            self._launch(f"tree_{stage}", 1, THREADS)

    def commit_leaves(self) -> None:
        """Write the scalar state of every leaf."""
        if self.kernel.source.commits_leaf:
            self._each_leaf("commit_leaf")

    def commit_shared(self) -> None:
        """Write the state that all leaves share."""
        self._launch("commit_shared", 1, 1)

    def _each_leaf(self, kernel: str) -> None:
        blocks = (len(self.numel) + _SMALL_BLOCK - 1) // _SMALL_BLOCK
        self._launch(kernel, blocks, _SMALL_BLOCK)

    def _launch(self, kernel: str, blocks: int, threads: int) -> None:
        self.kernel.module.launch(kernel, blocks, threads, self.args)


class CudaBackEnd:
    """Compiles and runs graphs on one CUDA device.

    Args:
        device: with an index.
        loader: compiles source for a device.
    """

    def __init__(
        self, device: torch.device, loader: Callable[[str, torch.device], Module] = load
    ) -> None:
        self.device = device
        self.table = CudaTable
        self._loader = loader
        self._kernels: dict[tuple[Graph, Any], CudaKernel] = {}

    def compile_together(self, graphs: Sequence[Graph]) -> list[CudaKernel]:
        """Kernels for graphs that run together, sharing the reductions over the tree.

        Raises:
            CannotFuseError: they cannot be compiled here.
        """
        stages = align(graphs)
        out = []
        for graph in graphs:
            key = (graph, tuple(sorted(stages.items())))
            if key not in self._kernels:
                self._kernels[key] = CudaKernel(graph, stages, self.device, self._loader)
            out.append(self._kernels[key])
        return out

    def numbers(self, rows: int, columns: int) -> np.ndarray:
        """Storage for rows of hyperparameters."""
        return np.zeros((rows, columns), dtype=[("word", np.int64), ("kind", np.int64)])

    def number(self, value: Any) -> tuple[int, int]:
        """An entry of ``numbers``: a number, or where on the device it stands.

        Raises:
            CannotFuseError: it is a tensor on another device, or of a dtype unknown here.
        """
        if isinstance(value, Tensor) and value.device == self.device:
            if value.dtype not in _KINDS:
                raise CannotFuseError("", f"a hyperparameter is a tensor of dtype {value.dtype}")
            return value.data_ptr(), _KINDS[value.dtype]
        if isinstance(value, Tensor) and value.device.type != "cpu":
            raise CannotFuseError("", f"a hyperparameter is on {value.device}")
        return int(np.float64(float(value)).view(np.int64)), 0

    def run_tables(self, tables: Sequence[CudaTable]) -> None:
        """Run the tables of one part together, stage by stage, on the current stream.

        Scalar state is written at the end: until then other leaves may still read it. What all
        leaves share is written by one kind of leaf, for each kind computes the same.
        """
        keys = list(dict.fromkeys((op, key) for t in tables for _, op, key in t.kernel.tree))
        totals = torch.zeros((len(keys), len(tables)), dtype=torch.float64, device=self.device)
        for row, (op, _) in enumerate(keys):
            if op == "tree_max":  # of tables that do not take part
                totals[row].fill_(-torch.inf)
        for i, table in enumerate(tables):
            rows = [keys.index((op, key)) for _, op, key in table.kernel.tree]
            table.prepare(totals, rows, len(tables), i)
        for stage in range(max(t.kernel.stages for t in tables)):
            for table in tables:
                if stage < table.kernel.stages:
                    table.run_stage(stage)
        for table in tables:
            table.commit_leaves()
        writers = [t for t in tables if t.kernel.commits_shared]
        if writers:
            max(writers, key=lambda t: len(t.kernel.commits_shared)).commit_shared()


def _stream(device: torch.device) -> tuple[int, bool]:
    """The current stream, and whether it is being captured."""
    if device.type != "cuda":
        return 0, False
    with torch.cuda.device(device):
        capturing = torch.cuda.is_current_stream_capturing()
    return torch.cuda.current_stream(device).cuda_stream, capturing
