"""Subspaces that all workers share, chosen from what all of them have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.errors import TreeMismatchError
from ..core.hyper import one_minus_power
from ..core.leaf_states import map_fields, map_leaf_states
from ..core.protocol import GradientTransformation
from ..core.random import Seed, check_seed, derived_key, normal
from ..core.roles import FIRST, SECOND
from ..core.tree import PyTree
from ..subspace import Projector, SubspaceLeaf
from ..subspace.transport import turned_moments
from .local_steps import Meeting, Start, Sync, check_period
from .rounds import Mean, Rounds

_WAYS = ("grad_mean", "random", "given")


def subspaces(local: PyTree, params: PyTree) -> dict[int, SubspaceLeaf]:
    """The subspaces in a local state, by the place of the leaf."""
    found: dict[int, SubspaceLeaf] = {}

    def visit(i: int, node: Any) -> Any:
        if isinstance(node, SubspaceLeaf):
            found[i] = node
        else:
            for _, child in tree.children(node) or ():
                visit(i, child)
        return node

    map_leaf_states(visit, local, tree.flatten(params)[1])
    return found


def with_subspaces(local: PyTree, params: PyTree, new: Mapping[int, SubspaceLeaf]) -> PyTree:
    """The local state with other subspaces."""

    def put(i: int, node: Any) -> Any:
        if isinstance(node, SubspaceLeaf):
            return new.get(i, node)
        inside = tree.children(node)
        return tree.rebuild(node, [put(i, child) for _, child in inside]) if inside else node

    return map_leaf_states(put, local, tree.flatten(params)[1])


@dataclass(frozen=True)
class refresh_subspaces(Sync):
    """Choose subspaces anew from the drift of all workers, and carry the moments along.

    It follows ``outer``: the mean drift is the same for all workers, and so is the subspace. Where
    nothing has moved it stays. The moments turn with it by R = Q_new^T Q_old, the second one
    through its variance around the first (``gx.scale_by_ldadam``).

    Args:
        projector: how a subspace is chosen, the same as in the chain.
        every: steps between two choices, a multiple of ``outer``'s period.
        rotate: False leaves the moments as they are, coordinates in another basis.
        b1: decay of first moments, for what they have gathered so far; None if they are used
            without a correction.
        b2: the same of second moments.

    Raises:
        ValueError: a period below 1; from ``sync``, no drift because ``outer`` was not due.

    Source: arXiv 2602.04396, arXiv 2410.16103.

    >>> import gradtx as gx
    >>> gx.distributed.refresh_subspaces(gx.subspace.svd(4), every=8).due(8)
    True
    """

    projector: Projector
    every: int = 32
    rotate: bool = True
    b1: float | None = None
    b2: float | None = None

    def __post_init__(self) -> None:
        check_period(self.name, "every", self.every)

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def rounds(self, now: Meeting, own: Any, step: int) -> Rounds:
        yield from ()  # nothing is asked for: all workers have the same drift
        if now.drift is None:
            raise ValueError(
                f"{self.name}: no drift at step {step}; put outer before it, "
                "with a period that divides this one's"
            )
        drifts, spec = tree.flatten(now.drift)
        olds = {i: s for i, s in subspaces(now.local, now.params).items() if drifts[i] is not None}
        fresh = self.projector.refresh_all(
            [s.projector for s in olds.values()],
            [drifts[i] for i in olds],
            [False] * len(olds),
        )
        moved = {i: (drifts[i] != 0).any() for i in olds}
        new = {
            i: s._replace(projector=tree.where(moved[i], made, s.projector))
            for (i, s), made in zip(olds.items(), fresh, strict=True)
        }
        local = now.local
        if self.rotate:
            shapes = [() if d is None else tuple(d.shape) for d in drifts]
            local = self._turned(local, spec, olds, new, moved, shapes)
        return now._replace(local=with_subspaces(local, now.params, new)), own

    def same(self, now: Meeting, own: Any) -> PyTree:
        return [s.projector for s in subspaces(now.local, now.params).values()]

    def _turned(
        self,
        local: PyTree,
        spec: Any,
        olds: Mapping[int, SubspaceLeaf],
        news: Mapping[int, SubspaceLeaf],
        moved: Mapping[int, Tensor],
        shapes: list[tuple[int, ...]],
    ) -> PyTree:
        """The local state with moments in new coordinates."""
        found: dict[int, dict[str, Tensor]] = {i: {} for i in olds}

        def gather(i: int, state: Any) -> Any:
            def see(field: str, role: str, x: Tensor) -> Tensor:
                if role and i in found:
                    found[i][role] = x
                return x

            return map_fields(see, state)

        map_leaf_states(gather, local, spec)
        turned: dict[int, dict[str, Tensor]] = {}
        for i, moments in found.items():
            if set(moments) != {FIRST, SECOND}:
                raise TreeMismatchError(
                    f"{self.name}: rotate=True needs one first and one second moment of leaf "
                    f"{tree.names(spec)[i]!r}, its state has {sorted(moments)}; use rotate=False"
                )
            m, v = moments[FIRST], moments[SECOND]
            rotation = self.projector.rotation(
                olds[i].projector, news[i].projector, shapes[i], m.dtype
            )
            c1, c2 = (
                1.0 if b is None else one_minus_power(b, torch.clamp(olds[i].step, min=1), m.dtype)
                for b in (self.b1, self.b2)
            )
            pair = turned_moments(rotation, m, v, c1, c2)
            turned[i] = dict(zip((FIRST, SECOND), pair, strict=True))

        def put(i: int, state: Any) -> Any:
            def write(field: str, role: str, x: Tensor) -> Tensor:
                if not role or i not in turned:
                    return x
                return torch.where(moved[i], turned[i][role].to(x.dtype), x)

            return map_fields(write, state)

        return map_leaf_states(put, local, spec)


def _signal(seed: Seed, name: str, p: Tensor) -> Tensor:
    key = derived_key(seed, name, p.device)
    return normal(key, tuple(p.shape), tree.accumulator_dtype(p.dtype))


@dataclass(frozen=True)
class first_bases(Start):
    """Choose the first subspaces, the same for all workers.

    Args:
        projector: how a subspace is chosen, the same as in the chain.
        way: "grad_mean" takes the mean of all workers' first gradients, "random" normal numbers,
            "given" the bases that are given.
        before: what happens to gradients first, such as clipping; no state of it is kept.
        seed: of "random".
        bases: leaf name -> basis (size, rank) for "given".

    Raises:
        ValueError: another ``way``; bases that are missing or have another shape; from ``begin``,
            a mean gradient that is not finite (names the leaf).

    >>> import torch, gradtx as gx
    >>> gd, projector = gx.distributed, gx.subspace.svd(1)
    >>> tx = gx.chain(gx.project_to_subspace(projector, gx.subspace.never()), gx.lift())
    >>> method = gd.LocalSteps(tx, (), gd.first_bases(projector))
    >>> grads = {"w": torch.diag(torch.tensor([1.0, 3.0]))}
    >>> state = method.begin(grads, grads, method.init(grads), gd.one_worker)
    >>> method.update(grads, state, grads)[0]
    {'w': tensor([[0., 0.],
            [0., 3.]])}
    """

    projector: Projector
    way: str = "grad_mean"
    before: GradientTransformation | None = None
    seed: Seed = 0
    bases: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.way not in _WAYS:
            raise ValueError(f"first_bases: way must be one of {_WAYS}, got {self.way!r}")
        if (self.way == "given") != (self.bases is not None):
            raise ValueError("first_bases: way='given' needs bases, and nothing else takes them")
        check_seed("first_bases", self.seed)

    def init(self, params: PyTree, local: PyTree) -> PyTree:
        if self.way == "grad_mean":
            return local
        leaves, spec = tree.flatten(params)
        names = tree.names(spec)
        choose = self._given if self.way == "given" else self._random
        return with_subspaces(
            local,
            params,
            {
                i: s._replace(projector=choose(names[i], leaves[i], s.projector))
                for i, s in subspaces(local, params).items()
            },
        )

    def _random(self, name: str, p: Tensor, state: Any) -> Any:
        return self.projector.refresh(state, _signal(self.seed, name, p), True)

    def _given(self, name: str, p: Tensor, state: Any) -> Any:
        assert self.bases is not None
        basis, want = self.bases.get(name), tuple(state.basis.shape)
        if basis is None or tuple(basis.shape) != want:
            got = None if basis is None else tuple(basis.shape)
            raise ValueError(f"first_bases: leaf {name!r} needs a basis of shape {want}, got {got}")
        return state._replace(basis=basis.detach().to(state.basis, copy=True))

    def rounds(self, grads: PyTree, params: PyTree, local: PyTree) -> Rounds:
        if self.way != "grad_mean":
            return local
        if self.before is not None:
            grads = self.before.update(grads, self.before.init(params), params)[0]
        olds = subspaces(local, params)
        leaves, spec = tree.flatten(params)
        gs, names = (
            tree.leaves_like("begin", spec, grads, "gradient", "parameter"),
            tree.names(spec),
        )
        own = [
            torch.zeros_like(tree.accumulator(leaves[i]))
            if gs[i] is None
            else tree.accumulator(gs[i])
            for i in olds
        ]
        means = yield [Mean(g) for g in own]
        for i, mean in zip(olds, means, strict=True):
            if not bool(torch.isfinite(mean).all()):
                raise ValueError(
                    f"first_bases: the mean of the first gradients of leaf {names[i]!r} is not "
                    "finite; no subspace can be chosen from it"
                )
        fresh = self.projector.refresh_all(
            [s.projector for s in olds.values()], means, [True] * len(olds)
        )
        new = {
            i: s._replace(projector=made) for (i, s), made in zip(olds.items(), fresh, strict=True)
        }
        return with_subspaces(local, params, new)


def low_rank_leaves(local: PyTree, params: PyTree) -> dict[str, int]:
    """Names of the leaves whose steps are taken in a subspace, and its rank.

    Matrices that are not larger than the rank, and everything that is no matrix, are not there.

    Args:
        local: a worker's local state.
        params: its parameters.

    >>> import torch, gradtx as gx
    >>> method = gx.distributed.lordo(rank=4)
    >>> params = {"w": torch.zeros(8, 16), "small": torch.zeros(4, 9), "b": torch.zeros(8)}
    >>> gx.distributed.low_rank_leaves(method.init(params).local, params)
    {'w': 4}
    """
    names = tree.names(tree.flatten(params)[1])
    return {names[i]: s.projector.basis.shape[-1] for i, s in subspaces(local, params).items()}
