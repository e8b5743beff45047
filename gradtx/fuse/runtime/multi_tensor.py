"""Leaves as long runs of elements for torch operations: a back end that needs no compiler.

Small leaves are joined to runs that one thread goes through: copying takes longer than threads
would save, and threads that have so little to do mostly wait for each other. Large leaves are cut
to runs for all threads. Either is no longer than what stays in cache between the operations. The
leaves of a run have the same scalars.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ir.graph import Graph, Input, Node
from ..ir.places import columns
from ..ir.stages import plan_stages
from .program import Operation, Place, Program, evaluate

RUN = 32768  # elements of a run for one thread; shorter arrays are not shared out by torch


class TensorKernel:
    """One graph as torch operations.

    Raises:
        CannotFuseError: it is not pointwise.
    """

    stages = 1

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.program = Program(graph)
        self.stage_plan = plan_stages(graph, {})
        self.columns = columns(graph)
        self.commits = self.stage_plan.commits
        self.commits_shared = {t.index for t, _ in self.commits if t.kind == "shared"}
        self.tree: list[Any] = []


class Run:
    """Leaves, or a piece of one, that go through the operations together.

    Args:
        table: whose leaves they are.
        leaves: which.
        start: first element of the piece; of several leaves 0.
        size: elements.
    """

    def __init__(self, table: TensorTable, leaves: list[int], start: int, size: int) -> None:
        self.leaves, self.size = leaves, size
        program = table.kernel.program
        self.registers = [x[:size] for x in table.registers]
        self.joined = len(leaves) > 1
        self._sizes = [table.sizes[i] for i in leaves]
        ends = np.cumsum([0, *self._sizes])
        self._start = start
        self._at: list[int] = []
        self._columns: list[Tensor] = [x[:size] for x in table.buffers] if self.joined else []
        self._moves = [
            (
                k,
                (x.data_ptr() + ends[:-1] * x.itemsize).tolist(),
                [n * x.itemsize for n in self._sizes],
            )
            for k, x in enumerate(self._columns)
        ]
        self._dtypes = list(program.columns.values())

    def columns(self, pointers: Sequence[Sequence[int]]) -> list[Tensor]:
        """The arrays of the program's columns; those of several leaves are copies."""
        if self.joined:
            for k, buffer, sizes in self._moves:
                own = pointers[k]
                _copy(buffer, [own[i] for i in self.leaves], sizes)
            return self._columns
        at = [column[self.leaves[0]] for column in pointers]
        if at != self._at:
            self._columns = [
                _view(address + self._start * d.itemsize, self.size, d)
                for address, d in zip(at, self._dtypes, strict=True)
            ]
            self._at = at
        return self._columns

    def write(self, pointers: Sequence[Sequence[int]], written: Sequence[int]) -> None:
        """Copy results back to where they belong."""
        for k in written if self.joined else ():
            _, buffer, sizes = self._moves[k]
            own = pointers[k]
            _copy([own[i] for i in self.leaves], buffer, sizes)


class TensorTable:
    """The leaves of a kernel; arguments are those of ``kernel.Table``."""

    def __init__(
        self,
        kernel: TensorKernel,
        sizes: Sequence[int],
        rows: Sequence[int],
        hyper: np.ndarray,
        shared: Sequence[int],
    ) -> None:
        self.kernel = kernel
        self.sizes = list(sizes)
        self.pointers = np.zeros((len(kernel.columns), len(sizes)), dtype=np.int64)
        self._hyper, self._shared = hyper, list(shared)
        self._rows = np.array(rows, dtype=np.int64)
        self._row = {at: k for k, at in enumerate(kernel.columns)}
        self._own = [self._row[at] for at in kernel.program.columns]
        self._order = [i for i in np.argsort(self._rows, kind="stable").tolist() if sizes[i]]
        self._cuts: Any = None
        self._runs: list[Run] = []
        self._longest = 0
        self.registers: list[Tensor] = []
        self.buffers: list[Tensor] = []

    def run(self) -> dict[int, Tensor]:
        """Update the elements; returns the scalars."""
        with torch.inference_mode(False), torch.no_grad():
            program = self.kernel.program
            values = evaluate(self.kernel.graph, self._given)
            shape = len(program.scalars), len(self.sizes)
            table = torch.empty(shape, dtype=torch.float64, device="cpu")
            for row, (i, dtype) in zip(table, program.scalars, strict=True):
                row.copy_(values[i].to(dtype))
            self._divide(table.numpy())
            pointers = self.pointers[self._own].tolist()
            scalars: list[Tensor] = []
            numbers: list[float] = []
            leaf = -1
            for run in self._runs:
                first = run.leaves[0]
                if leaf < 0 or self._group[first] != self._group[leaf]:
                    numbers = table[:, first].tolist()
                    scalars = [
                        torch.tensor(x, dtype=torch.float64, device="cpu").to(dtype)
                        for x, (_, dtype) in zip(numbers, program.scalars, strict=True)
                    ]
                leaf = first
                self._calculate(run, pointers, scalars, numbers)
            return values

    def commit(self, values: dict[int, Tensor], shared: bool) -> None:
        """Write scalars: those of all leaves, or those of every leaf."""
        nodes = self.kernel.graph.nodes
        for target, i in self.kernel.commits:
            if (target.kind == "shared") == shared:
                x = values[i].to(getattr(torch, nodes[i].dtype))
                addresses = self._addresses(target)
                x = x.expand(len(self.sizes)).contiguous()
                base = x.data_ptr()
                for k, to in enumerate(addresses):
                    ctypes.memmove(to, base + k * x.itemsize, x.itemsize)

    def _calculate(
        self,
        run: Run,
        pointers: Sequence[Sequence[int]],
        scalars: list[Tensor],
        numbers: list[float],
    ) -> None:
        program = self.kernel.program
        spaces = {
            "column": run.columns(pointers),
            "register": run.registers,
            "scalar": scalars,
            "const": program.consts,
        }
        for operation in program.operations:
            _do(operation, spaces, numbers)
        run.write(pointers, program.written)

    def _addresses(self, at: Input) -> list[int]:
        if at.kind == "shared":
            return [self._shared[at.index]]
        offset = 8 * int(at.name) if at.name else 0
        return [address + offset for address in self.pointers[self._row[at]].tolist()]

    def _given(self, node: Node) -> Tensor:
        """The values of an input for all leaves."""
        if node.op == "numel":
            return torch.tensor(self.sizes, dtype=torch.int64, device="cpu")
        at: Input = node.value
        if at.kind == "hyper":
            return torch.from_numpy(self._hyper[self._rows, at.index])
        addresses = self._addresses(at)
        x = torch.empty(len(addresses), dtype=getattr(torch, node.dtype), device="cpu")
        base = x.data_ptr()
        for k, address in enumerate(addresses):
            ctypes.memmove(base + k * x.itemsize, address, x.itemsize)
        return x

    def _divide(self, scalars: np.ndarray) -> None:
        """Make runs of leaves that have the same scalars, unless they are there."""
        ordered = scalars[:, self._order]
        cuts = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
        longest = RUN * torch.get_num_threads()
        if self._cuts is not None and longest == self._longest and (cuts == self._cuts).all():
            return
        program = self.kernel.program
        if longest != self._longest:
            total = min(longest, sum(self.sizes))
            dtypes = program.columns.values()
            self.registers = [torch.empty(total, dtype=d, device="cpu") for d in program.registers]
            joined = min(RUN, total)
            self.buffers = [torch.empty(joined, dtype=d, device="cpu") for d in dtypes]
        self._cuts, self._longest = cuts, longest
        self._runs, self._group = [], {}
        waiting: list[int] = []
        group = 0

        def finish() -> None:
            if waiting:
                self._runs.append(Run(self, list(waiting), 0, sum(self.sizes[i] for i in waiting)))
                waiting.clear()

        for at, i in enumerate(self._order):
            if at and cuts[at - 1]:
                finish()
                group += 1
            self._group[i] = group
            n = self.sizes[i]
            if 2 * n > RUN:  # more operations take less time than copies
                pieces = -(-n // longest)
                ends = [n * k // pieces for k in range(pieces + 1)]
                self._runs += [Run(self, [i], a, b - a) for a, b in itertools.pairwise(ends)]
                continue
            if sum(self.sizes[k] for k in waiting) + n > RUN:
                finish()
            waiting.append(i)
        finish()


def _do(operation: Operation, spaces: dict[str, list[Tensor]], numbers: list[float]) -> None:
    call, out, args, keyword, factor, sign = operation
    arrays = [spaces[space][k] for space, k in args]
    target = spaces[out.space][out.entry]
    if call is Tensor.copy_:
        target.copy_(arrays[0])
    elif factor is not None:
        call(*arrays, **{keyword: sign * _number(factor, spaces, numbers)}, out=target)
    elif keyword:
        call(*arrays, **{keyword: sign}, out=target)
    else:
        call(*arrays, out=target)


def _number(place: Place, spaces: dict[str, list[Tensor]], numbers: list[float]) -> float:
    if place.space == "scalar":
        return numbers[place.entry]
    return float(spaces["const"][place.entry])


def _copy(to: list[int], source: list[int], sizes: list[int]) -> None:
    """Copy bytes between addresses."""
    deque(map(ctypes.memmove, to, source, sizes), maxlen=0)


def _view(address: int, size: int, dtype: torch.dtype) -> Tensor:
    """Memory as an array; it is not kept alive."""
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


_kernels: dict[Graph, TensorKernel] = {}


def compile_together(graphs: Sequence[Graph]) -> list[TensorKernel]:
    """Kernels for graphs.

    Raises:
        CannotFuseError: one is not pointwise.
    """
    for graph in graphs:
        if graph not in _kernels:
            _kernels[graph] = TensorKernel(graph)
    return [_kernels[graph] for graph in graphs]


def run_tables(tables: Sequence[TensorTable]) -> None:
    """Run the tables of one segment; what all leaves share is written at the end, once."""
    done = [(table, table.run()) for table in tables]
    for table, values in done:
        table.commit(values, shared=False)
    writers = [pair for pair in done if pair[0].kernel.commits_shared]
    if writers:
        table, values = max(writers, key=lambda pair: len(pair[0].kernel.commits_shared))
        table.commit(values, shared=True)
