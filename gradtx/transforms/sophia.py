"""Steps over a diagonal of the Hessian: Sophia and AdaHessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.averages import average, average_square, corrected_mean
from ..core.hyper import Hyper, Values, dynamic, one_minus_power
from ..core.leaves import LeafInfo
from ..core.parts import power
from ..core.roots import divide
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform


class ScaleByHessianState(NamedTuple):
    """State of ``scale_by_sophia`` and ``scale_by_adahessian``.

    Attributes:
        step: int32, updates done for this leaf.
        mu: average of updates.
        nu: average of diagonals of the Hessian, or of their squares.
    """

    step: Tensor
    mu: Tensor
    nu: Tensor


def _start(p: Tensor) -> ScaleByHessianState:
    return ScaleByHessianState(new_count([p]), state_zeros(p), state_zeros(p))


@dataclass(frozen=True)
class scale_by_sophia(LeafTransform):
    """Divide the mean of updates by the mean diagonal of the Hessian, and clip.

    n <- b2 n + (1 - b2) hessian, in calls that pass ``hessian`` (every tenth will do), after the
    update;  update = clip(m' / max(gamma n, eps), clip_threshold), n as it was before.

    Args:
        b1: decay of the mean, in [0, 1).
        b2: decay of the diagonal, in [0, 1).
        eps: least denominator, > 0.
        gamma: factor of the diagonal, > 0.
        clip_threshold: largest entry of an update, > 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2305.14342.

    >>> import torch, gradtx as gx
    >>> tx, grads = gx.scale_by_sophia(), {"w": torch.full((1,), 4.0)}
    >>> state = tx.update(grads, tx.init(grads), hessian={"w": torch.full((1,), 1e5)})[1]
    >>> tx.update(grads, state)[0]["w"]
    tensor([0.4000])
    """

    takes_extra: ClassVar[tuple[str, ...]] = ("hessian",)

    b1: Hyper = dynamic(0.965, within="[0, 1)")
    b2: Hyper = dynamic(0.99, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="(0, inf)")
    gamma: Hyper = dynamic(0.01, within="(0, inf)")
    clip_threshold: Hyper = dynamic(1.0, within="(0, inf)")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByHessianState:
        return _start(p)

    def update_leaf(
        self, u: Tensor, s: ScaleByHessianState, p: Any, h: Values
    ) -> tuple[Tensor, ScaleByHessianState]:
        step, mu = advance(s.step), average(s.mu, u, h.b1)
        size = torch.clamp(h.gamma * s.nu, min=h.eps)
        bound = h.clip_threshold
        out = torch.clamp(divide(corrected_mean(mu, u, h.b1, step), size), -bound, bound)
        nu = s.nu if h.hessian is None else average(s.nu, h.hessian, h.b2)
        return out, ScaleByHessianState(step, mu, nu)


@dataclass(frozen=True)
class scale_by_adahessian(LeafTransform):
    """Adam with the squared diagonal of the Hessian in place of the squared gradient.

    v <- b2 v + (1 - b2) hessian^2;  update = m' / (v'^(power / 2) + eps).

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root, > 0.
        power: exponent of the diagonal's size, in [0, 1].

    Raises:
        ValueError: a value outside its interval, or no ``hessian`` at ``update``.

    Source: arXiv 2006.00719.

    >>> import torch, gradtx as gx
    >>> tx, grads = gx.scale_by_adahessian(), {"w": torch.full((1,), 4.0)}
    >>> tx.update(grads, tx.init(grads), hessian={"w": torch.full((1,), 8.0)})[0]["w"]
    tensor([0.5000])
    """

    needs_extra: ClassVar[tuple[str, ...]] = ("hessian",)

    b1: Hyper = dynamic(0.9, within="[0, 1)")
    b2: Hyper = dynamic(0.999, within="[0, 1)")
    eps: Hyper = dynamic(1e-4, within="(0, inf)")
    power: Hyper = dynamic(1.0, within="[0, 1]")

    def init_leaf(self, p: Tensor, info: LeafInfo) -> ScaleByHessianState:
        return _start(p)

    def update_leaf(
        self, u: Tensor, s: ScaleByHessianState, p: Any, h: Values
    ) -> tuple[Tensor, ScaleByHessianState]:
        step, mu = advance(s.step), average(s.mu, u, h.b1)
        nu = average_square(s.nu, h.hessian, h.b2)
        square = nu / one_minus_power(h.b2, step, u.dtype)
        zero = square == 0
        size = torch.where(zero, 0.0, power(torch.where(zero, 1.0, square), h.power / 2))
        out = divide(corrected_mean(mu, u, h.b1, step), size + h.eps)
        return out, ScaleByHessianState(step, mu, nu)
