"""Which back end runs leaves on a device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...core.reduce import Reduce
from ..cpp import kernel
from ..cuda.blocks import block_size
from ..cuda.launch import bindings
from ..cuda.table import CudaBackEnd
from ..ir.errors import CannotFuseError
from ..ir.graph import Graph
from ..ir.view import matrix
from . import multi_tensor
from .batch import Rows


class BackEnd(Protocol):
    """Compiles graphs for a device and runs them on tables of leaves.

    Attributes:
        device: where the leaves are.
        table: class of the tables, see ``kernel.Table``.
        lacks: why it does without compiled passes; None if it has them.
    """

    device: torch.device
    table: Any
    lacks: str | None

    def compile_together(
        self, graphs: Sequence[Graph], shards: bool = False, asks: bool = False
    ) -> Sequence[Any]:
        """Kernels for graphs that run together, with ``shards`` on some rows of leaves.

        With ``asks`` processes may turn back at the first tree reduction.
        """

    def run_tables(self, tables: Any, reduce: Reduce | None = None) -> None:
        """Run the tables of one segment together; ``reduce`` joins them with other processes."""

    def numbers(self, rows: int, columns: int) -> np.ndarray:
        """Storage for rows of hyperparameters."""

    def number(self, value: Any) -> Any:
        """An entry of ``numbers``."""


class CpuBackEnd:
    """The C++ back end."""

    lacks: str | None = None
    table: Any = kernel.Table

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def compile_together(
        self, graphs: Sequence[Graph], shards: bool = False, asks: bool = False
    ) -> Sequence[Any]:
        """Kernels for graphs that run together, with ``shards`` on some rows of leaves.

        Raises:
            CannotCompileError: nothing can be compiled here.
        """
        return kernel.compile_together(graphs, shards, asks)

    def run_tables(self, tables: Any, reduce: Reduce | None = None) -> None:
        """Run the tables of one segment together; ``reduce`` joins them with other processes."""
        kernel.run_tables(tables, reduce)

    def numbers(self, rows: int, columns: int) -> np.ndarray:
        """Storage for rows of hyperparameters."""
        return np.zeros((rows, columns))

    def number(self, value: Any) -> float:
        """An entry of ``numbers``.

        Raises:
            CannotFuseError: a value for every entry of a leaf.
        """
        if isinstance(value, Tensor) and value.ndim:
            raise CannotFuseError("", "a hyperparameter has one value an entry")
        return float(value)


class TensorBackEnd(CpuBackEnd):
    """Torch operations on many leaves at once, for pointwise graphs.

    Args:
        lacks: why nothing is compiled.
    """

    table = multi_tensor.TensorTable

    def __init__(self, lacks: str) -> None:
        super().__init__()
        self.lacks = lacks

    def compile_together(
        self, graphs: Sequence[Graph], shards: bool = False, asks: bool = False
    ) -> Sequence[Any]:
        """Kernels for graphs that run together.

        Raises:
            CannotFuseError: one is not pointwise, or leaves are cut.
        """
        if shards:
            raise CannotFuseError("", f"leaves are cut: {self.lacks}")
        try:
            return multi_tensor.compile_together(graphs)
        except CannotFuseError as error:
            reason = f"{error.reason}, all else needs compiled passes: {self.lacks}"
            raise CannotFuseError(error.member, reason) from None

    def run_tables(self, tables: Any, reduce: Reduce | None = None) -> None:
        """Run the tables of one segment together; pointwise ones join nothing."""
        multi_tensor.run_tables(tables)


tensor_back_end = functools.cache(TensorBackEnd)  # one for every reason


def refuse_unsupported(back: BackEnd, graph: Graph) -> None:
    """Raise where a graph has nodes that a back end does not know.

    Raises:
        CannotFuseError: names the member.
    """
    if isinstance(back, CudaBackEnd):
        block_size(graph)


def make_table(
    back: BackEnd,
    kernel: Any,
    leaves: Sequence[Tensor],
    rows: Sequence[int],
    hyper: np.ndarray,
    shared: Sequence[int],
    wholes: Sequence[Rows] = (),
) -> Any:
    """The launch tables of a kernel for some leaves, see ``kernel.Table``.

    Raises:
        CannotFuseError: a process has a part of a row.
    """
    table = (kernel, [p.numel() for p in leaves], rows, hyper, shared)
    view = kernel.graph.view
    if not wholes:
        return back.table(
            *table, *(() if view is None else ([matrix(view, p.shape) for p in leaves],))
        )
    if view is None:
        return back.table(*table, (), [(w.leaf.numel(), 0) for w in wholes])
    every = [matrix(view, w.leaf.shape) for w in wholes]
    for w, (_, width) in zip(wholes, every, strict=True):
        if any(bound % width for bound in w.bounds):
            raise CannotFuseError("", f"rows of a leaf {tuple(w.leaf.shape)} are cut")
    own = [(p.numel() // width, width) for p, (_, width) in zip(leaves, every, strict=True)]
    sizes = [(w.leaf.numel(), height) for w, (height, _) in zip(wholes, every, strict=True)]
    return back.table(*table, own, sizes)


@functools.cache
def back_end(device: torch.device) -> BackEnd:
    """The back end of a device.

    Raises:
        CannotFuseError: there is none.
    """
    if device.type == "cpu":
        return CpuBackEnd()
    if device.type == "cuda":
        bindings()
        return CudaBackEnd(device)
    raise CannotFuseError("", f"there is no back end for {device}")
