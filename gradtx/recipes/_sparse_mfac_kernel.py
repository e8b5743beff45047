"""The operators for all of ``sparse_mfac``: which chains and leaves they update, and a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..compressors import SparseCompressor, block_top_k
from ..core import hyper as hyper_
from ..core.chain import Chain
from ..core.execution import ChainKernel, ChainStep, Leaves, register
from ..core.protocol import GradientTransformation, members
from ..core.state import advance
from ..ops.registry import has_kernel
from ..ops.tables import LeafTable
from ..ops.window_step import (
    HYPER,
    LEAF,
    sparse_window_push_,
    sparse_window_step_,
    window_push_table,
    window_step_table,
)
from ..precondition import GradientWindowState
from ..precondition.mfac import PreconditionMFAC, check_damping
from ..transforms.error_feedback import ErrorFeedback
from ..transforms.learning_rate import scale_by_learning_rate
from ..transforms.momentum import trace
from ..transforms.weight_decay import _AddDecayedWeights
from ._kernel_rows import detached, rows_of, signs_of

_SINGLE = (torch.float32, torch.bfloat16)
_OPERATORS = ("sparse_window_push_", "sparse_window_step_")


class Members(NamedTuple):
    """The members of a chain that matches, and where they stand in it."""

    compressor: block_top_k
    mfac: PreconditionMFAC
    trace: bool
    sources: tuple[tuple[str, Any], ...]  # members with values, in the order of their states


class SparseMFACKernel(ChainKernel):
    """``sparse_window_push_`` and ``sparse_window_step_`` for chains like ``sparse_mfac``."""

    name = "sparse M-FAC kernel"

    def match(self, tx: GradientTransformation) -> Members | str | None:
        found: list[tuple[str, Any]] = [
            (path, m) for path, m in members(tx) if not isinstance(m, Chain)
        ]
        mfac = [m for _, m in found if type(m) is PreconditionMFAC]
        if len(mfac) != 1 or not isinstance(mfac[0].compressor, SparseCompressor):
            return None
        return _members(found)

    def bind(self, found: Members, leaves: Leaves) -> SparseMFACStep | str:
        device = leaves.params[0].device.type.upper()
        for name in _OPERATORS:
            if not has_kernel(name, device):
                return f"{name} has no kernel for {device}"
        if leaves.extra:
            return f"the chain gets {', '.join(leaves.extra)}"
        counts = sum(hyper_.is_scheduled(tx) for _, tx in found.sources)
        place = _place_of_gram(leaves.shared)
        if len(leaves.shared) != 2 + counts or place > counts:
            return "the state has other step counts"
        window, (gram, step) = found.mfac.window, leaves.shared[place : place + 2]
        if (gram.shape, step.dtype, step.ndim) != ((window, window), torch.int32, 0):
            return "the state has a Gram matrix or a count of pushes of another form"
        each = zip(leaves.params, leaves.grads, leaves.states, strict=True)
        for i, (p, g, states) in enumerate(each):
            if (why := _misfit(found, p, g, states)) is not None:
                return f"parameter {i} {why}"
        return SparseMFACStep(found, leaves)


class SparseMFACStep(ChainStep):
    """Steps of some leaves."""

    def __init__(self, found: Members, leaves: Leaves) -> None:
        self._found = found
        self._params = list(leaves.params)
        self._dtypes = [g.dtype for g in leaves.grads]
        blocks = [found.compressor.blocks(p.numel()) for p in leaves.params]
        self._geometry = [b.size for b in blocks], [b.k for b in blocks]
        columns = [list(column) for column in zip(*leaves.states, strict=True)]
        self._errors, self._indices, self._values, self._written, *rest = columns
        self._momenta = rest[0] if rest else []
        self._table = None
        if leaves.params[0].is_cpu and window_push_table.is_there:
            self._table = self._tabulated()

    @property
    def may_raise(self) -> bool:
        return True  # a gradient that is not finite, or damping that has fallen to zero

    def run(
        self, leaves: Leaves, grads: list[Tensor], at: np.ndarray, name: Callable[[int], str]
    ) -> None:
        mfac, window = self._found.mfac, self._found.mfac.rows
        place = _place_of_gram(leaves.shared)
        gram, step = leaves.shared[place : place + 2]
        counts = [*leaves.shared[:place], *leaves.shared[place + 2 :]]
        rows = rows_of(self._found.sources, (*HYPER, "damping"), leaves, counts)
        if bool((rows[:, -1] != rows[0, -1]).any()):
            raise ValueError(f"{mfac.name}: damping must be the same for all leaves")
        damping = float(rows[0, -1])
        check_damping(mfac.name, damping)
        pushed = GradientWindowState((), gram, advance(step, period=window.size))
        dots, there, finite = self._push(leaves, grads, at, step)
        if mfac.nonfinite == "raise" and not bool(finite.all()):
            raise mfac.not_finite(name(finite.tolist().index(False)))
        newest, total = window.newest(pushed), dots.sum(0)
        gram.copy_(torch.where(newest[:, None], total, torch.where(newest, total[:, None], gram)))
        weights = window.newest_weights(pushed, damping)
        if mfac.nonfinite == "raise" and not bool(torch.isfinite(weights.sum())):
            raise mfac.no_factor("parameters have not been changed")
        weights = torch.where(there, mfac.without_factor(weights, gram.diagonal()), 0.0)
        self._move(leaves, weights, rows[:, :-1].contiguous())
        step.copy_(pushed.step)
        for count in counts:
            count.copy_(advance(count))

    def _push(
        self, leaves: Leaves, grads: list[Tensor], at: np.ndarray, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take in gradients, see ``sparse_window_push_``."""
        table, signs = self._table, signs_of(leaves)
        check = self._found.mfac.nonfinite == "raise"
        if table is None:
            states = (self._errors, self._indices, self._values, self._written)
            return sparse_window_push_(
                detached(grads), *states, step, signs, *self._geometry, check
            )
        table.put("grads", at)
        table.put("signs", signs)
        shape = (len(grads), self._found.mfac.window)
        dots = torch.empty(shape, dtype=torch.float64, device="cpu")
        there = torch.empty(shape, dtype=torch.bool, device="cpu")
        finite = torch.empty(shape[:1], dtype=torch.bool, device="cpu")
        window_push_table(table, step, check, dots, there, finite)
        return dots, there, finite

    def _move(self, leaves: Leaves, weights: Tensor, hyper: Tensor) -> None:
        """Move parameters, see ``sparse_window_step_``."""
        if self._table is None:
            lists = (self._params, self._momenta, self._indices, self._values)
            sparse_window_step_(*lists, weights, hyper, leaves.rows, *self._geometry)
            return
        self._table.put("rows", leaves.rows)
        window_step_table(self._table, weights, hyper)

    def _tabulated(self) -> LeafTable:
        """The leaves as a table; what steps give is still zero."""
        sizes, kept = self._geometry
        bf16 = torch.bfloat16
        return LeafTable(
            LEAF,
            params=self._params,
            errors=self._errors,
            **({"momenta": self._momenta} if self._momenta else {}),
            indices=self._indices,
            values=self._values,
            written=self._written,
            numel=[p.numel() for p in self._params],
            block_sizes=sizes,
            kept=kept,
            window=[x.shape[0] for x in self._indices],
            columns=[x.shape[1] for x in self._indices],
            bf16_params=[p.dtype == bf16 for p in self._params],
            bf16_grads=[dtype == bf16 for dtype in self._dtypes],
            bf16_values=[x.dtype == bf16 for x in self._values],
        )

    def moved(self) -> int:
        total = 0
        columns = (self._params, self._dtypes, self._indices, self._values)
        for p, dtype, indices, values in zip(*columns, strict=True):
            entries = indices.nbytes + values.nbytes
            total += p.numel() * (dtype.itemsize + 8) + 2 * p.nbytes + 2 * entries
            if self._found.mfac.nonfinite == "raise":
                total += p.numel() * dtype.itemsize
        return total + sum(2 * m.nbytes for m in self._momenta)


register(SparseMFACKernel())


def _members(found: list[tuple[str, Any]]) -> Members | str:
    """The members, once they are those that the operators compute with options that they know."""
    kinds = [type(m) for _, m in found]
    momentum = len(found) > 2 and kinds[2] is trace
    decay = 3 if momentum else 2
    wanted: list[type] = [ErrorFeedback, PreconditionMFAC, *([trace] if momentum else [])]
    if len(found) > decay and kinds[decay] is _AddDecayedWeights:
        wanted.append(_AddDecayedWeights)
    if kinds != [*wanted, scale_by_learning_rate]:
        names = ", ".join(path.rpartition(".")[2] for path, _ in found)
        return f"it computes error_feedback, momentum, weight decay and the rate, not {names}"
    feedback, mfac, rate = found[0][1], found[1][1], found[-1][1]
    keep = feedback.compressor
    conditions = {
        "the compressor must be block_top_k": type(keep) is block_top_k,
        "window and error feedback must have one compressor": mfac.compressor == keep,
        "F^-1 must be applied to the newest row": mfac.query == "newest",
        "there must be one Fisher matrix of the model": mfac.fisher == "model",
        "the window must be kept in float32 or bfloat16": mfac.dtype in (None, *_SINGLE),
        "the error must be kept in float32": feedback.quantizer in (None, torch.float32),
        "no error may be released into updates": (feedback.release, feedback.leftover)
        == (0.0, "drop"),
        "error feedback must not round to the parameter's dtype": not feedback.in_param_dtype,
        "the learning rate must turn the sign": rate.flip_sign,
        "weight decay must not be cautious": _AddDecayedWeights not in wanted
        or not found[decay][1].cautious,
        "momentum must be a plain sum in float32": not momentum
        or (not found[2][1].nesterov and found[2][1].codec in (None, torch.float32)),
    }
    for what, holds in conditions.items():
        if not holds:
            return what
    return Members(keep, mfac, momentum, tuple(found[1:]))


def _place_of_gram(shared: list[Tensor]) -> int:
    """Where the Gram matrix is among what leaves share; the pushes done follow it."""
    return next((i for i, x in enumerate(shared) if x.ndim == 2), len(shared))


def _misfit(found: Members, p: Tensor, g: Tensor, states: list[Tensor]) -> str | None:
    """Why a leaf, or the state it has, is none that the operators update."""
    if p.dtype not in _SINGLE or g.dtype not in _SINGLE:
        return f"is {p.dtype}, its gradient {g.dtype}; both must be float32 or bfloat16"
    blocks, window = found.compressor.blocks(p.numel()), found.mfac.window
    rows, dtype = (window, blocks.kept), found.mfac.dtype or torch.float32
    want = [
        (tuple(p.shape), torch.float32),
        (rows, torch.int16),
        (rows, dtype),
        ((window,), torch.int32),
        *([(tuple(p.shape), torch.float32)] if found.trace else []),
    ]
    if [(tuple(x.shape), x.dtype) for x in states] != want:
        return "has a state of another form"
    if not all(x.is_contiguous() and not x.is_neg() for x in (p, *states)):
        return "or its state is not contiguous"
    indices = states[1]
    if not indices.numel() or not p.is_cpu:
        return None
    low, high = torch.aminmax(indices)
    return None if bool((low >= 0) & (high < blocks.size)) else "has indices outside of its blocks"
