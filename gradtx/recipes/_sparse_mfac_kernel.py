"""The operators for all of ``sparse_mfac``: which chains and leaves they update, and a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..compressors import SparseCompressor, block_top_k
from ..core import hyper as hyper_
from ..core.chain import Chain
from ..core.execution import ChainKernel, ChainStep, Leaves, register
from ..core.protocol import GradientTransformation, members
from ..core.state import advance
from ..ops.registry import has_kernel
from ..ops.window_step import HYPER, sparse_window_push_, sparse_window_step_
from ..precondition import GradientWindowState
from ..precondition.mfac import PreconditionMFAC, check_damping
from ..transforms.error_feedback import ErrorFeedback
from ..transforms.learning_rate import scale_by_learning_rate
from ..transforms.momentum import trace
from ..transforms.weight_decay import _AddDecayedWeights
from ._kernel_rows import rows_of

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
        if len(leaves.shared) != 2 + counts or _place_of_gram(leaves.shared) > counts:
            return "the state has other step counts"
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

    @property
    def may_raise(self) -> bool:
        return True  # a gradient that is not finite, or damping that has fallen to zero

    def run(self, leaves: Leaves, grads: list[Tensor], name: Callable[[int], str]) -> None:
        mfac, window = self._found.mfac, self._found.mfac.rows
        at = _place_of_gram(leaves.shared)
        gram, step = leaves.shared[at : at + 2]
        counts = [*leaves.shared[:at], *leaves.shared[at + 2 :]]
        rows = rows_of(self._found.sources, (*HYPER, "damping"), leaves, counts)
        if bool((rows[:, -1] != rows[0, -1]).any()):
            raise ValueError(f"{mfac.name}: damping must be the same for all leaves")
        damping = float(rows[0, -1])
        check_damping(mfac.name, damping)
        pushed = GradientWindowState((), gram, advance(step, period=window.size))
        signs = [-1 if turned else 1 for turned in leaves.maximize or [False] * len(grads)]
        checks = mfac.nonfinite == "raise"
        dots, there, finite = sparse_window_push_(
            grads,
            self._errors,
            self._indices,
            self._values,
            self._written,
            step,
            signs,
            *self._geometry,
            checks,
        )
        if checks and not bool(finite.all()):
            raise mfac.not_finite(name(finite.tolist().index(False)))
        newest, total = window.newest(pushed), dots.sum(0)
        gram.copy_(torch.where(newest[:, None], total, torch.where(newest, total[:, None], gram)))
        weights = window.newest_weights(pushed, damping)
        sparse_window_step_(
            self._params,
            self._momenta,
            self._indices,
            self._values,
            torch.where(there, weights, 0.0),
            rows[:, :-1].contiguous(),
            leaves.rows,
            *self._geometry,
        )
        step.copy_(pushed.step)
        for count in counts:
            count.copy_(advance(count))

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
