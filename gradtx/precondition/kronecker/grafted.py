"""The direction of one transform with the size of another, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core import tree
from ...core.chain import check_members
from ...core.declared import short_repr
from ...core.execution import Execution
from ...core.fields import static
from ...core.leaves import densify_leaf
from ...core.protocol import GradientTransformation
from ...core.roots import divide_by_sum, root
from ...core.state import advance, new_count
from ...core.tree import PyTree
from .blocks import blocks


@dataclass(frozen=True)
class grafted(GradientTransformation):
    """Give every block the direction of one transform and the norm of another.

    update = U |M| / (|U| + norm_eps) for blocks U, M of what ``direction`` and ``magnitude`` make
    of the same updates. Both may follow the gradients besides, see ``gx.on_gradients``.

    Args:
        direction: transform whose direction counts.
        magnitude: transform whose norm counts.
        cut: how leaves are cut into blocks.
        norm_eps: added to the norm of the direction, >= 0.
        start: first update at which the direction counts; before that M is the update; >= 1.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2002.11803.

    >>> import torch, gradtx as gx
    >>> tx = gx.grafted(gx.scale_by_sign(), gx.identity(), gx.blocks(1))
    >>> u = {"w": torch.tensor([3.0, -4.0])}
    >>> tx.update(u, tx.init(u))[0]
    {'w': tensor([ 3., -4.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    direction: GradientTransformation
    magnitude: GradientTransformation
    cut: blocks = blocks()
    norm_eps: float = static(1e-16, within="[0, inf)")
    start: int = static(1, at_least=1, steps=True)

    def __repr__(self) -> str:
        return short_repr(self.name, self)

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {"direction": self.direction, "magnitude": self.magnitude}

    def init(self, params: PyTree) -> PyTree:
        state = {name: tx.init(params) for name, tx in self.inner.items()}
        if self.start > 1:
            ps, spec = tree.flatten(params)
            state["step"] = spec.unflatten([() if p is None else new_count([p]) for p in ps])
        return state

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        late = self.start > 1 and isinstance(state, Mapping) and "step" in state
        counted = {"step": state["step"]} if late else {}
        members = {k: v for k, v in state.items() if k not in counted} if late else state
        check_members(self.name, members, tuple(self.inner.items()))
        extra.setdefault("grads", updates)
        outs, new = [], {}
        for name in self.inner:
            out, new[name] = self.update_inner(name, updates, state[name], params, extra)
            outs.append(tree.map(densify_leaf, out))
        if not counted:
            return tree.map(self._joined, *outs), new
        us, spec = tree.flatten(updates)
        steps = tree.flatten_like(self.name, spec, counted["step"], "state")
        steps = [t if u is None else advance(t) for u, t in zip(us, steps, strict=True)]
        new["step"] = spec.unflatten(steps)
        return tree.map(self._later, *outs, new["step"]), new

    def _later(self, u: Tensor, m: Tensor, step: Tensor) -> Tensor:
        return torch.where(step < self.start, m, self._joined(u, m))

    def _joined(self, u: Tensor, m: Tensor) -> Tensor:
        plan, out = self.cut.plan(u.shape), []
        for a, b in zip(plan.gather(u), plan.gather(m), strict=True):
            want, have = (root(x.reshape(len(x), -1).square().sum(-1)) for x in (b, a))
            factor = divide_by_sum(want, have, self.norm_eps)
            out.append(a * factor.reshape(-1, *[1] * (a.ndim - 1)))
        return plan.scatter(out)
