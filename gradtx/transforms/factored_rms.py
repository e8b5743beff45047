"""Adafactor's second moment: row and column means instead of a full matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import TreeMismatchError
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roots import nonzero, root
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype


class ScaleByFactoredRmsState(NamedTuple):
    """State of ``scale_by_factored_rms``; a leaf has ``v_row`` and ``v_col``, or ``v``.

    Attributes:
        step: int32, updates done for this leaf.
        v_row: means of squares over one of the two factored dimensions, which it lacks, or ().
        v_col: means of squares over the other one, or ().
        v: average of squares of a leaf that is not factored, or ().
    """

    step: Tensor
    v_row: Tensor | tuple[()]
    v_col: Tensor | tuple[()]
    v: Tensor | tuple[()]


@dataclass(frozen=True)
class scale_by_factored_rms(LeafTransform):
    """Divide updates by the root of a second moment kept as row and column means.

    d = 1 - (t - step_offset)^-decay_rate;  r, c <- d r, c + (1 - d) row, column means of
    u^2 + epsilon;  s = sqrt(r c / max(mean(r), floor));  update = u / max(s, floor).
    A leaf with fewer than two large enough dimensions keeps the average of u^2 + epsilon itself.

    From updates of about 1e19 on, whose squares overflow float32, factors of the second moment are
    infinite and what they multiply to NaN, where a dense moment gives zero steps.

    Args:
        factored: False keeps full second moments for all leaves.
        decay_rate: exponent of the decay, >= 0.
        step_offset: subtracted from the number of updates.
        min_dim_size_to_factor: smallest size of the two dimensions of a factored leaf.
        epsilon: added to the squares.
        floor: lower bound of the root and of the mean of r.
        factored_dims: "largest" two dimensions, or the "last" two (torch.optim.Adafactor).

    Raises:
        ValueError: a value outside its interval or unknown ``factored_dims``.
        TreeMismatchError: an update of another shape than the state was made for.

    Source: arXiv 1804.04235.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_factored_rms(min_dim_size_to_factor=2)
    >>> updates, state = tx.update({"w": torch.full((2, 3), 5.0)}, tx.init({"w": torch.ones(2, 3)}))
    >>> updates["w"][0], state["w"].v_row.shape, state["w"].v
    (tensor([1., 1., 1.]), torch.Size([2]), ())
    """

    factored: bool = static(True)
    decay_rate: Hyper = dynamic(0.8, within="[0, inf)")
    step_offset: Hyper = dynamic(0)
    min_dim_size_to_factor: int = static(128)
    epsilon: Hyper = dynamic(1e-30, within="[0, inf)")
    floor: Hyper = dynamic(0.0, within="[0, inf)")
    factored_dims: str = static("largest", choices=("largest", "last"))

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByFactoredRmsState:
        dims = self._dims(p.shape)
        if dims is None:
            return ScaleByFactoredRmsState(new_count([p]), (), (), state_zeros(p))
        row, col = dims

        def without(dim: int) -> Tensor:
            shape = [n for i, n in enumerate(p.shape) if i != dim]
            return p.new_zeros(shape, dtype=accumulator_dtype(p.dtype))

        return ScaleByFactoredRmsState(new_count([p]), without(col), without(row), ())

    def update_leaf(
        self, u: Tensor, s: ScaleByFactoredRmsState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByFactoredRmsState]:
        step = advance(s.step)
        age = torch.clamp(step.to(u.dtype) - h.step_offset, min=1)
        share = age ** (-h.decay_rate)
        square = u * u + h.epsilon
        floor = nonzero(h.floor, u.dtype) * torch.ones_like(share)
        dims = self._dims(u.shape)
        if dims is None and isinstance(s.v, Tensor):
            v = _move(s.v, square, share)
            out = u / torch.maximum(root(v), floor)
            return out, ScaleByFactoredRmsState(step, (), (), v.to(s.v.dtype))
        if dims is not None and isinstance(s.v_row, Tensor) and isinstance(s.v_col, Tensor):
            row, col = dims
            v_row = _move(s.v_row, square.mean(dim=col), share)
            v_col = _move(s.v_col, square.mean(dim=row), share)
            mean = v_row.mean(dim=row - 1 if row > col else row, keepdim=True)
            # Two roots: the product of two tiny means may be zero in float32.
            row_root = root(v_row / torch.maximum(mean, floor)).unsqueeze(col)
            out = u / torch.maximum(row_root * root(v_col).unsqueeze(row), floor)
            return out, ScaleByFactoredRmsState(
                step, v_row.to(s.v_row.dtype), v_col.to(s.v_col.dtype), ()
            )
        raise TreeMismatchError(
            f"{self.name}: an update of shape {tuple(u.shape)} does not fit its state, "
            "which was made for a parameter of another shape"
        )

    def _dims(self, shape: torch.Size) -> tuple[int, int] | None:
        """The dimensions whose indices ``v_row`` and ``v_col`` keep, or None: not factored."""
        if not self.factored or len(shape) < 2 or 0 in shape:
            return None
        order = list(range(len(shape)))
        if self.factored_dims == "largest":
            order = sorted(order, key=lambda i: shape[i])
        row, col = order[-2], order[-1]
        return None if min(shape[row], shape[col]) < self.min_dim_size_to_factor else (row, col)


def _move(old: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """The average with weight ``share`` on the new value, exact also when the share is tiny."""
    old = old.to(new.dtype)
    return old + share * (new - old)
