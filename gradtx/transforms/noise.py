"""Gaussian gradient noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.numbered import Part, numbers_of
from ..core.random import Numbers, Seed, derived_key, next_key, normal, seed_field
from ..core.roots import root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform


class AddNoiseState(NamedTuple):
    """State of ``add_noise``.

    Attributes:
        step: int32, updates done for this leaf.
        key: int64 (2,), the leaf's stream of random numbers and its position.
    """

    step: Tensor
    key: Tensor


@dataclass(frozen=True)
class add_noise(LeafTransform):
    """Add Gaussian noise of shrinking variance: ``u <- u + N(0, eta / t^gamma)``, t = 1, 2, ...

    The noise of a leaf depends on the seed, the leaf's name and the number of updates alone: it
    is the same on every device, and a restored state continues the stream exactly. The members
    of an ensemble under ``vmap`` draw noise of their own if the seed is mapped over.

    Args:
        eta: variance of the first noise, >= 0.
        gamma: how fast the variance shrinks, >= 0.
        seed: an integer of at most 64 bits, or a 0-d integer tensor.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1511.06807.

    >>> import torch, gradtx as gx
    >>> tx = gx.add_noise(eta=0.01, gamma=0.55, seed=0)
    >>> params = {"w": torch.zeros(1000)}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> f"{updates['w'].std():.2f}", state["w"].step.item()
    ('0.10', 1)
    """

    execution: ClassVar[Execution] = Execution(
        of_part=lambda tx: _AddNoiseToParts(tx.eta, tx.gamma, tx.seed)
    )

    eta: Hyper = dynamic(within="[0, inf)")
    gamma: Hyper = dynamic(within="[0, inf)")
    seed: Seed = seed_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> AddNoiseState:
        key = derived_key(self.seed, info.name, p.device)
        return AddNoiseState(new_count([p]), key)

    def update_leaf(
        self, u: Tensor, s: AddNoiseState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, AddNoiseState]:
        count = advance(s.step)
        deviation = root(h.eta / count.to(u.dtype) ** h.gamma)
        noise = normal(s.key, u.shape, u.dtype, self._numbers(h))
        return u + deviation * noise, AddNoiseState(count, next_key(s.key))

    def _numbers(self, h: Values) -> Numbers | None:
        """Those of elements, where they are part of a leaf."""
        return None


@dataclass(frozen=True)
class _AddNoiseToParts(Part, add_noise):
    """The noise of parts of leaves."""

    def _numbers(self, h: Values) -> Numbers:
        return numbers_of(h)
