"""Blocks times inverse roots of their Kronecker factors: Shampoo's direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ...core import tree
from ...core.checks import can_read
from ...core.declared import Call, DeclaredTransform, like
from ...core.errors import TreeMismatchError
from ...core.execution import Execution
from ...core.hyper import static
from ...core.state import advance, new_count
from ...core.tree import PyTree
from ..inverse_roots import RootMethod, matrix_root
from .blocks import blocks
from .eigenbasis import due, phase_of
from .factors import kronecker_factors
from .sides import Sides, gradients_of
from .stacks import contract, readable, together
from .units import Kind, Units


class InverseRootsLeaf(NamedTuple):
    """The factors of one leaf: a tuple per region of its plan, a tensor per side in it.

    Attributes:
        step: int32, updates done for this leaf.
        phase: of the refreshes, or ().
        failures: int32, refreshes in a row that have kept an old root.
        factors: (n, d, d) or packed.
        roots: alike.
    """

    step: Tensor
    phase: Tensor | tuple[()]
    failures: Tensor
    factors: tuple[Sides, ...]
    roots: tuple[Sides, ...]


@dataclass(frozen=True)
class scale_by_inverse_roots(DeclaredTransform):
    """Multiply blocks along every side by an inverse root of the side's factor.

    For a matrix: update = L^(-1/4) u R^(-1/4). Roots are computed of all factors of one size at
    once, at the first step where they are due and then every so many. Until then, and where a root
    fails, they stay what they were, the identity at first.

    Args:
        factors: what is gathered of the gradients. In the form "kl" they are multiplied by the
            roots of all other sides first.
        root: how roots are computed, see ``gx.matrix_root``.
        eps: ridge under the factors, >= 0.
        eps_mode: "absolute", or "relative" to the norm of the factor.
        every: updates from one refresh to the next, >= 1.
        start: the first update with a refresh, >= 1.
        staggered: give every leaf a phase of its own, which spreads the cost.
        trace_scaling: divide factors by this power of their traces, in (0, 1]; None for none.
        tolerance: a root whose residual is larger has failed; None for any that is finite.
        failures: how many refreshes in a row may fail before ``update`` raises, >= 0; None for
            any. Factors that are not finite are never tolerated then. On other devices than the
            CPU it raises at the update after that.
        cut: how leaves are cut into blocks.
        source: whether factors gather the "updates" that arrive or the chain's "gradients".

    Raises:
        ValueError: a value outside its range; from ``update``, too many refreshes in a row have
            failed (names the leaf).

    Source: arXiv 1802.09568, arXiv 2309.06497, arXiv 2602.02016.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_inverse_roots(gx.kronecker_factors(1.0), cut=gx.blocks(2))
    >>> u = {"w": torch.tensor([[4.0, 0.0, 3.0], [0.0, 9.0, 0.0]])}
    >>> tx.update(u, tx.init(u))[0]["w"].round(decimals=3)
    tensor([[1., 0., 1.],
            [0., 1., 0.]])
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)
    densifies: ClassVar[bool] = True

    factors: kronecker_factors = static(kronecker_factors())
    root: str | RootMethod = static("evd")
    eps: float = static(1e-12, within="[0, inf)")
    eps_mode: Literal["absolute", "relative"] = static("absolute")
    every: int = static(1, at_least=1, steps=True)
    start: int = static(1, at_least=1, steps=True)
    staggered: bool = static(False)
    trace_scaling: float | None = static(None, within="(0, 1]")
    tolerance: float | None = static(None)
    cut: blocks = static(blocks())
    source: Literal["updates", "gradients"] = static("updates")
    failures: int | None = static(None, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        identity = torch.eye(1, dtype=torch.float32, device="cpu")[None]
        given = [
            e
            for _, each in self.factors.exponents
            for e in (each if isinstance(each, tuple) else (each,))
        ]
        try:  # an unknown method is refused here, and powers that it has not
            for p in {2.0, *(1 / e for e in given if e)}:
                matrix_root(identity, p, self.root, eps=self.eps)
        except ValueError as error:
            text = str(error).removeprefix("matrix_root: ")
            raise ValueError(f"{self.name}: root: {text}") from None

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        return spec.unflatten(
            [
                () if p is None else self._leaf(p, name)
                for p, name in zip(leaves, names, strict=True)
            ]
        )

    def _leaf(self, p: Tensor, name: str) -> InverseRootsLeaf:
        how = self.factors
        factors, roots = [], []
        for region in self.cut.plan(p.shape).regions:
            n = torch.Size(region.counts).numel()
            kept = how.init(region.shape, n, p)
            factors.append(kept)
            roots.append(tuple(how.kept(_identities(how.whole(f))) for f in kept))
        phase = phase_of(name, self.every, p) if self.staggered else ()
        return InverseRootsLeaf(new_count([p]), phase, new_count([p]), tuple(factors), tuple(roots))

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        states = tree.flatten_like(self.name, call.spec, state, "state")
        there = [i for i, u in enumerate(call.updates) if u is not None]
        units, how = Units(self.cut, self.factors, call.updates), self.factors
        for i in there:
            if not isinstance(states[i], InverseRootsLeaf):
                raise TreeMismatchError(
                    f"{self.name}: leaf {call.names[i]!r} has an update but no state; "
                    "it was None when init was called"
                )
        for unit in units.all:
            found = states[unit.leaf].factors
            units.check(self.name, call.names[unit.leaf], unit, found, how.whole)
        steps = {i: advance(states[i].step) for i in there}
        dues = self._dues(call.names, states, steps)
        xs = units.gather(call.updates)
        ys = xs if self.source == "updates" else units.gather(gradients_of(self.name, call))
        factors = [tuple(map(how.whole, states[u.leaf].factors[u.region])) for u in units.all]
        roots = [tuple(map(how.whole, states[u.leaf].roots[u.region])) for u in units.all]
        # Corrected where roots are taken: a leaf may have missed steps that are counted.
        weights = [how.weights(steps[u.leaf], u.kind.dtype, False) for u in units.all]
        old, new = (
            [w[k].expand(units.count(u)) for u, w in zip(units.all, weights, strict=True)]
            for k in (0, 1)
        )
        every = range(len(units.all))
        done = units.each(every, self._gathered, ys, factors, roots, old, new)
        factors = [done[i] for i in every]
        failed = self._refresh(units, factors, roots, dues, steps)
        outs = units.each(every, _applied, xs, roots)
        updates = [
            u if o is None else like(o, u)
            for u, o in zip(call.updates, units.scatter([outs[i] for i in every]), strict=True)
        ]
        fresh = list(states)
        for i in there:
            where = [k for k in every if units.all[k].leaf == i]
            fresh[i] = InverseRootsLeaf(
                steps[i],
                states[i].phase,
                self._failures(states[i].failures, dues[i], failed.get(i, [])),
                tuple(tuple(how.kept(f).contiguous() for f in factors[k]) for k in where),
                tuple(tuple(how.kept(r).contiguous() for r in roots[k]) for k in where),
            )
        if self.failures is not None:
            for i in failed:
                if fresh[i].failures.device.type == "cpu" and can_read(fresh[i].failures):
                    self._check_failures(call.names[i], fresh[i], int(fresh[i].failures))
        return call.spec.unflatten(updates), call.spec.unflatten(fresh)

    def _dues(
        self, names: list[str], states: list[Any], steps: dict[int, Tensor]
    ) -> dict[int, Tensor | bool]:
        """Which leaves refresh their roots; what has failed before is read in the same go."""
        flags = [due(steps[i], self.every, states[i].phase, self.start) for i in steps]
        if self.failures is None:
            return dict(zip(steps, readable(flags), strict=True))
        bad = [states[i].failures > self.failures for i in steps]
        known = readable([*flags, *bad])
        for i, flag in zip(steps, known[len(flags) :], strict=True):
            if flag is True:
                self._check_failures(names[i], states[i], int(states[i].failures))
        return dict(zip(steps, known[: len(flags)], strict=True))

    def _check_failures(self, name: str, state: InverseRootsLeaf, failures: int) -> None:
        """Raise if too many refreshes in a row have failed."""
        assert self.failures is not None
        if failures <= self.failures:
            return
        finite = all(bool(torch.isfinite(f).all()) for region in state.factors for f in region)
        raise ValueError(
            f"{self.name}: leaf {name!r}: "
            + (
                f"{failures} refreshes of its roots in a row have failed, {self.failures} are "
                "tolerated; its factors are ill-conditioned: take a larger eps, or another root "
                "method"
                if finite
                else "its factors are not finite, as some gradient was not: take a smaller "
                "learning rate, or gx.apply_if_leaf_finite"
            )
        )

    def _gathered(
        self, kind: Kind, y: Tensor, factors: Sides, roots: Sides, old: Tensor, new: Tensor
    ) -> Sides:
        """The factors after another gradient."""
        out = []
        for k, side in enumerate(kind.sides):
            w = y
            if self.factors.form == "kl":
                for j, other in enumerate(kind.sides):
                    w = contract(w, roots[j], other) if j != k else w
            out.append(self.factors.updated(factors[k], w, side, old, new))
        return tuple(out)

    def _refresh(
        self,
        units: Units,
        factors: list[Sides],
        roots: list[Sides],
        dues: dict[int, Any],
        steps: dict[int, Tensor],
    ) -> dict[int, list[Tensor]]:
        """Replace the roots that are due; by leaf, what that adds to its failures."""
        groups: dict[Any, list[tuple[int, int]]] = {}
        for i, unit in enumerate(units.all):
            if dues[unit.leaf] is False:
                continue
            kind = unit.kind
            for k, side in enumerate(kind.sides):
                exponent = self.factors.exponent(len(kind.block), side)
                key = (kind.block[side], exponent, kind.dtype, kind.device)
                groups.setdefault(key, []).append((i, k))
        failed: dict[int, list[Tensor]] = {}
        for (_, exponent, *_), where in groups.items():

            def root(a: Tensor, before: Tensor, p: float = 1 / exponent) -> tuple[Tensor, Tensor]:
                if self.trace_scaling is not None:
                    trace = a.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=self.eps)
                    a = a * (trace**-self.trace_scaling)[:, None, None]
                found = matrix_root(
                    a,
                    p,
                    self.root,
                    eps=self.eps,
                    eps_mode=self.eps_mode,
                    previous=before,
                    tolerance=self.tolerance,
                )
                # A diagonal is not finite where a factor is not, which counts for all at once.
                finite = a.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite()
                once = found.failed.to(torch.int32)
                return found.root, torch.where(finite, once, once + (self.failures or 0))

            averages = [self._corrected(factors[i][k], steps[units.all[i].leaf]) for i, k in where]
            results = together(root, averages, [roots[i][k] for i, k in where], large=len(where))
            for (i, k), (new, bad) in zip(where, results, strict=True):
                leaf = units.all[i].leaf
                flag = dues[leaf]
                if isinstance(flag, Tensor):
                    new, bad = torch.where(flag, new, roots[i][k]), bad * flag
                roots[i] = (*roots[i][:k], new, *roots[i][k + 1 :])
                failed.setdefault(leaf, []).append(bad.amax())
        return failed

    def _corrected(self, factor: Tensor, step: Tensor) -> Tensor:
        by = self.factors.correction(step, factor.dtype)
        return factor if by is None else factor / by

    def _failures(self, before: Tensor, flag: Any, failed: list[Tensor]) -> Tensor:
        if flag is False:
            return before
        bad = torch.zeros_like(before)
        for each in failed:
            bad = torch.maximum(bad, each)
        new = torch.where(bad > 0, before + bad, 0).to(before.dtype)
        return torch.where(flag, new, before) if isinstance(flag, Tensor) else new


def _identities(like: Tensor) -> Tensor:
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    return eye.expand_as(like).clone()


def _applied(kind: Kind, x: Tensor, roots: Sides) -> Tensor:
    """Blocks times the roots of all their sides: L^(-1/4) x R^(-1/4).

    In low precision iterations give roots that are not quite symmetric.
    """
    for root, side in zip(roots, kind.sides, strict=True):
        x = contract(x, root, side, transpose=side == 0)
    return x
