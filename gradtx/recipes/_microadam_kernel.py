"""The operator for all of ``microadam``: which chains and leaves it updates, and a step of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..codecs import affine
from ..compressors import block_top_k
from ..core import hyper as hyper_
from ..core.chain import Chain
from ..core.execution import ChainKernel, ChainStep, Leaves, register
from ..core.finite import apply_if_leaf_finite, not_finite
from ..core.protocol import GradientTransformation, members
from ..core.state import advance
from ..ops.microadam import HYPER, LEAF, microadam_, microadam_table
from ..ops.registry import has_kernel
from ..ops.tables import LeafTable
from ..transforms.error_feedback import ErrorFeedback
from ..transforms.learning_rate import scale_by_learning_rate
from ..transforms.sliding_window import sliding_window_adam
from ..transforms.weight_decay import _AddDecayedWeights
from ._kernel_rows import detached, rows_of, signs_of

_DTYPES = (torch.float32, torch.bfloat16)


class Members(NamedTuple):
    """The members of a chain that matches, and where they stand in it."""

    nonfinite: str
    compressor: block_top_k
    quantizer: affine
    adam: sliding_window_adam
    sources: tuple[tuple[str, Any], ...]  # members with values, in the order of their states


class MicroAdamKernel(ChainKernel):
    """``gradtx::microadam_`` for chains of the form of ``microadam``."""

    name = "microadam kernel"

    def match(self, tx: GradientTransformation) -> Members | str | None:
        found: list[tuple[str, Any]] = [
            (path, m) for path, m in members(tx) if not isinstance(m, Chain)
        ]
        if not any(isinstance(m, sliding_window_adam) for _, m in found):
            return None
        nonfinite = "ignore"
        if found and type(found[0][1]) is apply_if_leaf_finite:
            (outer, finite), *found = found
            nonfinite = finite.otherwise
            outside = [p for p, _ in found if not p.startswith(f"{outer}.".lstrip("."))]
            if outside:
                return f"{outside[0]} stands outside {outer}"
        return _members(nonfinite, found)

    def bind(self, found: Members, leaves: Leaves) -> MicroAdamStep | str:
        device = leaves.params[0].device.type.upper()
        if not has_kernel("microadam_", device):
            return f"microadam_ has no kernel for {device}"
        if leaves.extra:
            return f"the chain gets {', '.join(leaves.extra)}"
        if len(leaves.shared) != sum(hyper_.is_scheduled(tx) for _, tx in found.sources):
            return "the state has other step counts"
        each = zip(leaves.params, leaves.grads, leaves.states, strict=True)
        for i, (p, g, states) in enumerate(each):
            if (why := _misfit(found, p, g, states)) is not None:
                return f"parameter {i} {why}"
        return MicroAdamStep(found, leaves)


class MicroAdamStep(ChainStep):
    """Steps of some leaves."""

    def __init__(self, found: Members, leaves: Leaves) -> None:
        self._found = found
        self._params, self._states = list(leaves.params), list(leaves.states)
        self._dtypes = [g.dtype for g in leaves.grads]
        blocks = [found.compressor.blocks(p.numel()) for p in leaves.params]
        self._sizes = [b.size for b in blocks]
        self._kept = [b.k for b in blocks]
        self._columns = [list(column) for column in zip(*leaves.states, strict=True)]
        self._table = None
        if leaves.params[0].is_cpu and microadam_table.is_there:
            self._table = self._tabulated()

    @property
    def may_raise(self) -> bool:
        return self._found.nonfinite == "raise"

    def run(
        self, leaves: Leaves, grads: list[Tensor], at: np.ndarray, name: Callable[[int], str]
    ) -> None:
        nonfinite = self._found.nonfinite
        finite = self._step(leaves, grads, at)
        if nonfinite == "raise" and not bool(finite.all()):
            raise not_finite("apply_if_leaf_finite", name(finite.tolist().index(False)))
        for count in leaves.shared:
            count.copy_(advance(count))

    def _step(self, leaves: Leaves, grads: list[Tensor], at: np.ndarray) -> Tensor:
        """One step, and which gradients are finite."""
        found, table = self._found, self._table
        hyper, signs = rows_of(found.sources, HYPER, leaves), signs_of(leaves)
        quant, zero = found.quantizer.block_size, found.quantizer.include_zero
        by_window = found.adam.bias_correction == "window"
        if table is None:
            sizes = (self._sizes, self._kept)
            lists = (self._params, detached(grads), *self._columns, hyper, leaves.rows, signs)
            return microadam_(*lists, *sizes, quant, zero, by_window, found.nonfinite)
        for field, values in (("grads", at), ("rows", leaves.rows), ("signs", signs)):
            table.put(field, values)
        finite = torch.empty(len(grads), dtype=torch.bool, device="cpu")
        checks, raises = found.nonfinite != "ignore", found.nonfinite == "raise"
        microadam_table(table, hyper, quant, zero, by_window, checks, raises, finite)
        return finite

    def _tabulated(self) -> LeafTable:
        """The leaves as a table; what steps give is still zero."""
        codes, lo, hi, steps, indices, values = self._columns
        bf16 = torch.bfloat16
        return LeafTable(
            LEAF,
            params=self._params,
            codes=codes,
            lo=lo,
            hi=hi,
            steps=steps,
            indices=indices,
            values=values,
            numel=[p.numel() for p in self._params],
            block_sizes=self._sizes,
            kept=self._kept,
            window=[x.shape[0] for x in indices],
            columns=[x.shape[1] for x in indices],
            bf16_params=[p.dtype == bf16 for p in self._params],
            bf16_grads=[dtype == bf16 for dtype in self._dtypes],
        )

    def moved(self) -> int:
        total = 0
        checks = self._found.nonfinite != "ignore"
        for p, dtype, states in zip(self._params, self._dtypes, self._states, strict=True):
            codes, lo, hi, _, indices, values = states
            error, window = codes.nbytes + lo.nbytes + hi.nbytes, indices.nbytes + values.nbytes
            total += p.numel() * dtype.itemsize + 2 * p.nbytes + 2 * error + window
            if checks and p.is_cpu:  # copies of what may have to be taken back
                total += error + window // len(indices)
            elif checks:
                total += p.numel() * dtype.itemsize
        return total


register(MicroAdamKernel())


def _members(nonfinite: str, found: list[tuple[str, Any]]) -> Members | str:
    """The members, once they are those that the operator computes with options that it knows."""
    kinds = [type(m) for _, m in found]
    if len(found) == 4 and kinds[2] is _AddDecayedWeights and not found[2][1].cautious:
        kinds.pop(2)
    if kinds != [ErrorFeedback, sliding_window_adam, scale_by_learning_rate]:
        names = ", ".join(path.rpartition(".")[2] for path, _ in found)
        return f"it computes error_feedback, weight decay and the learning rate, not {names}"
    feedback, adam, rate = found[0][1], found[1][1], found[-1][1]
    keep, codec = feedback.compressor, feedback.quantizer
    wanted = {
        "the compressor must be block_top_k": type(keep) is block_top_k,
        "window and error feedback must have one compressor": adam.compressor == keep,
        "the window must be kept in bfloat16": adam.state_dtype == torch.bfloat16,
        "the error must be kept by codecs.affine": type(codec) is affine,
    }
    if all(wanted.values()):
        rounding = (codec.bits, codec.rounding, codec.stats_dtype)
        wanted = {
            "the error must have 4 bits, rounded to nearest, with bfloat16 ranges": rounding
            == (4, "nearest", torch.bfloat16),
            "ranges must be of an even number of elements": codec.block_size % 2 == 0,
            "no error may be released into updates": (feedback.release, feedback.leftover)
            == (0.0, "drop"),
            "error feedback must not round to the parameter's dtype": not feedback.in_param_dtype,
            "the learning rate must turn the sign": rate.flip_sign,
        }
    for what, holds in wanted.items():
        if not holds:
            return what
    return Members(nonfinite, keep, codec, adam, tuple(found[1:]))


def _misfit(found: Members, p: Tensor, g: Tensor, states: list[Tensor]) -> str | None:
    """Why a leaf, or the state it has, is none that the operator updates."""
    blocks, quant = found.compressor.blocks(p.numel()), found.quantizer.block_size
    if p.dtype not in _DTYPES or g.dtype not in _DTYPES:
        return f"is {p.dtype}, its gradient {g.dtype}; both must be float32 or bfloat16"
    if blocks.size < p.numel() and blocks.size % quant:
        return f"has blocks of {blocks.size}, which ranges of {quant} do not divide"
    ranges, window = -(-p.numel() // quant), (found.adam.window, blocks.kept)
    want = (
        ((-(-p.numel() // 2),), torch.uint8),
        ((ranges,), torch.bfloat16),
        ((ranges,), torch.bfloat16),
        ((), torch.int32),
        (window, torch.int16),
        (window, torch.bfloat16),
    )
    if [(tuple(x.shape), x.dtype) for x in states] != list(want):
        return "has a state of another form"
    if not all(x.is_contiguous() and not x.is_neg() for x in (p, *states)):
        return "or its state is not contiguous"
    indices = states[4]
    if not indices.numel() or not p.is_cpu:
        return None
    low, high = torch.aminmax(indices)
    return None if bool((low >= 0) & (high < blocks.size)) else "has indices outside of its blocks"
