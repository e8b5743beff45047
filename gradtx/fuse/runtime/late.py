"""A first member that runs when everything that may fail is done, and may overwrite its state.

Members with a form for this say so (``Execution.low_rank_form``, ``factored``). Updates may be
low-rank then: they are multiplied out some rows at a time, and those rows stay in cache until the
last segment has read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.execution import holds
from ...core.leaves import LowRankUpdate, densify_leaf
from ...core.protocol import GradientTransformation, members
from ...ops import add_product_
from ..cpp.kernel import Table
from ..ir.graph import SIZES, Input
from .backend import make_table
from .batch import Batch
from .member import copy_all, run_member
from .plan import LaunchPlan, Strategy
from .segments import Segment

_PIECE = 1 << 20  # elements of an update that are there at once


class Rows:
    """Some consecutive rows of a leaf, as many as one table is for.

    Args:
        plan: the leaf's tables.
        i: the leaf.
        rows: how many.
    """

    def __init__(self, plan: LaunchPlan, i: int, rows: int) -> None:
        kernel = plan.kernels[plan.cut[-1], "all"][plan.kinds[i]]
        batch, p = plan.batch, plan.batch.params[i]
        shared = [x.data_ptr() for x in batch.shared[plan.segments.shared(plan.cut[-1])]]
        whole = p.detach().reshape(p.shape[0], -1)
        self.rows, self.width = rows, whole.shape[1]
        self.table = make_table(
            plan.back_end, kernel, [whole[:rows]], [batch.rows[i]], plan.hyper, shared
        )
        _, where = plan.segments.structure(plan.cut[-1], plan.kinds[i].signature.structure)
        nodes = kernel.graph.nodes
        element = {n.value: n for n in nodes if n.op == "input"}
        element |= {target: nodes[k] for target, k in kernel.graph.outputs}
        self.columns: list[tuple[int, Input, int]] = []
        for k, at in enumerate(kernel.columns):
            node = element[at]
            size = getattr(torch, node.dtype).itemsize if node.element else 0
            self.columns.append((k, at, size * self.width))
            if at.kind == "param":
                self.table.pointers[k] = p.data_ptr()
            elif at.kind == "state":
                self.table.pointers[k] = batch.states[i][where.start + at.index].data_ptr()
        self.base = self.table.pointers.copy()

    def run(self, first: int, gradient: int, update: int) -> None:
        """Update the rows from ``first`` on, given addresses of the leaf's gradient and theirs."""
        for k, at, stride in self.columns:
            if at.kind == "update":
                self.table.pointers[k] = update
            else:
                base = gradient if at.kind == "grad" else self.base[k]
                self.table.pointers[k] = base + first * stride
        self.table.run(0, 0, ends=False)


class Late:
    """What the strategy of one plan knows, see the module's text.

    Args:
        member: the first member in its form for this.
    """

    def __init__(self, member: GradientTransformation) -> None:
        self.member = member
        self._pieces: dict[int, list[Rows]] = {}
        self._scratch: dict[torch.dtype, Tensor] = {}

    def in_tables(self, plan: LaunchPlan, segment: Segment) -> Sequence[int]:
        """The leaves that are not multiplied out by rows."""
        in_pieces = segment is plan.cut[-1] and not segment.factored and not plan.awkward
        if not in_pieces or plan.back_end.table is not Table:
            return range(len(plan.kinds))
        together = []
        for i, (kind, p) in enumerate(zip(plan.kinds, plan.batch.params, strict=True)):
            if p.ndim > 1 and p.numel() and _by_element(plan.kernels[segment, "all"][kind]):
                most = max(_PIECE // (p.numel() // p.shape[0]), 1)
                full, rest = divmod(p.shape[0], most)
                self._pieces[i] = [Rows(plan, i, n) for n in (most * (full > 0), rest) if n]
            else:
                together.append(i)
        return together

    def prepare(self, plan: LaunchPlan, batch: Batch) -> Callable[[], None]:
        """Look at gradients and hyperparameters; the result runs the member, then writes."""
        if plan.awkward:
            return plan.compute(batch)
        grads = plan.gradients_of(batch)
        plan.fill_hyper(batch)
        return partial(self._apply, plan, batch, grads)

    def _apply(self, plan: LaunchPlan, batch: Batch, grads: list[Tensor]) -> None:
        first, last = plan.cut
        updates, pairs = run_member(plan.segments, first, self.member, batch, grads, None)
        for i, pieces in self._pieces.items():
            self._in_pieces(updates[i], batch.params[i], grads[i].data_ptr(), pieces)
        # Those in pieces have been applied.
        rest = [
            g if i in self._pieces else densify_leaf(u).contiguous()
            for i, (g, u) in enumerate(zip(grads, updates, strict=True))
        ]
        if plan.groups[last, "all"]:
            plan.point(last, "all", rest)
            plan.launch(last, "all")
        else:
            next(iter(self._pieces.values()))[0].table.commit_shared()
        copy_all([(old, new) for old, new in pairs if old.data_ptr() != new.data_ptr()])

    def _in_pieces(self, u: Any, p: Tensor, gradient: int, pieces: list[Rows]) -> None:
        """Update one leaf."""
        if not isinstance(u, LowRankUpdate) or not u.basis.is_floating_point():
            u = densify_leaf(u).contiguous()
        start = 0
        while start < p.shape[0]:
            rows = pieces[0] if start + pieces[0].rows <= p.shape[0] else pieces[-1]
            rows.run(start, gradient, self._rows_of(u, start, rows))
            start += rows.rows
        pieces[0].table.commit_leaves()

    def _rows_of(self, u: Any, start: int, rows: Rows) -> int:
        """The address of some rows of an update."""
        if isinstance(u, Tensor):
            return u.data_ptr() + start * rows.width * u.itemsize
        stop = start + rows.rows
        size = rows.rows * rows.width
        if u.dtype not in self._scratch or self._scratch[u.dtype].numel() < size:
            self._scratch[u.dtype] = torch.empty(size, dtype=u.dtype, device="cpu")
        out = self._scratch[u.dtype][:size].view(rows.rows, rows.width)
        if u.side == "left":
            add_product_(out, u.basis[start:stop], u.factor, beta=0.0)
        else:
            add_product_(out, u.factor[start:stop], u.basis.mT, beta=0.0)
        return out.data_ptr()


def late(member: GradientTransformation) -> Strategy:
    """The strategy of one plan whose first member runs late.

    Args:
        member: the first member in its form for this.
    """
    own = Late(member)
    fails = not all(holds(m, "cannot_raise") for _, m in members(member))
    # An update's factors have rows and columns.
    return Strategy("late", own.prepare, own.in_tables, by_row=True, fails_late=fails)


def _by_element(kernel: Any) -> bool:
    """Whether elements are updated one by one: any of them may be a leaf of their own."""
    graph = kernel.graph
    return (
        kernel.stages == 1
        and not kernel.tree
        and not graph.ordered
        and not any(n.op in SIZES or graph.of_elements(i) for i, n in enumerate(graph.nodes))
    )
