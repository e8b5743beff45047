"""Step sizes from how far every leaf has come: layer-wise DoG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.roots import divide, root
from ..core.transform import LeafTransform
from ..core.tree import accumulator, squared_norm


class LayerDistanceState(NamedTuple):
    """State of ``scale_by_distance_over_gradients``.

    Attributes:
        p0: the parameter at ``init``.
        distance: 0-d, largest distance from there so far.
        squares: 0-d, sum of squared norms of gradients.
    """

    p0: Tensor
    distance: Tensor
    squares: Tensor


@dataclass(frozen=True)
class scale_by_distance_over_gradients(LeafTransform):
    """Multiply by a leaf's distance from the start over the root of its summed squared norms.

    r <- max(r, ||p - p0||);  G <- G + ||u||^2;  update = r / sqrt(G + eps) u, leaf by leaf; at
    the start r = reps_rel (1 + ||p0||). ``scale_by_dog`` does this for all leaves together.

    Args:
        reps_rel: the first distance as a share of the parameter's norm, > 0.
        eps: added to the sum of squares, > 0.

    Raises:
        ValueError: a value outside its interval, or no parameters at ``update``.

    Source: arXiv 2302.12022, L-DoG.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_distance_over_gradients(0.5), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 4.0)}, tx.init(params), params)[0]
    {'w': tensor([0.5000])}
    """

    requires_params: ClassVar[bool] = True

    reps_rel: float = static(1e-6, within="(0, inf)")
    eps: Hyper = dynamic(1e-8, within="(0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> LayerDistanceState:
        start = self.reps_rel * (1 + root(squared_norm(p)))
        return LayerDistanceState(accumulator(p).clone(), start, torch.zeros_like(start))

    def update_leaf(
        self, u: Tensor, s: LayerDistanceState, p: Tensor, h: Values
    ) -> tuple[Tensor, LayerDistanceState]:
        distance = torch.maximum(s.distance, root(squared_norm(p - s.p0)))
        squares = s.squares + squared_norm(u)
        factor = divide(distance, root(squares + h.eps))
        return u * factor.to(u), LayerDistanceState(s.p0, distance, squares)
