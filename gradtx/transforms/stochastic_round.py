"""Stochastic rounding of bfloat16 parameters as the last member of a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..core.execution import Execution
from ..core.hyper import Values, static
from ..core.leaves import LeafInfo
from ..core.numbered import Part, numbers_of
from ..core.random import Seed, derived_key, next_key, random_bits16, seed_field
from ..core.rounding import round_stochastically
from ..core.transform import LeafTransform


class StochasticRoundState(NamedTuple):
    """State of ``stochastic_round``.

    Attributes:
        key: int64 (2,), the leaf's stream of random numbers and its position; () for leaves that
            are not bfloat16.
    """

    key: Tensor | tuple[()]


@dataclass(frozen=True)
class stochastic_round(LeafTransform):
    """Make bfloat16 parameters round stochastically when the update is applied.

    u <- round(p + u) - p, with ``round`` as in ``gx.round_stochastically``. ``apply_updates`` then
    arrives at the rounded value exactly, for every update below 2^127. It belongs at the end of a
    chain, after the learning rate. Leaves of other dtypes pass through. The random numbers of a
    leaf depend on the seed, the leaf's name and the number of updates alone; a restored state
    continues the stream.

    Args:
        seed: an integer of at most 64 bits, or a 0-d integer tensor.
        clamp: keep finite parameters finite instead of rounding up to infinity.

    Raises:
        ValueError: a bad seed, or no parameters given to ``update``.

    Source: arXiv 2010.06192.

    >>> import torch, gradtx as gx
    >>> tx = gx.stochastic_round()
    >>> params = {"w": torch.ones(10000, dtype=torch.bfloat16)}
    >>> small = {"w": torch.full((10000,), 2.0**-11)}  # a sixteenth of a bfloat16 step
    >>> updates, _ = tx.update(small, tx.init(params), params)
    >>> moved = gx.apply_updates(params, updates)["w"].float()
    >>> f"{(moved.mean() - 1) * 2**11:.1f}", moved.unique().tolist()
    ('1.0', [1.0, 1.0078125])
    """

    requires_params: ClassVar[bool] = True
    execution: ClassVar[Execution] = Execution(of_part=lambda tx: _RoundParts(tx.seed, tx.clamp))

    seed: Seed = seed_field()
    clamp: bool = static(False)

    def init_leaf(self, p: Tensor, info: LeafInfo) -> StochasticRoundState:
        if info.dtype != torch.bfloat16:
            return StochasticRoundState(())
        return StochasticRoundState(derived_key(self.seed, info.name, p.device))

    def update_leaf(
        self, u: Tensor, s: StochasticRoundState, p: Tensor, h: Values
    ) -> tuple[Tensor, StochasticRoundState]:
        if not isinstance(s.key, Tensor):
            return u, s
        moved = (p + u).to(torch.float32)
        # A compiler generates code for plain operations; what fuses chains knows the operators.
        compiling = torch.compiler.is_compiling()
        to_bfloat16 = round_stochastically if compiling else ops.round_stochastic
        random_bits = self._draw(s.key, u.numel(), h).reshape(u.shape)
        rounded = to_bfloat16(moved, random_bits, self.clamp).to(p.dtype)
        # Exact: where the difference does not fit into float32, its error is far below half a
        # step of the bfloat16 value at which adding p arrives. Adding to an infinite p would not
        # be, so what is not finite keeps its update.
        change = torch.where(torch.isfinite(moved), rounded - p, u)
        return change, StochasticRoundState(next_key(s.key))

    def _draw(self, key: Tensor, numel: int, h: Values) -> Tensor:
        """Random integers of 16 bits."""
        draw = random_bits16 if torch.compiler.is_compiling() else ops.random_bits16
        return draw(key, numel)


@dataclass(frozen=True)
class _RoundParts(Part, stochastic_round):
    """The same for parts of leaves."""

    def _draw(self, key: Tensor, numel: int, h: Values) -> Tensor:
        numbers = numbers_of(h)
        if torch.compiler.is_compiling() or not all(isinstance(x, Tensor) for x in numbers):
            return random_bits16(key, numel, numbers)
        return ops.random_bits16_of_part(key, numel, *numbers)
