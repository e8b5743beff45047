"""Adam in a subspace that moves at every step, with feedback of everything that is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, codec_field, dense
from ..core import tree
from ..core.declared import Call, with_fields_of
from ..core.errors import shape_mismatch
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo, LowRankUpdate
from ..core.roles import FirstMoment, SecondMoment
from ..core.roots import divide_by_sum, root
from ..core.state import advance, new_count, state_zeros
from ..core.transform import LeafTransform
from ..core.tree import PyTree
from .dense import Basis, stacked
from .ldadam_sweep import Moving, Weights, lifted, sweep, weights
from .leaf import Where, Whole, is_projected
from .power_iteration import power_iteration
from .projector import Projector
from .transport import turned_moments
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
    mu: FirstMoment
    nu: SecondMoment
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
    >>> (tx.update({"w": u}, tx.init({"w": u}))[0]["w"].abs()[:, 1] / 0.8).round(decimals=4)
    tensor([1., 1., 1.])
    """

    execution: ClassVar[Execution] = Execution(low_rank_form=lambda tx: tx.low_rank_form())
    overwrites: ClassVar[bool] = False

    projector: Projector = static(power_iteration(16, side="std_left"))
    b1: Hyper = dynamic(0.908, within="[0, 1)")
    b2: Hyper = dynamic(0.99, within="[0, 1)")
    eps: Hyper = dynamic(1e-8, within="[0, inf)")
    rho: Hyper = dynamic(0.908, within="[0, 1)")
    error_feedback: bool = static(True)
    error_codec: Codec | torch.dtype | None = codec_field()
    where: Where | None = static(None)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        alike = self._alike(call, states, values)
        done: dict[int, Any] = {}
        for i in (i for members in alike for i in members):  # before anything is overwritten
            view = projector.check(states[i].projector, tuple(call.updates[i].shape))
            self._check_state(call, i, states[i], view)
        for members in alike:
            h = Values(call.values_at(members[0], values))
            us, olds = [call.updates[i] for i in members], [states[i] for i in members]
            step = torch.stack([s.step for s in olds])
            gain = torch.stack([s.gain for s in olds])
            numbers = weights(step, gain, h, self.error_feedback, us[0].dtype)
            for group in _of_one_shape(us):
                some, theirs = [us[k] for k in group], [olds[k] for k in group]
                results = self._swept(projector, some, theirs, numbers.at(group), h)
                done |= dict(zip([members[k] for k in group], results, strict=True))
        others = [None if i in done else u for i, u in enumerate(call.updates)]
        out, new_state = super()._update(replace(call, updates=others), state, values)
        outs = tree.flatten_like(self.name, call.spec, out, "update")
        news = tree.flatten_like(self.name, call.spec, new_state, "state")
        for i, (u, new) in done.items():
            outs[i], news[i] = u, new
        return call.spec.unflatten(outs), call.spec.unflatten(news)

    def _check_state(self, call: Call, i: int, s: ScaleByLdadamState, view: View) -> None:
        """Raise unless a leaf's moments and sum have their shapes."""
        low: tuple[int, ...] = view.factor_shape
        for name, x, want in (("mu", s.mu, low), ("nu", s.nu, low), ("total", s.total, view.shape)):
            if isinstance(x, Tensor) and tuple(x.shape) != want:
                field = f"state {name}"
                raise shape_mismatch(self.name, call.names[i], "update", view.shape, field, x.shape)

    def _alike(self, call: Call, states: list[Any], values: dict[str, Any]) -> list[list[int]]:
        """Projected leaves with the same hyperparameters, of one dtype and device."""
        keys = {
            i: (u.dtype, u.device)
            for i, (u, s) in enumerate(zip(call.updates, states, strict=True))
            if u is not None
            and isinstance(s, ScaleByLdadamState)
            and not isinstance(s.projector, Whole)
        }
        return call.alike(keys, values)

    def _swept(
        self,
        projector: power_iteration,
        us: list[Tensor],
        states: list[ScaleByLdadamState],
        numbers: Weights,
        h: Values,
    ) -> list[tuple[Tensor, ScaleByLdadamState]]:
        """``_projected`` with power iteration, for leaves of one shape."""
        codec, view = as_codec(self.error_codec), projector.view(us[0].shape)
        columns = zip(*((s.projector.basis, s.mu, s.nu) for s in states), strict=True)
        moving = Moving(*(stacked(list(column)).to(us[0].dtype) for column in columns))
        if self.error_feedback:
            x = self._sum(us, states, moving, view, numbers.shift)
        else:
            x = stacked(us).reshape(len(us), view.rows, view.columns)
        out, new = sweep(x, moving, view, numbers, self.overwrites)
        results = []
        for k, s in enumerate(states):
            total, gain = s.total, s.gain
            if self.error_feedback:
                total = codec.encode(x[k].reshape(view.shape), s.total)
                gain = torch.zeros_like(s.gain) + 1 / (1 - h.b1)
            basis = Basis(new.basis[k].to(s.projector.basis.dtype))
            moments = new.mu[k].to(s.mu.dtype), new.nu[k].to(s.nu.dtype)
            gain = gain.to(s.gain.dtype)
            state = ScaleByLdadamState(advance(s.step), basis, *moments, total, gain)
            results.append((self._update_of(out[k], new.basis[k], view), state))
        return results

    def _sum(
        self,
        us: list[Tensor],
        states: list[ScaleByLdadamState],
        old: Moving,
        view: View,
        shift: Tensor,
    ) -> Tensor:
        """The new sums, (batch, rows, columns): the old ones, the updates and shift P m."""
        codec = as_codec(self.error_codec)
        sums = [u + codec.decode(s.total, u) for u, s in zip(us, states, strict=True)]
        x = stacked(sums).reshape(len(us), view.rows, view.columns)
        return lifted(x, old.basis, old.mu, shift, view)

    def _update_of(self, z: Tensor, q: Tensor, view: View) -> Any:
        """The update with these coordinates."""
        # Q (size, rank) with z (rank, columns), or z (rows, rank) with Q^T
        return (q @ z if view.axis == 0 else z @ q.mT).reshape(view.shape)

    def low_rank_form(self) -> Products:
        """The same transform for executors: updates are products, and it overwrites its state."""
        return with_fields_of(self, Products)

    def update_leaf(
        self, u: Tensor, s: ScaleByLdadamState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, ScaleByLdadamState]:
        if isinstance(s.projector, Whole):
            step = advance(s.step)
            out, mu, nu = _adam(u, s.mu.to(u.dtype), s.nu.to(u.dtype), step, h)
            return out, ScaleByLdadamState(step, s.projector, mu, nu, (), s.gain)
        return self._projected(u, s, h)

    def _projected(
        self, u: Tensor, s: ScaleByLdadamState, h: Values
    ) -> tuple[Tensor, ScaleByLdadamState]:
        projector, shape, codec = self.projector, tuple(u.shape), as_codec(self.error_codec)
        m, v, step = s.mu.to(u.dtype), s.nu.to(u.dtype), advance(s.step)
        # What the averages have gathered so far; there is nothing to correct in the first step.
        before = torch.clamp(s.step, min=1)
        c1, c2 = one_minus_power(h.b1, before, u.dtype), one_minus_power(h.b2, before, u.dtype)
        inside = projector.back(s.projector, m, shape)
        whole, x = u, u
        if self.error_feedback:
            x = u + codec.decode(s.total, u)
            whole = x - s.gain * inside
        first = step == 1
        aim = torch.where(first, whole, h.rho * (inside / c1) + (1 - h.rho) * whole)
        new = projector.refresh(s.projector, aim, first)
        a = projector.project(new, whole)
        rotation = projector.rotation(s.projector, new, shape, u.dtype)
        turned, v = turned_moments(rotation, m, v, c1, c2)
        total, gain = s.total, s.gain
        if self.error_feedback:
            total = codec.encode(x + (h.b1 / (1 - h.b1) - s.gain) * inside, s.total)
            gain = torch.zeros_like(s.gain) + 1 / (1 - h.b1)
        out, mu, nu = _adam(a, turned, v, step, h)
        moments = mu.to(s.mu.dtype), nu.to(s.nu.dtype)
        return (
            projector.back(new, out, shape),
            ScaleByLdadamState(step, new, *moments, total, gain),
        )


@dataclass(frozen=True)
class Products(scale_by_ldadam):
    """Updates of projected leaves as ``LowRankUpdate``; sums and moments where the old ones lie."""

    overwrites: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "scale_by_ldadam"

    def _sum(
        self,
        us: list[Tensor],
        states: list[ScaleByLdadamState],
        old: Moving,
        view: View,
        shift: Tensor,
    ) -> Tensor:
        total: Any = states[0].total
        kept = type(as_codec(self.error_codec)) is dense and total.dtype == us[0].dtype
        if len(us) > 1 or not kept or not total.is_contiguous():
            return super()._sum(us, states, old, view, shift)
        x, u = (z.reshape(1, view.rows, view.columns) for z in (total, us[0]))
        return lifted(x, old.basis, old.mu, shift, view, u)

    def _update_of(self, z: Tensor, q: Tensor, view: View) -> LowRankUpdate:
        return LowRankUpdate(z, q, view.shape, "left" if view.axis == 0 else "right")


def _of_one_shape(us: list[Tensor]) -> list[list[int]]:
    """Places of leaves that are worth a batch."""
    groups: dict[Any, list[int]] = {}
    for i, u in enumerate(us):
        # Large products gain nothing from it on the CPU.
        alone = i if u.device.type == "cpu" and u.numel() >= 2**16 else None
        groups.setdefault((u.shape, alone), []).append(i)
    return list(groups.values())


def _adam(
    u: Tensor, m: Tensor, v: Tensor, step: Tensor, h: Values
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's update and both moments."""
    mu = h.b1 * m + (1 - h.b1) * u
    nu = h.b2 * v + (1 - h.b2) * u * u
    mean = mu / one_minus_power(h.b1, step, u.dtype)
    size = root(nu / one_minus_power(h.b2, step, u.dtype))
    return divide_by_sum(mean, size, h.eps), mu, nu
