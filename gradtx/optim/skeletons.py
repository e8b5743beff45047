"""What the state of one parameter looks like, and the states of several with fresh entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree
from ..distributed.records import is_distributed
from .checkpoint import Wanted, check_tensors, wanted
from .leaves import Leaves, Nested, hollow, paths, to_nested

# A state's structure for one parameter, the members that have a state, and all its tensors.
Skeleton = tuple[PyTree, frozenset[str], list[Wanted]]


class Skeletons:
    """Structures of states by chain and kind of parameter, each made once."""

    def __init__(self) -> None:
        self._known: dict[GradientTransformation, dict[LeafInfo, Skeleton]] = {}

    def of(self, tx: GradientTransformation, p: Tensor, name: str) -> Skeleton:
        """The structure for one parameter."""
        known, info = self._known.setdefault(tx, {}), LeafInfo.of(p, name)
        if info not in known:
            with torch.no_grad():
                skeleton = hollow(tx.init(Leaves({name: _whole(p)})))
            names = frozenset(to_nested(skeleton, name))
            known[info] = skeleton, names, wanted(skeleton, name)
        return known[info]

    def complete(
        self,
        who: str,
        tx: GradientTransformation,
        params: Iterable[Tensor],
        names: Mapping[Tensor, str],
        stored: Mapping[Tensor, Nested],
    ) -> tuple[dict[str, PyTree], dict[str, Nested]]:
        """Structures and stored states of parameters, fresh entries where they have none yet.

        Raises:
            ValueError: a stored tensor does not fit its parameter; nothing has changed.
        """
        skeletons, nested, fresh = {}, {}, {}
        for p in params:
            name = names[p]
            skeletons[name], members, tensors = self.of(tx, p, name)
            nested[name] = stored.get(p) or {}
            check_tensors(who, name, tensors, nested[name])
            if not members <= nested[name].keys():  # new
                fresh[name] = p
        if fresh:
            state = tx.init(Leaves(fresh))
            nested.update({n: {**to_nested(state, n), **nested[n]} for n in fresh})
        return skeletons, nested

    def check(
        self, who: str, tx: GradientTransformation, p: Tensor, name: str, stored: Any
    ) -> None:
        """Raise ValueError unless a stored state has the entries that the chain's state has.

        Shapes must agree, and dtypes except for those of floating-point buffers. There may be other
        members, which are switched off.
        """
        skeleton, members, tensors = self.of(tx, p, name)
        now = {k: v for k, v in stored.items() if k in members or not isinstance(v, dict)}
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
