"""Adam in a subspace that moves at every step, with feedback of everything that is lost."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, check_codec, dense
from ..core import tree
from ..core.declared import Call
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo, LowRankUpdate
from ..core.state import new_count, state_zeros
from ..core.transform import LeafTransform
from ..core.tree import PyTree
from .dense import Basis, stacked
from .ldadam_sweep import Moving, sweep
from .leaf import Where, Whole, check_parts, is_projected
from .power_iteration import power_iteration
from .projector import Projector
from .refresh import every_step
from .view import View


class ScaleByLdadamState(NamedTuple):
    """State of ``scale_by_ldadam``.

    What has been left out, e, is kept together with the first moment's share of it, for that takes
    one product less: every step adds u to the sum and takes P m away.

    Attributes:
        step: int32, updates done for this leaf.
        projector: the projector's state, or ``Whole`` for leaves that are no matrices.
        mu: first moment m, coordinates.
        nu: second moment, coordinates.
        total: e + w Q m, as its codec keeps it; () without error feedback.
        gain: w = 1 / (1 - b1) of the last step; 0 without error feedback.
    """

    step: Tensor
    projector: Any
    mu: Tensor
    nu: Tensor
    total: Encoding
    gain: Tensor


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
        error_codec: how the sum with e in it is kept between steps, see ``ScaleByLdadamState``: a
            codec, a dtype, or None for at least float32.
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
            mu, nu = state_zeros(p), state_zeros(p)
            return ScaleByLdadamState(new_count([p]), Whole(), mu, nu, (), mu.new_zeros(()))
        low = p.new_zeros(self.projector.factor_shape(info.shape))
        projector, mu = self.projector.init(p.detach(), info.name), state_zeros(low)
        total = as_codec(self.error_codec).init(p, signed=True) if self.error_feedback else ()
        return ScaleByLdadamState(
            new_count([p]), projector, mu, state_zeros(low), total, mu.new_zeros(())
        )

    def left_out(self, s: ScaleByLdadamState, shape: tuple[int, ...]) -> Tensor:
        """What has been left out of a projected leaf so far, e.

        Args:
            s: its state, with error feedback.
            shape: of the leaf.
        """
        total = as_codec(self.error_codec).decode(s.total, s.mu)
        return total - s.gain * self.projector.back(s.projector, s.mu, tuple(shape))

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        if not isinstance(self.projector, power_iteration):
            return super()._update(call, state, values)
        projector = self.projector
        states = tree.flatten_like(self.name, call.spec, state, "state")
        groups, done = self._groups(call, states, values), {}
        for i in (i for members in groups for i in members):  # before anything is overwritten
            projector.check(states[i].projector, tuple(call.updates[i].shape))
        for members in groups:
            h = Values(call.values_at(members[0], values))
            us, olds = [call.updates[i] for i in members], [states[i] for i in members]
            results = self._swept(projector, us, olds, h)
            for i, (out, new) in zip(members, results, strict=True):
                self._check_shapes(call.names[i], call.updates[i], states[i], out, new)
                done[i] = out, new
        others = [None if i in done else u for i, u in enumerate(call.updates)]
        out, new_state = super()._update(replace(call, updates=others), state, values)
        outs = tree.flatten_like(self.name, call.spec, out, "update")
        news = tree.flatten_like(self.name, call.spec, new_state, "state")
        for i, (u, new) in done.items():
            outs[i], news[i] = u, new
        return call.spec.unflatten(outs), call.spec.unflatten(news)

    def _groups(self, call: Call, states: list[Any], values: dict[str, Any]) -> list[list[int]]:
        """Projected leaves of one shape with the same hyperparameters."""
        groups: list[tuple[Any, dict[str, Any], list[int]]] = []
        for i, (u, s) in enumerate(zip(call.updates, states, strict=True)):
            if u is None or not isinstance(s, ScaleByLdadamState) or isinstance(s.projector, Whole):
                continue
            # Large products gain nothing from a batch on the CPU.
            alone = i if u.device.type == "cpu" and u.numel() >= 2**16 else None
            key, own = (u.shape, u.dtype, u.device, alone), call.values_at(i, values)
            for other, theirs, members in groups:
                if key == other and all(_same(v, theirs[name]) for name, v in own.items()):
                    members.append(i)
                    break
            else:
                groups.append((key, own, [i]))
        return [members for _, _, members in groups]

    def _swept(
        self,
        projector: power_iteration,
        us: list[Tensor],
        states: list[ScaleByLdadamState],
        h: Values,
    ) -> list[tuple[Tensor, ScaleByLdadamState]]:
        """``_projected`` with power iteration, for leaves of one shape."""
        codec, shape = as_codec(self.error_codec), us[0].shape
        xs = us
        if self.error_feedback:
            xs = [self._sum(u, s.total) for u, s in zip(us, states, strict=True)]
        view = projector.view(shape)
        moving = Moving(
            stacked([s.step for s in states])[:, None, None],
            stacked([s.projector.basis for s in states]),
            stacked([s.mu for s in states]),
            stacked([s.nu for s in states]),
            stacked([s.gain for s in states])[:, None, None],
        )
        x = stacked(xs).reshape(len(us), view.rows, view.columns)
        out, total, new = sweep(x, moving, view, h, self.error_feedback)
        results = []
        for k, s in enumerate(states):
            kept = s.total
            if total is not None:
                kept = codec.encode(total[k].reshape(shape), s.total)
            gain = new.gain[k, 0, 0].to(s.gain.dtype)
            moments = new.mu[k].to(s.mu.dtype), new.nu[k].to(s.nu.dtype)
            update = self._update_of(out[k], new.basis[k], view)
            basis = Basis(new.basis[k].to(s.projector.basis.dtype))
            results.append((update, ScaleByLdadamState(s.step + 1, basis, *moments, kept, gain)))
        return results

    def _sum(self, u: Tensor, total: Encoding) -> Tensor:
        """The update and the sum before, in memory that may be overwritten."""
        return u + as_codec(self.error_codec).decode(total, u)

    def _update_of(self, z: Tensor, q: Tensor, view: View) -> Any:
        """The update with these coordinates."""
        return (q @ z if view.axis == 0 else z @ q.mT).reshape(view.shape)

    def products(self) -> Products:
        """The same transform for ``gx.fuse``, whose updates are products; it overwrites sums."""
        return Products(**{f.name: getattr(self, f.name) for f in fields(self)})

    def update_leaf(
        self, u: Tensor, s: ScaleByLdadamState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByLdadamState]:
        if isinstance(s.projector, Whole):
            out, mu, nu = _adam(u, s.mu.to(u.dtype), s.nu.to(u.dtype), s.step + 1, h)
            return out, ScaleByLdadamState(s.step + 1, s.projector, mu, nu, (), s.gain)
        return self._projected(u, s, h)

    def _projected(
        self, u: Tensor, s: ScaleByLdadamState, h: Values
    ) -> tuple[Tensor, ScaleByLdadamState]:
        projector, shape, codec = self.projector, tuple(u.shape), as_codec(self.error_codec)
        m, v, step = s.mu.to(u.dtype), s.nu.to(u.dtype), s.step + 1
        # What the averages have gathered so far; there is nothing to correct in the first step.
        before = torch.clamp(s.step, min=1)
        c1, c2 = one_minus_power(h.b1, before, u.dtype), one_minus_power(h.b2, before, u.dtype)
        lifted = projector.back(s.projector, m, shape)
        whole, x = u, u
        if self.error_feedback:
            x = u + codec.decode(s.total, u)
            whole = x - s.gain * lifted
        first = step == 1
        aim = torch.where(first, whole, h.rho * (lifted / c1) + (1 - h.rho) * whole)
        new = projector.refresh(s.projector, aim, first)
        a = projector.project(new, whole)
        rotation = projector.rotation(s.projector, new, shape, u.dtype)
        turned = rotation.first(m)
        total, gain = s.total, s.gain
        if self.error_feedback:
            total = codec.encode(x + (h.b1 / (1 - h.b1) - s.gain) * lifted, s.total)
            gain = torch.zeros_like(s.gain) + 1 / (1 - h.b1)
        variance = v / c2 - (m / c1) ** 2
        v = c2 * (rotation.squared(variance) + (turned / c1) ** 2).abs()
        out, mu, nu = _adam(a, turned, v, step, h)
        moments = mu.to(s.mu.dtype), nu.to(s.nu.dtype)
        return (
            projector.back(new, out, shape),
            ScaleByLdadamState(step, new, *moments, total, gain),
        )


@dataclass(frozen=True)
class Products(scale_by_ldadam):
    """Updates of projected leaves as ``LowRankUpdate``, sums in the memory of the old ones."""

    @property
    def name(self) -> str:
        return "scale_by_ldadam"

    def _sum(self, u: Tensor, total: Any) -> Tensor:
        if type(as_codec(self.error_codec)) is dense and total.dtype == u.dtype:
            return total.add_(u)
        return super()._sum(u, total)

    def _update_of(self, z: Tensor, q: Tensor, view: View) -> LowRankUpdate:
        return LowRankUpdate(z, q, view.shape, "left" if view.axis == 0 else "right")


def _same(a: Any, b: Any) -> bool:
    """Whether two hyperparameters are one, without looking into tensors."""
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def _adam(
    u: Tensor, m: Tensor, v: Tensor, step: Tensor, h: Values
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's update and both moments."""
    mu = h.b1 * m + (1 - h.b1) * u
    nu = h.b2 * v + (1 - h.b2) * u * u
    root = torch.sqrt(nu / one_minus_power(h.b2, step, u.dtype))
    return mu / one_minus_power(h.b1, step, u.dtype) / (root + h.eps), mu, nu
