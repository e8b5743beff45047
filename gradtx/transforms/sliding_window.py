"""Moments rebuilt at every step from the last few, possibly sparse, updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..compressors import Blocks, SparseCompressor
from ..core.errors import TreeMismatchError
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo, SparseUpdate
from ..core.quotient import atan2
from ..core.roots import divide_by_sum
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from ..ops import window_moments

_DTYPES = (torch.float32, torch.bfloat16)


class SlidingWindowState(NamedTuple):
    """State of ``sliding_window_moments`` and ``sliding_window_adam``.

    Attributes:
        step: int32, updates done for this leaf; update t is in row (t - 1) mod window.
        indices: (window, kept), positions inside their block, int16 for ``block_top_k``; () for
            dense updates.
        values: (window, kept), entries of the last updates.
    """

    step: Tensor
    indices: Tensor | tuple[()]
    values: Tensor


@dataclass(frozen=True)
class _SlidingWindow(LeafTransform):
    accepts: ClassVar[tuple[type, ...]] = (Tensor, SparseUpdate)

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    window: int = static(10, at_least=1, steps=True)
    compressor: SparseCompressor | None = static(None)
    bias_correction: Literal["steps", "window"] = static("steps")
    state_dtype: torch.dtype = static(torch.bfloat16, choices=_DTYPES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compressor is not None and not isinstance(self.compressor, SparseCompressor):
            raise TypeError(
                f"{self.name}: compressor must be a sparse one such as gx.compressors.block_top_k, "
                f"or None, got {type(self.compressor).__name__}"
            )

    def combine(self, first: Tensor, root: Tensor, h: Values) -> Tensor:
        """The update from the first moment and the root of the second one."""
        raise NotImplementedError

    def init_leaf(self, p: Tensor, info: LeafInfo) -> SlidingWindowState:
        indices: Tensor | tuple[()] = ()
        kept = p.numel()
        if self.compressor is not None:
            blocks = self.compressor.blocks(kept)
            kept = blocks.kept
            indices = p.new_zeros((self.window, kept), dtype=blocks.dtype)
        values = p.new_zeros((self.window, kept), dtype=self.state_dtype)
        return SlidingWindowState(new_count([p]), indices, values)

    def update_leaf(
        self, u: Any, s: SlidingWindowState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SlidingWindowState]:
        numel = torch.Size(u.shape).numel()
        blocks = self._blocks(u, s, numel)
        rows = torch.arange(self.window, dtype=torch.int64, device=s.values.device)
        here = (rows == s.step % self.window)[:, None]
        step = advance(s.step, self.window)
        ages = torch.remainder(s.step - rows, self.window)
        count = torch.clamp(step, max=self.window) if self.bias_correction == "window" else step
        weights = [torch.where(rows < step, _powers(b, ages), 0.0) for b in (h.b1, h.b2)]
        gains = [(1 - b) / one_minus_power(b, count, torch.float64) for b in (h.b1, h.b2)]
        w1, w2, g1, g2 = (x.to(u.dtype) for x in (*weights, *gains))
        new = u.values if isinstance(u, SparseUpdate) else u.reshape(-1)
        values = torch.where(here, new.to(s.values.dtype), s.values)
        indices: Tensor | tuple[()] = ()
        if blocks is None:
            v = values.to(u.dtype)
            first, second = (w1[:, None] * v).sum(0), (w2[:, None] * (v * v)).sum(0)
        else:
            assert isinstance(s.indices, Tensor)
            indices = torch.where(here, u.indices, s.indices)
            first, second = window_moments(indices, values, w1, w2, numel, blocks.size, blocks.k)
        out = self.combine(g1 * first, _root(g2 * second), h).reshape(u.shape)
        return out, SlidingWindowState(step, indices, values)

    def _blocks(self, u: Any, s: SlidingWindowState, numel: int) -> Blocks | None:
        """How entries of the update are laid out; None for a dense one.

        Raises:
            TreeMismatchError: the update is not what the compressor makes, or the state was made
                for another window or compressor.
        """
        if (self.compressor is None) == isinstance(u, SparseUpdate):
            raise TreeMismatchError(
                f"{self.name}: the update is a {type(u).__name__}, but compressor is "
                f"{self.compressor!r}; give the compressor that makes the updates, or None for "
                "dense ones"
            )
        blocks = None if self.compressor is None else self.compressor.blocks(numel)
        want = (self.window, numel if blocks is None else blocks.kept)
        got = None if blocks is None else u.indices.shape
        if s.values.shape != want or (got is not None and got != want[1:]):
            raise TreeMismatchError(
                f"{self.name}: a leaf of shape {tuple(u.shape)} has {want[1]} entries in each of "
                f"{want[0]} rows, the state has shape {tuple(s.values.shape)}"
                + (f", the update {tuple(got)}" if got is not None else "")
            )
        return blocks


def _root(x: Tensor) -> Tensor:
    """The square root, with a derivative of zero at zero."""
    return torch.where(x == 0, 0.0, torch.sqrt(torch.where(x == 0, 1.0, x)))


def _powers(decay: float | Tensor, ages: Tensor) -> Tensor:
    """``decay**age`` in float64."""
    ages = ages.to(torch.float64)
    if isinstance(decay, Tensor):
        return decay.to(torch.float64) ** ages
    return torch.pow(torch.full_like(ages, decay), ages)


@dataclass(frozen=True)
class sliding_window_moments(_SlidingWindow):
    """Adam's bounded step, from moments over a window of the last updates.

    With update i of age s_i = t - i, over the last ``window`` updates,
    m = (1 - b1) / (1 - b1^t) sum b1^s_i u_i and v = (1 - b2) / (1 - b2^t) sum b2^s_i u_i^2; the
    update is 4/pi atan2(m, sqrt(v)), and zero where the window has no entry. Sparse updates are
    kept sparse.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        window: updates that are remembered, >= 1.
        compressor: what makes the updates that arrive, None for dense ones.
        bias_correction: exponent t in the gains: "steps" done, or at most the "window", which
            makes the weights sum to one.
        state_dtype: float32 or bfloat16, of the remembered values.

    Raises:
        ValueError: a value outside its range.
        TypeError: a compressor of another kind.

    Source: arXiv 2405.15593, arXiv 2407.05872.

    >>> import torch, gradtx as gx
    >>> tx = gx.sliding_window_moments(window=4)
    >>> tx.update({"w": torch.tensor([2.0, -1.0, 0.0])}, tx.init({"w": torch.zeros(3)}))[0]
    {'w': tensor([ 1., -1.,  0.])}
    """

    def combine(self, first: Tensor, root: Tensor, h: Values) -> Tensor:
        there = (root != 0) | (first != 0)
        return torch.where(there, atan2(first, torch.where(there, root, 1.0)), 0.0)


@dataclass(frozen=True)
class sliding_window_adam(_SlidingWindow):
    """Adam whose moments are those of a window of the last updates.

    With the moments m and v of ``sliding_window_moments`` the update is m / (sqrt(v) + eps), zero
    where the window has no entry. With bias_correction="steps" a full window's weights sum to
    (1 - b^window) / (1 - b^t): late in training the step of an entry grows, by up to 6.5 with the
    defaults.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        window: updates that are remembered, >= 1.
        compressor: what makes the updates that arrive, None for dense ones.
        bias_correction: exponent t in the gains: "steps" done, or at most the "window", which
            makes the weights sum to one.
        state_dtype: float32 or bfloat16, of the remembered values.
        eps: added to the root, > 0.

    Raises:
        ValueError: a value outside its range.
        TypeError: a compressor of another kind.

    Source: arXiv 2405.15593.

    >>> import torch, gradtx as gx
    >>> keep = gx.compressors.block_top_k(0.3)
    >>> tx = gx.chain(gx.compress(keep), gx.sliding_window_adam(compressor=keep))
    >>> tx.update({"w": torch.tensor([2.0, -1.0, 0.0])}, tx.init({"w": torch.zeros(3)}))[0]
    {'w': tensor([1., 0., 0.])}
    """

    eps: Hyper = dynamic(1e-8, within="(0, inf)")

    def combine(self, first: Tensor, root: Tensor, h: Values) -> Tensor:
        return divide_by_sum(first, root, h.eps)
