"""Adam in a subspace that moves at every step, with feedback of everything that is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, check_codec
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.state import new_count, state_zeros
from ..core.transform import LeafTransform
from .leaf import Where, Whole, check_parts, is_projected
from .power_iteration import power_iteration
from .projector import Projector
from .refresh import every_step


class ScaleByLdadamState(NamedTuple):
    """State of ``scale_by_ldadam``.

    Attributes:
        step: int32, updates done for this leaf.
        projector: the projector's state, or ``Whole`` for leaves that are no matrices.
        mu: first moment, coordinates.
        nu: second moment, coordinates.
        error: what has been left out so far, as its codec keeps it; () without error feedback.
    """

    step: Tensor
    projector: Any
    mu: Tensor
    nu: Tensor
    error: Encoding


@dataclass(frozen=True)
class scale_by_ldadam(LeafTransform):
    """Adam on coordinates in a subspace that is chosen anew at every step.

    A = u + e;  Q from rho P m' + (1 - rho) A, with P the last basis and m' the corrected first
    moment;  R = Q^T P carries the moments over: m <- R m, and v through its variance around m';
    then Adam with Q^T A, and update = Q adam. What is left out comes back: e <- A - Q Q^T A +
    b1 / (1 - b1) (P m - Q R m). Leaves that are no matrices get Adam.

    Args:
        projector: what the subspace is, with one orthonormal basis.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the corrected root of the second moment.
        rho: how much the last subspace counts in the choice of the next, in [0, 1).
        error_feedback: False forgets what is left out, and needs no memory for it.
        error_codec: how e is kept between steps: a codec, a dtype, or None for at least float32.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.

    Raises:
        ValueError: a value outside its interval, or a basis that is not orthonormal; at ``init`` a
            rank that is too large.
        TypeError: a projector or codec of another type.

    Source: arXiv 2410.16103.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_ldadam(gx.subspace.power_iteration(1))
    >>> u = torch.outer(torch.tensor([1.0, 2.0, -2.0]), torch.tensor([3.0, 4.0])) / 15
    >>> tx.update({"w": u}, tx.init({"w": u}))[0]["w"].abs()[:, 1] / 0.8
    tensor([1.0000, 1.0000, 1.0000])
    """

    projector: Projector = static(power_iteration(16, side="std_left"))
    b1: Hyper = dynamic(0.908, within="[0, 1)")
    b2: Hyper = dynamic(0.99, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    rho: Hyper = dynamic(0.908, within="[0, 1)")
    error_feedback: bool = static(True)
    error_codec: Codec | torch.dtype | None = static(None)
    where: Where | None = static(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts(self.name, self.projector, every_step())
        check_codec(self, "error_codec")
        if not self.projector.orthonormal:
            raise ValueError(f"{self.name}: the basis of {self.projector!r} is not orthonormal")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByLdadamState:
        if not is_projected(self.projector, self.where, info):
            return ScaleByLdadamState(new_count([p]), Whole(), state_zeros(p), state_zeros(p), ())
        low = p.new_zeros(self.projector.factor_shape(info.shape))
        error = as_codec(self.error_codec).init(p, signed=True) if self.error_feedback else ()
        projector = self.projector.init(p.detach(), info.name)
        return ScaleByLdadamState(
            new_count([p]), projector, state_zeros(low), state_zeros(low), error
        )

    def update_leaf(
        self, u: Tensor, s: ScaleByLdadamState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByLdadamState]:
        if isinstance(s.projector, Whole):
            out, mu, nu = _adam(u, s.mu.to(u.dtype), s.nu.to(u.dtype), s.step + 1, h)
            return out, ScaleByLdadamState(s.step + 1, s.projector, mu, nu, ())
        return self._projected(u, s, h)

    def _projected(
        self, u: Tensor, s: ScaleByLdadamState, h: Values
    ) -> tuple[Tensor, ScaleByLdadamState]:
        projector, shape, codec = self.projector, tuple(u.shape), as_codec(self.error_codec)
        m, v, step = s.mu.to(u.dtype), s.nu.to(u.dtype), s.step + 1
        total = u + codec.decode(s.error, u) if self.error_feedback else u
        # What the averages have gathered so far; there is nothing to correct in the first step.
        before = torch.clamp(s.step, min=1)
        c1, c2 = one_minus_power(h.b1, before, u.dtype), one_minus_power(h.b2, before, u.dtype)
        lifted = projector.back(s.projector, m, shape)
        first = step == 1
        aim = torch.where(first, total, h.rho * (lifted / c1) + (1 - h.rho) * total)
        new = projector.refresh(s.projector, aim, first)
        a = projector.project(new, total)
        rotation = projector.rotation(s.projector, new, shape, u.dtype)
        turned = rotation.first(m)
        error = s.error
        if self.error_feedback:
            beta = h.b1 / (1 - h.b1)
            left = total + beta * lifted - projector.back(new, a + beta * turned, shape)
            error = codec.encode(left, s.error)
        variance = v / c2 - (m / c1) ** 2
        v = c2 * (rotation.squared(variance) + (turned / c1) ** 2).abs()
        out, mu, nu = _adam(a, turned, v, step, h)
        return (
            projector.back(new, out, shape),
            ScaleByLdadamState(step, new, mu.to(s.mu.dtype), nu.to(s.nu.dtype), error),
        )


def _adam(
    u: Tensor, m: Tensor, v: Tensor, step: Tensor, h: Values
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's update and both moments."""
    mu = h.b1 * m + (1 - h.b1) * u
    nu = h.b2 * v + (1 - h.b2) * u * u
    root = torch.sqrt(nu / one_minus_power(h.b2, step, u.dtype))
    return mu / one_minus_power(h.b1, step, u.dtype) / (root + h.eps), mu, nu
