"""Transforms side by side, merged leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import tree
from .chain import Chain, chain, check_members
from .execution import Execution
from .leaves import densify_leaf
from .protocol import GradientTransformation
from .roots import divide, root
from .tree import PyTree


def graft(magnitude: Tensor, direction: Tensor) -> Tensor:
    """The direction of one update with the norm of another, per leaf.

    >>> import torch, gradtx as gx
    >>> gx.graft(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]))
    tensor([0., 5.])
    """
    sizes = (root(tree.squared_norm(x)) for x in (magnitude, direction))
    return direction * divide(*sizes)


def add(*updates: Tensor) -> Tensor:
    """The sum of updates."""
    out = updates[0]
    for u in updates[1:]:
        out = out + u
    return out


@dataclass(frozen=True)
class Parallel(GradientTransformation):
    """Transforms that all receive the same updates; made by ``parallel``."""

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    members: Chain
    merge: Callable[..., Tensor] = add

    @property
    def name(self) -> str:
        return "parallel"

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return self.members.inner

    def __repr__(self) -> str:
        members = ", ".join(repr(tx) for _, tx in self.members)
        return f"parallel({members}, merge={self.merge.__name__})"

    def init(self, params: PyTree) -> PyTree:
        return self.members.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_members(self.name, state, self.members.members)
        outs, new_state = [], {}
        for name, _ in self.members:
            out, new_state[name] = self.update_inner(name, updates, state[name], params, extra)
            outs.append(out)
        dense = [tree.map(densify_leaf, out) for out in outs]
        return tree.map(self.merge, *dense), new_state


def parallel(*transforms: GradientTransformation, merge: Callable[..., Tensor] = add) -> Parallel:
    """Give the same updates to several transforms and merge what comes out, leaf by leaf.

    Args:
        transforms: the branches; a chain is one branch.
        merge: function of one update per branch; ``gx.graft`` takes the norm of the first and the
            direction of the second, the default adds.

    >>> import torch, gradtx as gx
    >>> tx = gx.parallel(gx.scale(5.0), gx.scale_by_sign(), merge=gx.graft)
    >>> params = {"w": torch.zeros(4)}
    >>> tx.update({"w": torch.ones(4)}, tx.init(params))[0]
    {'w': tensor([5., 5., 5., 5.])}
    """
    named = []
    for i, tx in enumerate(transforms):
        named.append((f"branch_{i}", tx) if isinstance(tx, Chain) else chain(tx).members[0])
    names = [name for name, _ in named]
    unique = [f"{n}_{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]
    return Parallel(Chain(tuple((n, tx) for n, (_, tx) in zip(unique, named, strict=True))), merge)
