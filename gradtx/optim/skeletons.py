"""What the state of one parameter looks like, and the states of several with fresh entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.execution import holds
from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation, members
from ..core.tree import PyTree
from ..distributed.records import is_distributed
from .checkpoint import Wanted, check_tensors, wanted
from .leaves import Leaves, Nested, hollow, part_of, paths, to_nested

# A state's structure for one parameter, the members that have a state, and all its tensors.
Skeleton = tuple[PyTree, frozenset[str], list[Wanted]]


class Skeletons:
    """Structures of states by chain and kind of parameter, each made once."""

    def __init__(self) -> None:
        self._known: dict[GradientTransformation, dict[LeafInfo, Skeleton]] = {}
        self._joined: dict[GradientTransformation, bool] = {}

    def joins(self, tx: GradientTransformation) -> bool:
        """Whether what a chain keeps has a shape that depends on all leaves."""
        if tx not in self._joined:
            self._joined[tx] = any(holds(member, "joins_leaves") for _, member in members(tx))
        return self._joined[tx]

    def of(self, tx: GradientTransformation, p: Tensor, name: str) -> Skeleton:
        """The structure for one parameter."""
        known, info = self._known.setdefault(tx, {}), LeafInfo.of(p, name)
        if info not in known:
            with torch.no_grad():
                skeleton = hollow(tx.init(Leaves({name: _whole(p)})))
            names = frozenset(to_nested(skeleton, name))
            known[info] = skeleton, names, wanted(skeleton, name, own=self.joins(tx))
        return known[info]

    def complete(
        self,
        who: str,
        tx: GradientTransformation,
        params: Iterable[Tensor],
        names: Mapping[Tensor, str],
        stored: Mapping[Tensor, Nested],
        everyone: Iterable[Tensor],
    ) -> tuple[dict[str, PyTree], dict[str, Nested]]:
        """Structures and stored states of parameters, fresh entries where they have none yet.

        Args:
            who: name for errors.
            tx: the chain.
            params: parameters that are updated.
            names: of the parameters.
            stored: states.
            everyone: all parameters of the chain.

        Raises:
            ValueError: a stored tensor does not fit its parameter, or a chain that keeps all leaves
                as one lacks some; nothing has changed.
        """
        skeletons, nested, fresh = {}, {}, {}
        params = list(params)
        if self.joins(tx):
            self._check_all_there(who, tx, params, names, stored, everyone)
        for p in params:
            name = names[p]
            skeletons[name], kept, tensors = self.of(tx, p, name)
            nested[name] = stored.get(p) or {}
            check_tensors(who, name, tensors, nested[name])
            if not kept <= nested[name].keys():  # new
                fresh[name] = p
        if fresh:
            made = self.fresh(tx, fresh)
            nested.update({n: {**made[n], **nested[n]} for n in fresh})
        return skeletons, nested

    def _check_all_there(
        self,
        who: str,
        tx: GradientTransformation,
        params: list[Tensor],
        names: Mapping[Tensor, str],
        stored: Mapping[Tensor, Nested],
        everyone: Iterable[Tensor],
    ) -> None:
        held = [p for p in everyone if stored.get(p)]
        if not held:
            return
        there, had = set(params), set(held)
        for p in (*held, *params):
            if p not in there or p not in had:
                what = "has no gradient" if p in had else "had no gradient at the first step"
                raise ValueError(
                    f"{who}: parameter {names[p]!r} {what}; the chain {list(tx.inner)} keeps all "
                    "parameters as one vector, in which each must have its place at every step"
                )
        self.check_joined(who, tx, params, names, stored[held[0]])

    def check_joined(
        self,
        who: str,
        tx: GradientTransformation,
        params: Iterable[Tensor],
        names: Mapping[Tensor, str],
        stored: Nested,
        loading: bool = False,
    ) -> None:
        """Raise ValueError unless what a chain keeps of some parameters together fits them."""
        like = {names[p]: torch.empty(p.shape, dtype=p.dtype, device="meta") for p in params}
        try:
            with torch.no_grad():
                skeleton = tx.init(Leaves(like))
        except NotImplementedError:  # its shape depends on values
            return
        check_tensors(who, None, wanted(skeleton, None), stored, loading)

    def shared(self, tx: GradientTransformation, p: Tensor, name: str, stored: Nested) -> Nested:
        """The part of one parameter's stored state that all parameters share."""
        return part_of(stored, to_nested(self.of(tx, p, name)[0], None))

    def without_own(
        self, tx: GradientTransformation, p: Tensor, name: str, held: Nested
    ) -> Nested | None:
        """The state of a parameter of which nothing is kept but what all share; None for others.

        Args:
            tx: the chain.
            p: the parameter.
            name: its name.
            held: the state of another one; nothing if none has any.
        """
        skeleton, _, _ = self.of(tx, p, name)
        shared = to_nested(skeleton, None)
        alone = set(paths(to_nested(skeleton, name))) == set(paths(shared))
        return part_of(held, shared) if alone and (held or not shared) else None

    def fresh(self, tx: GradientTransformation, params: Mapping[str, Tensor]) -> dict[str, Nested]:
        """New states of parameters by name."""
        state = tx.init(Leaves(params))
        return {name: to_nested(state, name) for name in params}

    def check(
        self, who: str, tx: GradientTransformation, p: Tensor, name: str, stored: Any
    ) -> None:
        """Raise ValueError unless a stored state has the entries that the chain's state has.

        Shapes must agree, and dtypes except for those of floating-point buffers. There may be other
        members, which are switched off.
        """
        skeleton, kept, tensors = self.of(tx, p, name)
        now = {k: v for k, v in stored.items() if k in kept or not isinstance(v, dict)}
        want, got = set(paths(to_nested(skeleton, name))), set(paths(now))
        if want - got:
            got = set(paths(stored))
        if want != got:
            raise ValueError(
                f"{who}: the state of parameter {name!r} does not fit the chain {list(tx.inner)}: "
                f"missing {sorted(want - got)}, unexpected {sorted(got - want)}"
            )
        check_tensors(who, name, tensors, stored, loading=True)


def _whole(p: Tensor) -> Tensor:
    """A parameter, or for a DTensor a tensor that it could have come from."""
    if not is_distributed(p):
        return p
    return torch.zeros(p.shape, dtype=p.dtype, device=p.device)
