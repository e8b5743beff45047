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

from ..ir.errors import CannotFuseError
from ..ir.expression import c_type
from ..ir.graph import Graph
from ..ir.stages import align, plan_stages
from .launch import Module, load
from .prelude import CHUNK, ENTRIES, PUT_WORDS, THREADS, WIDTH
from .source import CudaSource, Launch

_SMALL_BLOCK = 128  # threads of a block with a thread per leaf
_KINDS = {
    **{torch.float64: 1, torch.float32: 2, torch.bfloat16: 3, torch.float16: 4},
    **{torch.int64: 5, torch.int32: 6},
}
_TABLES = (
    *("hyper", "hyper_row", "numel", "rows", "columns", "tile_rows", "first_task", "first_chunk"),
    *("tree_row", "shared", "vectors", "pointers"),
)
_BUFFERS = ("task_leaf", "chunk_leaf", "slots", "partial", "tree")
_SIZE = {"float": 4, "double": 8, "int": 4, "gx_int": 8}
_LINE = 128  # bytes between the beginnings of vectors are a multiple of it
_ROWS = (64, 512)  # of a tile: enough beside its sums of columns, few enough to add in float
_TILES = 2048  # of a leaf, as long as its tiles are not of the least size


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
        self.stage_plan = plan_stages(graph, tree_stage)
        self.source = CudaSource(self.stage_plan)
        places = self.source.places
        self.columns = list(places.column)
        self.stages = len(self.stage_plan.stages)
        nodes = graph.nodes
        self.tree = [(s, nodes[n].op, nodes[n].value) for s, n in self.stage_plan.tree_keys()]
        self.partials = len(places.partial)
        self.vectors = [
            (nodes[i].form, _SIZE[c_type(nodes[i].dtype, True)], graph.of_elements(i))
            for i in places.vector
        ]
        self.commits_shared = {t.index for t, _ in self.stage_plan.commits if t.kind == "shared"}
        self.module = loader(self.source.text, device)


class CudaTable:
    """The launch tables of a kernel for a fixed list of leaves.

    Args:
        kernel: the compiled graph.
        sizes: number of elements of every leaf.
        rows: which row of the hyperparameters every leaf uses.
        hyper: the rows, made by ``CudaBackEnd.numbers``, which the caller fills.
        shared: addresses of the shared tensors.
        matrices: rows and columns of every leaf, where the graph sees leaves as matrices.

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
        matrices: Sequence[tuple[int, int]] = (),
    ) -> None:
        n = len(sizes)
        self.kernel = kernel
        self.numel = np.array(sizes, dtype=np.int64)
        self._matrices = np.array(matrices or [(0, 0)] * n, dtype=np.int64).T
        tile_rows = _tile_rows(*self._matrices)
        self._parts = -(-self._matrices // np.stack([tile_rows, np.full(n, WIDTH)]))
        is_flat = kernel.graph.view is None
        tasks = -(-self.numel // CHUNK) if is_flat else self._parts.prod(0)
        chunks = (-(-self._matrices // ENTRIES)).sum(0)
        self._hyper = hyper
        offsets, self._vector_bytes = self._vectors()
        tables: dict[str, Any] = {
            "hyper": [0] * (2 * hyper.size),
            "hyper_row": rows,
            "numel": self.numel,
            "rows": self._matrices[0],
            "columns": self._matrices[1],
            "tile_rows": tile_rows,
            "first_task": np.concatenate([[0], np.cumsum(tasks)]),
            "first_chunk": np.concatenate([[0], np.cumsum(chunks)]),
            "tree_row": [0] * len(kernel.tree),
            "shared": shared,
            "vectors": offsets,
            "pointers": [0] * (len(kernel.columns) * n),
        }
        ends = np.cumsum([len(tables[name]) for name in _TABLES])
        self._slices = {
            name: slice(end - len(tables[name]), end)
            for name, end in zip(_TABLES, ends.tolist(), strict=True)
        }
        self._words = np.concatenate([np.array(tables[name], np.int64) for name in _TABLES])
        self._offsets = offsets
        self.pointers = self._view("pointers").reshape(len(kernel.columns), n)
        self.tasks, self.chunks = int(tasks.sum()), int(chunks.sum())
        self._sent: np.ndarray | None = None
        self._buffers: list[Tensor] = []
        self._stream = 0
        self.args = Args(n, self.tasks, hyper.shape[1])

    def _view(self, table: str) -> np.ndarray:
        return self._words[self._slices[table]]

    def _vectors(self) -> tuple[np.ndarray, int]:
        """Where the vectors that are kept lie in their memory, and how large it is."""
        length = dict(zip(("row", "column"), self._matrices, strict=True))
        parts = dict(zip(("column", "row"), np.maximum(self._parts, 1), strict=True))
        sizes = [
            size * length[form] * (parts[form] if is_sum else 1)
            for form, size, is_sum in self.kernel.vectors
        ]
        flat = np.array(sizes, dtype=np.int64).reshape(-1)
        ends = np.cumsum(-(-flat // _LINE) * _LINE)
        return np.concatenate([[0], ends])[:-1], int(ends[-1]) if len(ends) else 0

    # -- before a run --------------------------------------------------------------------------

    def prepare(self, totals: Tensor, rows: Sequence[int], tables: int, table: int) -> None:
        """Bring the device's tables up to date.

        Args:
            totals: one row per reduction over the tree, one column per table.
            rows: the row of each of this kernel's reductions over the tree.
            tables: how many tables run together.
            table: the place of this one.
        """
        self._view("tree_row")[:] = rows
        self._view("hyper")[:] = self._hyper.view(np.int64).ravel()
        # Another stream gets other buffers, and so does a graph under capture: it may outlive this
        # table, and other steps must not change what it reads.
        stream, captures = _stream(self.kernel.device)
        fresh = captures or self._sent is None or stream != self._stream
        if fresh:
            self._buffers = self._allocate()
            self._stream = stream
        words, vectors, *buffers = self._buffers
        self._view("vectors")[:] = self._offsets + vectors.data_ptr()
        for name, where in self._slices.items():
            setattr(self.args, name, words.data_ptr() + 8 * where.start)
        for name, buffer in zip(_BUFFERS, (*buffers, totals), strict=True):
            setattr(self.args, name, buffer.data_ptr())
        self.args.tables, self.args.table = tables, table
        self._put(words, None if fresh else self._sent)
        self._sent = None if captures else self._words.copy()
        if fresh and (self.tasks or self.chunks):
            self.kernel.module.launch("gx_tasks", self.args.leaves, THREADS, self.args)

    def _allocate(self) -> list[Tensor]:
        kernel, n = self.kernel, len(self.numel)
        doubles = (n * len(kernel.stage_plan.slots), kernel.partials * self.tasks)
        return [
            self._empty(len(self._words), torch.int64),
            self._empty(self._vector_bytes, torch.uint8),
            *(self._empty(size, torch.int64) for size in (self.tasks, self.chunks)),
            *(self._empty(size, torch.float64) for size in doubles),
        ]

    def _empty(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(max(size, 1), dtype=dtype, device=self.kernel.device)

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
        self._launch(self.kernel.source.stages[stage])

    def commit_leaves(self) -> None:
        """Write the scalars, rows and columns of every leaf."""
        self._launch(self.kernel.source.commits_leaf)

    def commit_shared(self) -> None:
        """Write the state that all leaves share."""
        self._launch(self.kernel.source.commits_shared)

    def _launch(self, launches: Sequence[Launch]) -> None:
        leaves = len(self.numel)
        sizes = {
            "leaf threads": (-(-leaves // _SMALL_BLOCK), _SMALL_BLOCK),
            "leaves": (leaves, THREADS),
            "tasks": (self.tasks, THREADS),
            "chunks": (self.chunks, THREADS),
            "once": (1, THREADS),
        }
        for kernel, over in launches:
            blocks, threads = sizes[over]
            if blocks:
                self.kernel.module.launch(kernel, blocks, threads, self.args)


def _tile_rows(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rows of a task for every leaf."""
    across = -(-columns // WIDTH)
    return np.clip(-(-rows * across // _TILES), *_ROWS)


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
        self.lacks: str | None = None
        self._loader = loader
        self._kernels: dict[tuple[Graph, Any], CudaKernel] = {}

    def compile_together(
        self, graphs: Sequence[Graph], shards: bool = False, asks: bool = False
    ) -> list[CudaKernel]:
        """Kernels for graphs that run together, sharing the reductions over the tree.

        Raises:
            CannotFuseError: they cannot be compiled here, or work on some rows of leaves.
        """
        if shards:
            raise CannotFuseError("", "rows of leaves are not joined with those of others on CUDA")
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
            CannotFuseError: it is a tensor on another device, or of a dtype unknown here, or has a
                value for every entry of a leaf.
        """
        if isinstance(value, Tensor) and value.ndim:
            raise CannotFuseError("", "a hyperparameter has one value an entry")
        if isinstance(value, Tensor) and value.device == self.device:
            if value.dtype not in _KINDS:
                raise CannotFuseError("", f"a hyperparameter is a tensor of dtype {value.dtype}")
            return value.data_ptr(), _KINDS[value.dtype]
        if isinstance(value, Tensor) and value.device.type != "cpu":
            raise CannotFuseError("", f"a hyperparameter is on {value.device}")
        return int(np.float64(float(value)).view(np.int64)), 0

    def run_tables(self, tables: Sequence[CudaTable], reduce: Any = None) -> None:
        """Run the tables of one part together, stage by stage, on the current stream.

        What is no elements is written at the end: until then other leaves may still read it. What
        all leaves share is written by one kind of leaf, for each kind computes the same. What
        would be joined with other processes is not brought here.
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
