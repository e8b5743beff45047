"""The pattern of ``gx.microadam``: quantised error feedback around Adam over a sparse window."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...codecs import affine
from ...compressors import block_top_k
from ...core import hyper as hyper_
from ...core.chain import Chain
from ...core.finite import apply_if_leaf_finite, not_finite
from ...core.protocol import GradientTransformation, members
from ...core.state import advance
from ...ops.microadam import HYPER, microadam_
from ...ops.registry import has_kernel
from ...transforms.error_feedback import ErrorFeedback
from ...transforms.learning_rate import scale_by_learning_rate
from ...transforms.sliding_window import sliding_window_adam
from ...transforms.weight_decay import _AddDecayedWeights
from ..frontend.memory import Spans
from ..ir.errors import CannotFuseError
from .batch import Batch
from .patterns import Matched

_DTYPES = (torch.float32, torch.bfloat16)


class Members(NamedTuple):
    """The members of a chain that matches, and where they stand in it."""

    nonfinite: str
    compressor: block_top_k
    quantizer: affine
    adam: sliding_window_adam
    sources: tuple[tuple[str, Any], ...]  # members with values, in the order of their states


class MicroAdam(Matched):
    """Leaves of ``gx.microadam``."""

    label: ClassVar[str] = "microadam kernel"

    def __init__(self, found: Members, batch: Batch, spans: Spans) -> None:
        super().__init__(batch, spans)
        self.found = found
        blocks = [found.compressor.blocks(p.numel()) for p in batch.params]
        self.sizes = [b.size for b in blocks]
        self.kept = [b.k for b in blocks]
        self.columns = [list(column) for column in zip(*batch.states, strict=True)]

    @staticmethod
    def match(tx: GradientTransformation, batch: Batch, spans: Spans) -> MicroAdam | None:
        found = match(tx)
        key = batch.params[0].device.type.upper()
        if found is None or batch.extra or not has_kernel("microadam_", key):
            return None
        leaves = zip(batch.params, batch.grads, batch.states, strict=True)
        if not all(_covered(found, p, g, states) for p, g, states in leaves):
            return None
        if len(batch.shared) != sum(hyper_.is_scheduled(tx) for _, tx in found.sources):
            return None
        return MicroAdam(found, batch, spans)

    @property
    def fails_late(self) -> bool:
        return self.found.nonfinite == "raise"

    def step(self, batch: Batch, grads: list[Tensor]) -> None:
        scheduled = [tx for _, tx in self.found.sources if hyper_.is_scheduled(tx)]
        counts = dict(zip(map(id, scheduled), batch.shared, strict=True))
        rows = [[0.0] * len(HYPER) for _ in batch.hyper]
        for path, tx in self.found.sources:
            declared = hyper_.values_at(tx, counts.get(id(tx)))
            for r, given in enumerate(batch.hyper):
                for name, value in declared.items():
                    value = given.get(f"{path}.{name}".lstrip("."), value)
                    rows[r][HYPER.index(name)] = _number(value)
        finite = microadam_(
            batch.params,
            grads,
            *self.columns,
            torch.tensor(rows, dtype=torch.float64, device="cpu"),
            batch.rows,
            [-1 if turned else 1 for turned in batch.maximize or [False] * len(grads)],
            self.sizes,
            self.kept,
            self.found.quantizer.block_size,
            self.found.quantizer.include_zero,
            self.found.adam.bias_correction == "window",
            self.found.nonfinite,
        )
        if self.found.nonfinite == "raise" and not bool(finite.all()):
            bad = self.name(finite.tolist().index(False))
            raise not_finite("apply_if_leaf_finite", bad)
        for count in batch.shared:
            count.copy_(advance(count))

    def moved(self) -> int:
        total = 0
        checks = self.found.nonfinite != "ignore"
        for p, dtype, states in zip(self.batch.params, self.dtypes, self.batch.states, strict=True):
            codes, lo, hi, _, indices, values = states
            error, window = codes.nbytes + lo.nbytes + hi.nbytes, indices.nbytes + values.nbytes
            total += p.numel() * dtype.itemsize + 2 * p.nbytes + 2 * error + window
            if checks and p.is_cpu:  # copies of what may have to be taken back
                total += error + window // len(indices)
            elif checks:
                total += p.numel() * dtype.itemsize
        return total


def match(tx: GradientTransformation) -> Members | None:
    """The members of a chain that the operator computes, None for any other chain."""
    found = [(path, m) for path, m in members(tx) if not isinstance(m, Chain)]
    nonfinite = "ignore"
    if found and type(found[0][1]) is apply_if_leaf_finite:
        outer, finite = found.pop(0)
        nonfinite = finite.otherwise  # type: ignore[attr-defined]
        if not all(path.startswith(f"{outer}.".lstrip(".")) for path, _ in found):
            return None
    kinds = [type(m) for _, m in found]
    if len(found) == 4 and kinds[2] is _AddDecayedWeights and not found[2][1].cautious:  # type: ignore[attr-defined]
        kinds.pop(2)
    if kinds != [ErrorFeedback, sliding_window_adam, scale_by_learning_rate]:
        return None
    feedback: Any = found[0][1]
    adam: Any = found[1][1]
    rate: Any = found[-1][1]
    keep, codec = feedback.compressor, feedback.quantizer
    plain = (
        type(keep) is block_top_k
        and adam.compressor == keep
        and adam.state_dtype == torch.bfloat16
        and type(codec) is affine
        and (codec.bits, codec.rounding, codec.stats_dtype) == (4, "nearest", torch.bfloat16)
        and codec.block_size % 2 == 0
        and (feedback.release, feedback.leftover) == (0.0, "drop")
        and not feedback.in_param_dtype
        and rate.flip_sign
    )
    return Members(nonfinite, keep, codec, adam, tuple(found[1:])) if plain else None


def _covered(found: Members, p: Tensor, g: Tensor, states: list[Tensor]) -> bool:
    """Whether a leaf is of a kind that the operator updates, with the state that it expects."""
    blocks, quant = found.compressor.blocks(p.numel()), found.quantizer.block_size
    whole = blocks.size >= p.numel() or blocks.size % quant == 0
    if p.dtype not in _DTYPES or g.dtype not in _DTYPES or not whole or len(states) != 6:
        return False
    ranges, window = -(-p.numel() // quant), (found.adam.window, blocks.kept)
    want = (
        ((-(-p.numel() // 2),), torch.uint8),
        ((ranges,), torch.bfloat16),
        ((ranges,), torch.bfloat16),
        ((), torch.int32),
        (window, torch.int16),
        (window, torch.bfloat16),
    )
    if not all(x.is_contiguous() and not x.is_neg() for x in (p, *states)):
        return False
    if any((tuple(x.shape), x.dtype) != w for x, w in zip(states, want, strict=True)):
        return False
    indices = states[4]
    if not indices.numel() or not p.is_cpu:
        return True
    low, high = torch.aminmax(indices)
    return bool((low >= 0) & (high < blocks.size))


def _number(value: Any) -> float:
    """A hyperparameter as the chain sees it: tensors arrive in the dtype of updates."""
    if not isinstance(value, Tensor):
        return float(value)
    if value.ndim:
        raise CannotFuseError("", "a hyperparameter has one value an entry")
    return float(value.to(torch.float32))
