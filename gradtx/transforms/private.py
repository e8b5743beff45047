"""Differentially private gradients: clipped example by example, added up, with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..core import tree
from ..core.hyper import Hyper, dynamic, static
from ..core.protocol import GradientTransformation
from ..core.random import Seed, check_seed, make_key, next_key, normal
from ..core.state import advance, new_count
from ..core.tree import PyTree
from ..core.tree_dtypes import split_key_like
from .per_example import per_example_global_norm_clip


class PrivateState(NamedTuple):
    """State of ``differentially_private_aggregate``.

    Attributes:
        step: int32, updates done.
        key: int64 (2,), the stream of random numbers and its position.
    """

    step: Tensor
    key: Tensor


@dataclass(frozen=True)
class differentially_private_aggregate(GradientTransformation):
    """The mean of clipped per-example gradients, with noise: DP-SGD's first member of a chain.

    u <- (sum_i clip(g_i) + l2_norm_clip noise_multiplier N(0, I)) / B, where clip takes the norm
    of an example's gradient, all leaves together, down to ``l2_norm_clip``.

    Updates have the B examples in their first dimension, parameters do not: ``torch.func.vmap`` of
    ``torch.func.grad`` gives them. Averages over calls (``multi_steps``) must not come before it.

    Args:
        l2_norm_clip: largest norm of an example's gradient, >= 0.
        noise_multiplier: deviation of the noise as a multiple of it, >= 0.
        seed: an integer of at most 64 bits, or a 0-d integer tensor.

    Raises:
        ValueError: a value outside its range, or leaves of different numbers of examples.

    Source: arXiv 1607.00133.

    >>> import torch, gradtx as gx
    >>> tx = gx.differentially_private_aggregate(1.0, noise_multiplier=0.0, seed=0)
    >>> state = tx.init({"w": torch.zeros(2)})
    >>> tx.update({"w": torch.tensor([[3.0, 4.0], [0.0, 0.4]])}, state)[0]
    {'w': tensor([0.3000, 0.6000])}
    """

    l2_norm_clip: Hyper = dynamic(within="[0, inf)")
    noise_multiplier: Hyper = dynamic(within="[0, inf)")
    seed: Seed = static(0)

    def __post_init__(self) -> None:
        check_seed(self.name, self.seed)

    def init(self, params: PyTree) -> PrivateState:
        step = new_count(tree.leaves(params))
        return PrivateState(step, make_key(self.seed, device=step.device))

    def update(
        self, updates: PyTree, state: PrivateState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PrivateState]:
        summed, _ = per_example_global_norm_clip(updates, self._common(updates, extra, state))
        h = self.values(updates, extra, state.step)
        keys = split_key_like(state.key, summed)

        def noisy(g: Tensor, examples: Tensor, key: Tensor, own: Any) -> Tensor:
            wide = tree.accumulator(g)
            deviation = own.l2_norm_clip * own.noise_multiplier
            noise = normal(key, tuple(wide.shape), wide.dtype)
            return ((wide + deviation * noise) / examples.shape[0]).to(wide.dtype)

        new = tree.map(noisy, summed, updates, keys, h)
        return new, PrivateState(advance(state.step), next_key(state.key))

    def _common(self, updates: PyTree, extra: Any, state: PrivateState) -> Any:
        """The bound of norms, which is one for all leaves."""
        return tree.leaves(self.values(updates, extra, state.step))[0].l2_norm_clip
