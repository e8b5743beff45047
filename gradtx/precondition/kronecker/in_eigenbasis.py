"""Run a whole transform on the coordinates of leaves in the eigenbases of their factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ...core import tree
from ...core.declared import Call, DeclaredTransform, like
from ...core.decompositions import at_once
from ...core.errors import TreeMismatchError
from ...core.execution import Execution
from ...core.finite import require_finite
from ...core.hyper import static
from ...core.leaf_states import map_leaf_states
from ...core.leaves import densify_leaf, isfinite_leaf
from ...core.protocol import Wrapper
from ...core.state import advance, new_count
from ...core.tree import PyTree
from .blocks import blocks
from .carry import carried
from .eigenbasis import Turned, due, eigenbasis
from .factors import PRODUCTS, kronecker_factors
from .sides import (
    Gathered,
    Sides,
    back,
    carry,
    first_factors,
    gathered,
    gradients_of,
    rotated,
    turn,
)
from .spectrum import spectrum
from .stacks import readable
from .units import Kind, Units

Flag = Tensor | bool


class EigenbasisLeaf(NamedTuple):
    """The bases of one leaf: tuples with a tuple per region of its plan, a tensor per side in it.

    Attributes:
        step: int32, calls with this leaf so far.
        phase: of the refreshes, or ().
        bases: (n, d, d), columns are eigenvectors.
        factors: (n, d, d) or packed, in coordinates of the bases.
        roots: (n, d), inverse roots of eigenvalues, where they are tracked.
    """

    step: Tensor
    phase: Tensor | tuple[()]
    bases: tuple[Sides, ...]
    factors: tuple[Sides, ...]
    roots: tuple[Sides, ...]


class InEigenbasisState(NamedTuple):
    """State of ``in_eigenbasis``.

    Attributes:
        leaves: the bases of every leaf.
        inner_state: state of the inner transform, in coordinates of the bases.
    """

    leaves: PyTree
    inner_state: PyTree


@dataclass(frozen=True)
class in_eigenbasis(DeclaredTransform, Wrapper):
    """Run a transform on coordinates in the eigenbases of Kronecker factors, and turn back.

    For a matrix: z = Q_L^T u Q_R goes into the inner transform, and Q_L z' Q_R^T comes out. When a
    basis is refreshed, first moments inside (as far as they are kept by fields of the usual names,
    in any codec) turn with it, second moments follow a new order of columns. The inner transform
    gets no parameters, and the rotated gradients as ``grads``. Leaves and sides without a factor
    keep their coordinates.

    Args:
        transform: the inner transform.
        factors: what is gathered of the gradients.
        basis: how bases are found and when.
        eigenvalues: how they are followed; None for a default one with factors of the form
            "kl", for none otherwise.
        cut: how leaves are cut.
        first: what the first call of a leaf gives with bases chosen "after" it: nothing ("skip"),
            its own update ("pass"), or what it is in the basis of its own gradient ("current").
            The first two leave the inner state alone.
        source: whether factors gather the "updates" that arrive or the chain's "gradients".
        matmul_dtype: bfloat16 for the turns into a basis and back, of whose products factors and
            results are rounded to it; bases and what is kept in them stay as they are.
        nonfinite: "raise" for an update that is not finite of a leaf with factors, which waits for
            the device, or "ignore" it: it stays in the factors for good.

    Raises:
        ValueError: a value that is not among these; from ``update``, an update that is not finite
            (names the leaf).

    Source: arXiv 2409.11321, arXiv 2509.03378.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.in_eigenbasis(gx.scale_by_adam()), {"w": torch.zeros(4, 3)}
    >>> state = tx.init(params)
    >>> for seed in range(2):
    ...     g = {"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))}
    ...     u, state = tx.update(g, state)
    ...     print(bool(u["w"].any()))
    False
    True
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)
    given_as: ClassVar[str] = "transform"
    densifies: ClassVar[bool] = True

    factors: kronecker_factors = static(kronecker_factors())
    basis: eigenbasis = static(eigenbasis())
    eigenvalues: spectrum | None = static(None)
    cut: blocks = static(blocks())
    first: Literal["skip", "pass", "current"] = static("skip")
    source: Literal["updates", "gradients"] = static("updates")
    matmul_dtype: torch.dtype | None = static(None, choices=PRODUCTS)
    nonfinite: Literal["ignore", "raise"] = static("ignore")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis.when == "after" and self.basis.init != "eigh":
            raise ValueError("in_eigenbasis: init='identity' needs a basis chosen 'before'")

    @property
    def track(self) -> spectrum | None:
        """How eigenvalues are followed."""
        if self.eigenvalues is None and self.factors.form == "kl":
            return spectrum()
        return self.eigenvalues

    @property
    def after(self) -> bool:
        """Whether bases are refreshed after the update."""
        return self.basis.when == "after"

    @property
    def corrects_later(self) -> bool:
        """Whether factors, which start at zero, are corrected where bases are refreshed.

        So that a leaf may have missed steps that are counted.
        """
        return self.basis.init == "identity"

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> InEigenbasisState:
        kept = [
            () if p is None else self._leaf(p, name) for p, name in zip(leaves, names, strict=True)
        ]
        return InEigenbasisState(spec.unflatten(kept), self.transform.init(spec.unflatten(leaves)))

    def _leaf(self, p: Tensor, name: str) -> EigenbasisLeaf:
        plan, how, track = self.cut.plan(p.shape), self.factors, self.track
        bases, factors, roots = [], [], []
        for region in plan.regions:
            n = torch.Size(region.counts).numel()
            kept = how.init(region.shape, n, p)
            whole = tuple(how.whole(f) for f in kept)
            eyes = tuple(torch.eye(f.shape[-1], dtype=f.dtype, device=f.device) for f in whole)
            bases.append(tuple(e.expand_as(f).clone() for e, f in zip(eyes, whole, strict=True)))
            if track is not None and track.source == "factors" and track.init:
                kept = tuple(
                    how.kept(track.init * e.expand_as(f)) for e, f in zip(eyes, whole, strict=True)
                )
            factors.append(kept)
            tracked = track is not None and track.source == "tracked"
            roots.append(tuple(map(track.first, whole)) if track and tracked else ())
        phase = self.basis.phase(name, p)
        return EigenbasisLeaf(new_count([p]), phase, tuple(bases), tuple(factors), tuple(roots))

    def _update(
        self, call: Call, state: InEigenbasisState, values: dict[str, Any]
    ) -> tuple[PyTree, InEigenbasisState]:
        states = tree.flatten_like(self.name, call.spec, state.leaves, "state")
        there = [i for i, u in enumerate(call.updates) if u is not None]
        if not there:
            return call.spec.unflatten(call.updates), state
        for i in there:
            if not isinstance(states[i], EigenbasisLeaf):
                raise TreeMismatchError(
                    f"{self.name}: leaf {call.names[i]!r} has an update but no state; "
                    "it was None when init was called"
                )
        if self.nonfinite == "raise":
            finite = [
                isfinite_leaf(u) if u is not None and any(s.factors) else None
                for u, s in zip(call.updates, states, strict=True)
            ]
            advice = "Skip such leaves with gx.apply_if_leaf_finite"
            require_finite(self.name, call.names, finite, advice)
        work = _Work(self, call, state, states, there)
        outs = work.run()
        new = [work.leaf(i) for i in range(len(states))]
        updates = [u if o is None else like(o, u) for u, o in zip(call.updates, outs, strict=True)]
        return call.spec.unflatten(updates), InEigenbasisState(call.spec.unflatten(new), work.inner)


class _Flags(NamedTuple):
    """What is due for a leaf at this call.

    Attributes:
        step: calls so far, this one included.
        first: whether this one only finds the first bases.
        due: whether bases are refreshed.
    """

    step: Tensor
    first: Flag
    due: Flag


class _Work:
    """One update of all leaves, their blocks batched by shape."""

    def __init__(
        self,
        tx: in_eigenbasis,
        call: Call,
        state: InEigenbasisState,
        states: list[Any],
        there: list[int],
    ) -> None:
        self.tx, self.call, self.states, self.inner = tx, call, states, state.inner_state
        self.units = Units(tx.cut, tx.factors, call.updates)
        for unit in self.units.all:
            name, found = call.names[unit.leaf], states[unit.leaf].bases
            self.units.check(tx.name, name, unit, found, lambda q: q)
        flags = dict(zip(there, self._flags([states[i] for i in there]), strict=True))
        self.flags = [flags.get(i) for i in range(len(states))]
        self.step, self.first, self.due = (
            [getattr(flags[u.leaf], name) for u in self.units.all] for name in _Flags._fields
        )
        at = [(states[u.leaf], u.region) for u in self.units.all]
        self.bases = [s.bases[j] for s, j in at]
        self.factors = [tuple(map(tx.factors.whole, s.factors[j])) for s, j in at]
        self.roots = [s.roots[j] for s, j in at]
        self.old: list[Tensor] = []
        self.new: list[Tensor] = []
        for unit, step in zip(self.units.all, self.step, strict=True):
            weights = tx.factors.weights(step, unit.kind.dtype, corrected=not tx.corrects_later)
            for into, weight in zip((self.old, self.new), weights, strict=True):
                into.append(weight.expand(self.units.count(unit)))

    def _flags(self, states: list[EigenbasisLeaf]) -> list[_Flags]:
        steps = [advance(s.step) for s in states]
        how, tx = self.tx.basis, self.tx
        firsts: Sequence[Flag] = [False] * len(steps)
        if tx.after:
            firsts = readable([t == 1 for t in steps])
        start = None if tx.after else how.first_refresh
        counted = [t - 1 if tx.after and tx.first != "current" else t for t in steps]
        dues = readable(
            [due(t, how.every, s.phase, start) for t, s in zip(counted, states, strict=True)]
        )
        return [_Flags(*x) for x in zip(steps, firsts, dues, strict=True)]

    def run(self) -> list[Any]:
        """The updates of all leaves; None where there are none."""
        tx, call, units = self.tx, self.call, self.units
        xs = units.gather(call.updates)
        ys = xs if tx.source == "updates" else units.gather(gradients_of(tx.name, call))
        every, at_once = range(len(xs)), tx.first == "current"
        fresh = [i for i in every if self.first[i] is not False]
        later = [i for i in every if at_once or self.first[i] is not True]
        if at_once:
            self._begin(fresh, ys)
        turned = self._rotated(later, ys)
        if not tx.after:
            self._gather(later, turned)
            turned = self._refresh(later, turned)
        outs = self._inside(later, turned if ys is xs else self._rotated(later, xs), turned)
        if tx.after:
            again = [i for i in later if self.first[i] is not True]
            self._gather(again, turned)
            self._refresh(later, turned)
        if not at_once:
            self._begin(fresh, ys)
            for i in fresh:
                flag, own = self.first[i], xs[i] if tx.first == "pass" else torch.zeros_like(xs[i])
                outs[i] = torch.where(flag, own, outs[i]) if isinstance(flag, Tensor) else own
        return units.scatter(outs)

    def _rotated(self, where: Sequence[int], xs: Sequence[Any]) -> list[Any]:
        low = self.tx.matmul_dtype

        def fn(kind: Kind, x: Tensor, bases: Sides) -> Tensor:
            return rotated(kind, x, bases, low if x.dtype == torch.float32 else None)

        done = self.units.each(where, fn, xs, self.bases)
        return [done.get(i) for i in range(len(xs))]

    def _inside(self, where: Sequence[int], xs: list[Any], ys: list[Any]) -> list[Any]:
        """What the inner transform makes of coordinates, turned back."""
        tx, call, units, track = self.tx, self.call, self.units, self.tx.track
        low = units.scatter(xs)
        grads = low if ys is xs else units.scatter(ys)
        extra = {**call.extra, "grads": call.spec.unflatten(grads)}
        out, inner = tx.update_transform(call.spec.unflatten(low), self.inner, None, extra)
        self.inner = inner if tx.first == "current" else self._without_first(inner)
        made = tree.leaves_like(tx.name, call.spec, out, "inner update")
        outs = units.gather(list(map(densify_leaf, made)))

        def finish(kind: Kind, x: Tensor, bases: Sides, factors: Sides, roots: Sides) -> Tensor:
            if track is not None and track.precondition:
                x = track.applied(x, roots or tuple(map(track.of_factor, factors)), kind.sides)
            return back(kind, x, bases, tx.matmul_dtype if x.dtype == torch.float32 else None)

        done = units.each(where, finish, outs, self.bases, self.factors, self.roots)
        return [done.get(i) for i in range(len(xs))]

    def _without_first(self, inner: PyTree) -> PyTree:
        """The inner state as before where it cannot be read that this is a leaf's first call."""
        flags = [None if f is None or isinstance(f.first, bool) else f.first for f in self.flags]
        if all(flag is None for flag in flags):
            return inner
        olds: list[list[Any]] = [[] for _ in flags]
        spec = self.call.spec
        map_leaf_states(lambda i, s: olds[i].append(s), self.inner, spec)

        def chosen(i: int, s: Any) -> Any:
            flag, old = flags[i], olds[i].pop(0)
            return s if flag is None else tree.where(flag, old, s)

        return map_leaf_states(chosen, inner, spec)

    def _gather(self, where: Sequence[int], ys: list[Any]) -> None:
        """Put a gradient's coordinates into factors and roots."""
        tx = self.tx

        def fn(kind: Kind, *args: Any) -> Gathered:
            return gathered(tx.factors, tx.track, kind, *args)

        done = self.units.each(where, fn, ys, self.factors, self.roots, self.old, self.new)
        for i, new in done.items():
            flag = self.first[i]
            if isinstance(flag, Tensor):  # a first gradient is in the factors already
                new = tree.where(flag, Gathered(self.factors[i], self.roots[i]), new)
            self.factors[i], self.roots[i] = new

    def _begin(self, where: Sequence[int], ys: list[Any]) -> None:
        """The first factors and bases."""
        tx = self.tx

        def fn(kind: Kind, y: Tensor, factors: Sides, weight: Tensor) -> tuple[Sides, Sides]:
            weight = torch.ones_like(weight) if tx.factors.whole_first else weight
            start = first_factors(tx.factors, kind, y, factors, weight)
            new = [tx.basis.first(f) for f in start]
            return tuple(f for f, _ in new), tuple(q for _, q in new)

        done = self.units.each(where, fn, ys, self.factors, self.new, large=at_once())
        for i, fresh in done.items():
            flag = self.first[i]
            if isinstance(flag, Tensor):
                fresh = tree.where(flag, fresh, (self.factors[i], self.bases[i]))
            self.factors[i], self.bases[i] = fresh

    def _refresh(self, where: Sequence[int], ys: list[Any]) -> list[Any]:
        """Turn the bases that are due and all that is kept in them; ys in the new coordinates."""
        tx = self.tx
        turns: dict[int, tuple[Turned, ...]] = {}
        turning = [i for i in where if self.due[i] is not False]
        by = {i: self._correction(i) for i in turning}
        factors = list(self.factors)
        for i, c in by.items():
            factors[i] = factors[i] if c is None else tuple(f / c for f in factors[i])
        for how, mine in self._methods(turning):

            def fn(kind: Kind, factors: Sides, bases: Sides, how: str = how) -> tuple[Turned, ...]:
                return turn(tx.basis, how, factors, bases)

            turns |= self.units.each(mine, fn, factors, self.bases, large=at_once())
        out = list(ys)
        for i, done in turns.items():
            kept, c = (self.factors[i], self.bases[i], ys[i]), by[i]
            new = (
                tuple(t.factor if c is None else t.factor * c for t in done),
                tuple(t.basis for t in done),
                ys[i] if tx.after else carry(self.units.all[i].kind, ys[i], done, second=False),
            )
            flag = self.due[i]
            self.factors[i], self.bases[i], out[i] = (
                tree.where(flag, new, kept) if isinstance(flag, Tensor) else new
            )
        if turns:
            self._carry_inside(turns)
        return out

    def _correction(self, i: int) -> Tensor | None:
        """What the factors of a unit are divided by where its bases are refreshed."""
        if not self.tx.corrects_later:
            return None
        return self.tx.factors.correction(self.step[i], self.units.all[i].kind.dtype)

    def _methods(self, turning: list[int]) -> list[tuple[str, list[int]]]:
        """Units by how their bases are found: the first ones exactly with init="eigh"."""
        how = self.tx.basis
        if self.tx.after or how.init != "eigh" or how.refresh == "eigh":
            return [(how.refresh, turning)]
        begins = readable([self.step[i] == how.first_refresh for i in turning])
        # Where it cannot be read it is made exactly every time.
        exact = [i for i, flag in zip(turning, begins, strict=True) if flag is not False]
        return [("eigh_descending", exact), (how.refresh, [i for i in turning if i not in exact])]

    def _carry_inside(self, turns: dict[int, tuple[Turned, ...]]) -> None:
        units = self.units
        place = {(u.leaf, u.region): i for i, u in enumerate(units.all)}
        moving = {units.all[i].leaf for i in turns}
        likes = [u if i in moving else None for i, u in enumerate(self.call.updates)]

        def moved(leaf: int, moment: Tensor, second: bool) -> Tensor:
            plan = units.plans[leaf]
            assert plan is not None
            new = []
            for j, x in enumerate(plan.gather(moment)):
                i = place[leaf, j]
                y, flag = carry(units.all[i].kind, x, turns[i], second), self.due[i]
                new.append(torch.where(flag, y, x) if isinstance(flag, Tensor) else y)
            return plan.scatter(new)

        self.inner = carried(self.tx.transform, self.inner, self.call.spec, likes, moved)

    def leaf(self, i: int) -> Any:
        """The new state of a leaf."""
        flags = self.flags[i]
        if flags is None:
            return self.states[i]
        where = [k for k, u in enumerate(self.units.all) if u.leaf == i]
        kept = self.tx.factors.kept
        return EigenbasisLeaf(
            flags.step,
            self.states[i].phase,
            tuple(tuple(q.contiguous() for q in self.bases[k]) for k in where),
            tuple(tuple(kept(f).contiguous() for f in self.factors[k]) for k in where),
            tuple(self.roots[k] for k in where),
        )
