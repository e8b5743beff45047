"""The transform: groups of leaves, when factors are fitted, noise, first scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core import tree
from ...core.checks import can_read
from ...core.declared import Call, DeclaredTransform, widen
from ...core.errors import TreeMismatchError, shape_mismatch
from ...core.execution import Execution
from ...core.hyper import Hyper, Values, declare, dynamic, static
from ...core.random import Seed, fold_in, make_key, next_key, normal, seed_field, uniform
from ...core.state import advance, new_count
from ...core.sums import mean_over
from ...core.tree import PyTree
from .factors import MODES, Layout, balanced, shaped
from .fit import FITS_P, FORMS, fitted, preconditioned
from .leaves import PreconditionByKronState, alike, fourth_moment, stacked
from .norms import NORMS


def _check_scale(who: str, name: str, scale: Any) -> None:
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not (0 < scale < math.inf if number else scale in (None, "leaf")):
        raise ValueError(f"{who}: {name} must be a number > 0, None or 'leaf', got {scale!r}")


EPS = torch.finfo(torch.float32).eps
MOST_DIMENSIONS = 13
LEAST = 1e-24  # of the mean fourth power behind a leaf's own scale


@dataclass(frozen=True)
class precondition_by_kron(DeclaredTransform):
    """Multiply updates by P = Q^T Q, Q a Kronecker product that is fitted to whiten gradients.

    A leaf with sides d_1, ..., d_k has a factor Q_i for each, a matrix or a diagonal. A fit is a
    step on E[g^T P g + v^T P^-1 v], v white: with A = Q g, C_i(Y) = Y times itself over all sides
    but i and n_i elements beside side i, E_i = T1 - T2 changes Q_i by precond_lr / L_i, where
    L_i <- max(beta_l L_i + (1 - beta_l) l, l) and l = |T1 + T2|. Leaves of one shape are one batch.

    | form | T1 | T2 | matrices |
    |---|---|---|---|
    | EQ | C_i(A) | C_i(Q^-T v) | Q - l triu(E) Q |
    | QEP | C_i(Q_i P g) | n_i Q_i Q_i^T | Q - l E Q |
    | QEQ | C_i(P g) | n_i I | Q - l Q E |
    | Q0.5EQ1.5 | C_i(P g) | n_i I | Q - l E Q, then rotated towards a symmetric one |
    | QUAD | C_i(P g) | n_i I | K Q K, K = I - l E / 2 |
    | PRO4P, QUAD4P | C_i(P g) | n_i I | the last two for factors of P itself |

    A gradient that stays zero makes factors grow with every fit; damping bounds P by its inverse.
    A fit that meets what is not finite is left out and counted.

    Args:
        form: see the table.
        precond_lr: length of a fit's step, in (0, 1].
        beta_l: decay of L, in (0, 1].
        remember: False for L = l, the size in this fit alone.
        damping: noise added to what is fitted, >= 0, on top of what the rounding of float32 is.
        relative_damping: that rounding is of each entry ("entry"), or the root of the unit
            roundoff of the mean magnitude ("mean").
        whiten: what is fitted: the "gradient" that entered the chain, the "momentum" that arrives
            here, or with "newton" a Hessian times v, for which ``update`` takes the trees
            ``probe`` v and ``hvp``.
        init_scale: the first Q is that multiple of the identity, > 0. None scales it by the first
            gradients, with (max over leaves of mean(g^4) + damping^4)^(-1/8), one number for all
            leaves; "leaf" every leaf by itself, with mean(g^4)^(-1/16). Where factors are those of
            P, its square.
        max_size: longest side with a matrix, >= 1.
        max_skew: a side d of N elements has a matrix only if d^2 <= max_skew N, > 0; None for all.
        min_ndim: leaves of fewer dimensions have diagonals alone, >= 0.
        memory_save_mode: "one_diag" gives the longest side a diagonal, "smart_one_diag" where it
            is longer than all others, "all_diag" all sides.
        merge_dims: see more than two dimensions as a matrix.
        drop_units: leave out sides of length one.
        probability: a fit every 1 / probability updates, counted for every leaf, in (0, 1].
        balance: probability with which a fit gives factors the same largest entry, in [0, 1];
            "QEP" does before every fit.
        balance_first: before the fit, not after it.
        update_first: fit before the update is multiplied, not after it.
        noise_in_momentum: multiply the momentum with the noise in it, as published.
        independent_probe: draw v apart from the noise, which "EQ" otherwise takes for it.
        norm: "column" or "subspace", lower bounds of |T1 + T2|, or "exact".
        noise: "drawn", or "recorded" for trees ``noise``, and ``probe`` where v is apart, that
            ``update`` is given.
        seed: of the noise, an integer of at most 64 bits or a 0-d integer tensor.

    Raises:
        ValueError: a value outside its range, or an option that is not one of these.

    Source: arXiv 1512.04202, 2402.11858.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.precondition_by_kron(whiten="momentum"), {"w": torch.zeros(2, 2)}
    >>> state, u = tx.init(params), {"w": torch.tensor([[8.0, 0.0], [0.0, 0.5]])}
    >>> for _ in range(300):
    ...     updates, state = tx.update(u, state)
    >>> updates["w"].abs().diagonal().round()
    tensor([1., 1.])
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=lambda tx: tx.init_scale is not None,
        reduces=True,
        cannot_raise=lambda tx: tx.norm != "exact",
    )

    form: str = static("Q0.5EQ1.5", choices=FORMS)
    precond_lr: Hyper = dynamic(0.1, within="(0, 1]")
    beta_l: Hyper = dynamic(0.9, within="(0, 1]")
    remember: bool = static(True)
    damping: Hyper = dynamic(1e-9, within="[0, inf)")
    relative_damping: str = static("entry", choices=("entry", "mean"))
    whiten: str = static("gradient", choices=("gradient", "momentum", "newton"))
    init_scale: float | str | None = static(None, check=_check_scale)
    max_size: float = static(math.inf, within="[1, inf]")
    max_skew: float | None = static(1.0, within="(0, inf]")
    min_ndim: int = static(0, at_least=0)
    memory_save_mode: str | None = static(None, choices=(*MODES, None))
    merge_dims: bool = static(False)
    drop_units: bool = static(True)
    probability: Hyper = dynamic(1.0, within="(0, 1]")
    balance: Hyper = dynamic(0.01, within="[0, 1]")
    balance_first: bool = static(False)
    update_first: bool = static(True)
    noise_in_momentum: bool = static(False)
    independent_probe: bool = static(False)
    norm: str = static("column", choices=NORMS)
    noise: str = static("drawn", choices=("drawn", "recorded"))
    seed: Seed = seed_field()

    @property
    def needs_grad(self) -> bool:  # type: ignore[override]
        return self.whiten == "gradient"

    @property
    def needs_extra(self) -> tuple[str, ...]:  # type: ignore[override]
        probe = self.whiten == "newton" or (self.noise == "recorded" and self.independent_probe)
        return (
            *(("probe",) if probe else ()),
            *(("hvp",) if self.whiten == "newton" else ()),
            *(("noise",) if self.noise == "recorded" else ()),
        )

    @cached_property
    def declared(self) -> Mapping[str, str]:  # type: ignore[override]
        """The dynamic hyperparameters that count with these options."""
        unused = () if self.remember else ("beta_l",)
        return {k: v for k, v in declare(type(self)).items() if k not in unused}

    @property
    def layout(self) -> Layout:
        """How leaves are seen."""
        return Layout(
            self.max_size,
            self.max_skew,
            self.min_ndim,
            self.memory_save_mode,
            self.merge_dims,
            self.drop_units,
        )

    # -- state ---------------------------------------------------------------------------------

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        pairs = zip(leaves, names, strict=True)
        return spec.unflatten([() if p is None else self._init_leaf(p, name) for p, name in pairs])

    def _init_leaf(self, p: Tensor, name: str) -> PreconditionByKronState:
        dims = self.layout.dims(p.shape)
        if len(dims) > MOST_DIMENSIONS:
            raise ValueError(
                f"{self.name}: leaf {name!r} has {len(dims)} dimensions, at most {MOST_DIMENSIONS} "
                "are supported"
            )
        scale = self.init_scale if isinstance(self.init_scale, (int, float)) else 1.0
        value = self._of_factor(scale, len(dims))
        dtype = tree.accumulator_dtype(p.dtype)
        factors = []
        for d, dense in zip(dims, self.layout.dense(dims), strict=True):
            diagonal = torch.full((d,), value, dtype=dtype, device=p.device)
            factors.append(torch.diag(diagonal) if dense else diagonal)
        lipschitz: Tensor | tuple[()] = ()
        if self.remember:
            lipschitz = torch.zeros(len(dims), dtype=dtype, device=p.device)
        key = fold_in(make_key(self.seed, device=p.device), name)
        zero = new_count([p])
        return PreconditionByKronState(
            zero, zero.clone(), zero.clone(), key, tuple(factors), lipschitz
        )

    def _of_factor(self, scale: Any, sides: int) -> Any:
        """The multiple of the identity that a factor starts at, for that of Q."""
        return scale ** ((2 if self.form in FITS_P else 1) / sides)

    # -- update --------------------------------------------------------------------------------

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        states = tree.flatten_like(self.name, call.spec, state, "state")
        fitted_to = self._what_is_fitted(call)
        for i, u in enumerate(call.updates):
            if u is not None:
                self._check_state(call.names[i], u, states[i])
        scale = self._common_scale(call, fitted_to, values) if self.init_scale is None else None
        outs, news = list(call.updates), list(states)
        for members in alike(call, values):
            h = Values(call.values_at(members[0], values))
            extra = {name: [column[i] for i in members] for name, column in call.wanted.items()}
            us, xs, old = (
                [column[i] for i in members] for column in (call.updates, fitted_to, states)
            )
            results = self._group(us, xs, old, extra, scale, h)
            for i, (u, new) in zip(members, results, strict=True):
                outs[i], news[i] = u, new
        return call.spec.unflatten(outs), call.spec.unflatten(news)

    def _what_is_fitted(self, call: Call) -> list[Any]:
        if self.whiten == "newton":
            return call.wanted["hvp"]
        if self.whiten == "momentum":
            return call.updates
        pairs = zip(call.grads, call.updates, strict=True)
        return [u if g is None else widen(g) for g, u in pairs]

    def _check_state(self, name: str, u: Tensor, s: Any) -> None:
        if not isinstance(s, PreconditionByKronState):
            raise TreeMismatchError(
                f"{self.name}: leaf {name!r} has an update but no state; it was None when init "
                "was called"
            )
        dims = tuple(q.shape[-1] for q in s.factors)
        if self.layout.dims(u.shape) != dims:
            raise shape_mismatch(self.name, name, "update", u.shape, "state factors", dims)

    def _common_scale(self, call: Call, xs: list[Any], values: dict[str, Any]) -> Tensor | None:
        """The first scale of all leaves, (mean(g^4) + damping^4)^(-1/8) of the largest."""
        there = [i for i, u in enumerate(call.updates) if u is not None and u.numel()]
        if not there:
            return None
        device = xs[there[0]].device
        means = torch.stack([fourth_moment(xs[i]).to(device) for i in there])
        damping = call.values_at(there[0], values)["damping"]
        # A leaf that is not finite is left out: its own fit is too.
        largest = call.reduce.max(torch.where(means.isfinite(), means, 0.0).amax())
        power = largest + torch.as_tensor(damping, dtype=largest.dtype, device=device) ** 4
        return torch.where(power > 0, torch.where(power > 0, power, 1.0) ** (-1 / 8), 1.0)

    def _group(
        self,
        us: list[Tensor],
        xs: list[Tensor],
        states: list[PreconditionByKronState],
        extra: dict[str, list[Tensor]],
        scale: Tensor | None,
        h: Values,
    ) -> list[tuple[Tensor, PreconditionByKronState]]:
        """Leaves of one shape: everything has a leading dimension for them."""
        dims = self.layout.dims(us[0].shape)
        u = stacked(us).reshape(len(us), *dims)
        x = u if xs is us else stacked(xs).reshape(len(us), *dims)
        step, since, skipped = (
            torch.stack([getattr(s, name) for s in states]) for name in ("step", "since", "skipped")
        )
        columns = zip(*(s.factors for s in states), strict=True)
        factors = [stacked(list(column)).to(u.dtype) for column in columns]
        factors = self._scaled(factors, x, step, scale)
        since = advance(since)
        due = since.to(torch.float64) >= 1 / h.probability
        idle = u.device.type == "cpu" and can_read(due) and not bool(due.any())
        lipschitz = None
        if self.remember:
            lipschitz = stacked([s.lipschitz for s in states]).to(u.dtype)  # type: ignore[misc]
        old, noisy = factors, x
        if not idle:
            noisy, probe = self._noisy(x, dims, states, extra, h)
            factors, lipschitz, wrong = self._fitted(
                factors, lipschitz, noisy, probe, due, states, h
            )
            skipped = torch.where(wrong, advance(skipped), skipped)
        source = u
        if self.noise_in_momentum and self.whiten == "momentum":
            source = torch.where(shaped(due, u), noisy, u)
        out = preconditioned(self.form, factors if self.update_first else old, source)
        since = torch.where(due, torch.zeros_like(since), since)
        step = advance(step)
        results = []
        for k, s in enumerate(states):
            new = PreconditionByKronState(
                step[k],
                since[k],
                skipped[k],
                next_key(s.key),
                tuple(q[k].to(o.dtype) for q, o in zip(factors, s.factors, strict=True)),
                () if lipschitz is None else lipschitz[k].to(s.lipschitz.dtype),  # type: ignore[union-attr]
            )
            results.append((out[k].reshape(us[k].shape), new))
        return results

    def _scaled(
        self, factors: list[Tensor], x: Tensor, step: Tensor, scale: Tensor | None
    ) -> list[Tensor]:
        """The factors, in a leaf's first update times what their gradients say."""
        if self.init_scale == "leaf":
            power = torch.stack([fourth_moment(leaf) for leaf in x])
            power = torch.where(power.isfinite(), power.clamp(min=LEAST), 1.0)
            scale = power ** (-1 / 16)
        elif self.init_scale is not None or scale is None:
            return factors
        gain = self._of_factor(scale, len(factors)).to(x.dtype).expand(len(x))
        gain = torch.where(step == 0, gain, 1.0)
        return [shaped(gain, q) * q for q in factors]

    def _noisy(
        self,
        x: Tensor,
        dims: tuple[int, ...],
        states: list[PreconditionByKronState],
        extra: dict[str, list[Tensor]],
        h: Values,
    ) -> tuple[Tensor, Tensor]:
        """What is fitted with noise added, and v."""

        def drawn(name: str) -> Tensor:
            if name in extra:
                return stacked(extra[name]).reshape(x.shape).to(x.dtype)
            keys = [s.key if name == "noise" else fold_in(s.key, name) for s in states]
            return torch.stack([normal(key, dims, x.dtype) for key in keys])

        noise = drawn("noise")
        apart = self.independent_probe or self.whiten == "newton"
        size = x.abs()
        if self.relative_damping == "mean":
            size = mean_over(size, tuple(range(1, x.ndim))) * EPS**0.5
        else:
            size = size * EPS
        return x + (h.damping + size) * noise, drawn("probe") if apart else noise

    def _fitted(
        self,
        factors: list[Tensor],
        lipschitz: Tensor | None,
        x: Tensor,
        v: Tensor,
        due: Tensor,
        states: list[PreconditionByKronState],
        h: Values,
    ) -> tuple[list[Tensor], Tensor | None, Tensor]:
        """Factors and L after the fit where it is due, and where it failed."""
        finite = x.flatten(1).isfinite().all(1)
        x = torch.where(shaped(finite, x), x, 0.0)
        before = factors
        if self.form == "QEP":
            factors = list(balanced(factors))
        elif self.balance_first:
            factors = self._balanced(factors, states, h)
        white = self.whiten != "newton"
        beta = h.beta_l if self.remember else 0.0
        new, sizes = fitted(
            self.form, factors, lipschitz, x, v, h.precond_lr, beta, self.norm, white
        )
        if not self.balance_first:
            new = self._balanced(new, states, h)
        for q in new:
            finite = finite & q.flatten(1).isfinite().all(1)
        good = due & finite
        kept = [torch.where(shaped(good, q), n, q) for n, q in zip(new, before, strict=True)]
        if lipschitz is not None:
            lipschitz = torch.where(good[:, None], torch.stack(sizes, 1), lipschitz)
        return kept, lipschitz, due & ~finite

    def _balanced(
        self, factors: Sequence[Tensor], states: list[PreconditionByKronState], h: Values
    ) -> list[Tensor]:
        if isinstance(h.balance, (int, float)) and h.balance == 0:
            return list(factors)
        draws = torch.stack([uniform(fold_in(s.key, "balance"), ()) for s in states])
        now = draws < h.balance
        pairs = zip(balanced(factors), factors, strict=True)
        return [torch.where(shaped(now, q), even, q) for even, q in pairs]
