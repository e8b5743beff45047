"""NovoGrad: one second moment a leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, as_codec, codec_field, first_moment_codec
from ..core.averages import average
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import LeafInfo
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide_by_root
from ..core.state import advance, new_count
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype, squared_norm


class ScaleByNovogradState(NamedTuple):
    """State of ``scale_by_novograd``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: decayed sum of normalized updates, as its codec keeps it.
        nu: 0-d, average of the squared norms of updates.
    """

    step: Tensor
    mu: FirstMoment
    nu: SecondMoment


@dataclass(frozen=True)
class scale_by_novograd(LeafTransform):
    """Normalize each leaf by its average norm, then sum with decay.

    v <- b2 v + (1 - b2) |u|^2 (at the first update v = |u|^2);
    m <- b1 m + u / (sqrt(v + eps_root) + eps) + weight_decay p; the update is m.

    Args:
        b1: decay of the sum, in [0, 1).
        b2: decay of the squared norm, in [0, 1).
        eps: added outside the root.
        eps_root: added inside the root.
        weight_decay: multiple of the parameter that enters the sum, >= 0.
        mu_codec: how m is kept between steps: a dtype or a codec (``gx.codecs``); None for at least
            float32.

    Raises:
        ValueError: a value outside its interval, a dtype beside a codec, or no parameters given to
            ``update``.

    Source: arXiv 1905.11286.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_novograd(), {"w": torch.zeros(2)}
    >>> tx.update({"w": torch.tensor([3.0, 4.0])}, tx.init(params), params)[0]
    {'w': tensor([0.6000, 0.8000])}
    """

    requires_params: ClassVar[bool] = True

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.25, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    eps_root: Hyper = dynamic(0.0, within="[0, inf)")
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)")
    mu_codec: Codec | torch.dtype | None = codec_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByNovogradState:
        zero = torch.zeros((), dtype=accumulator_dtype(p.dtype), device=p.device)
        mu = as_codec(self.mu_codec).init(p, signed=True)
        return ScaleByNovogradState(new_count([p]), mu, zero)

    def update_leaf(
        self, u: Tensor, s: ScaleByNovogradState, p: Tensor, h: Values
    ) -> tuple[Tensor, ScaleByNovogradState]:
        codec = first_moment_codec(self.mu_codec)
        square = squared_norm(u)
        nu = torch.where(s.step == 0, square, average(s.nu, square, h.b2))
        added = divide_by_root(u, nu, h.eps, h.eps_root) + h.weight_decay * p
        mu = h.b1 * codec.decode(s.mu, u) + added
        stored = codec.encode(mu, s.mu)
        return mu, ScaleByNovogradState(advance(s.step), stored, nu.to(s.nu.dtype))
