"""Mechanic: the scale of another optimizer's updates, learned while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.checks import check_tensors
from ..core.hyper import Hyper, dynamic, static
from ..core.leaf_states import per_leaf
from ..core.leaves import ANY_UPDATE, densify_leaf
from ..core.protocol import Wrapper
from ..core.reduce import LOCAL, Reduce
from ..core.roots import root
from ..core.state import advance, new_count, new_scalar
from ..core.tree import PyTree


class MechanizeState(NamedTuple):
    """State of ``mechanize``; vectors have an entry for every beta.

    Attributes:
        step: int32, updates done.
        r: (num_betas,), reward.
        m: (num_betas,), largest |h|, decayed.
        v: (num_betas,), sum of squares of h, decayed.
        s: (num_betas,), scales; their sum is what updates are multiplied by.
        x0: per leaf the parameter at the first update.
        inner_state: state of the base optimizer.
    """

    step: Tensor
    r: Tensor
    m: Tensor
    v: Tensor
    s: Tensor
    x0: PyTree
    inner_state: PyTree


@dataclass(frozen=True)
class mechanize(Wrapper):
    """Learn the factor that another optimizer's updates, added up, are multiplied by.

    With D the sum of the optimizer's negative updates so far, p = x0 - sum(s) D. For every beta:
    h = <g + decay, D>, m <- max(beta m, |h| + eps), v <- beta^2 v + h^2,
    r <- beta r + clip(h, -m, m) s, s <- (s_init m / n + max(r, 0)) / (sqrt(v) + eps), where m is
    that of before in the clipping and decay = weight_decay sum(s) |g| / (|p| + eps) p.

    Args:
        transform: the base optimizer, with a learning rate of about 1 or a schedule of that height.
        weight_decay: the share of the gradient's norm, >= 0.
        eps: added to denominators, > 0.
        s_init: the first scale, > 0.
        num_betas: n; betas are 1 - 0.1^i for i = 1..n, >= 1.

    Raises:
        ValueError: a value outside its interval, or no parameters at ``update``.

    Source: arXiv 2306.00144.

    >>> import torch, gradtx as gx
    >>> tx, w = gx.mechanize(gx.sgd(1.0), s_init=0.5), torch.tensor([3.0])
    >>> state = tx.init(w)
    >>> for _ in range(20):
    ...     updates, state = tx.update(2 * w, state, w)
    ...     w = gx.apply_updates(w, updates)
    >>> bool(w.abs() < 3)
    True
    """

    weight_decay: Hyper = dynamic(1e-2, within="[0, inf)")
    eps: float = static(1e-8, within="(0, inf)")
    s_init: float = static(1e-6, within="(0, inf)")
    num_betas: int = static(6, at_least=1)

    def init(self, params: PyTree) -> MechanizeState:
        check_tensors(self.name, params, what="parameter")
        there = tree.leaves(params)
        zero = new_scalar(there).new_zeros(self.num_betas)
        return MechanizeState(
            new_count(there),
            zero,
            zero.clone(),
            zero.clone(),
            torch.full_like(zero, self.s_init),
            per_leaf(lambda p: tree.accumulator(p).clone(), params),
            self.transform.init(params),
        )

    def update(
        self, updates: PyTree, state: MechanizeState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, MechanizeState]:
        if params is None:
            raise ValueError("mechanize: needs the parameters; call update(updates, state, params)")
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        reduce: Reduce = extra.get("reduce", LOCAL)
        new, inner = self.update_transform(updates, state.inner_state, params, extra)
        leaves, spec = tree.flatten(updates)
        there = [i for i, u in enumerate(leaves) if u is not None]
        if not there:
            return updates, state._replace(inner_state=inner)

        def column(whole: PyTree) -> list[Any]:
            found: list[Any] = spec.flatten_up_to(whole)
            return [found[i] for i in there]

        gs = [tree.accumulator(densify_leaf(leaves[i])) for i in there]
        ps = [tree.accumulator(p) for p in column(params)]
        us = [densify_leaf(u) for u in column(new)]
        hs = column(self.values(updates, extra, state.step))
        x0s = [
            torch.where(state.step == 0, p, x) for p, x in zip(ps, column(state.x0), strict=True)
        ]
        scale = state.s.sum()
        size = root(reduce.sum(tree.total([tree.squared_norm(g) for g in gs])))
        length = root(reduce.sum(tree.total([tree.squared_norm(p) for p in ps])))
        pull = scale * size.to(scale) / (length.to(scale) + self.eps)
        gs = [g + (h.weight_decay * pull).to(g) * p for g, p, h in zip(gs, ps, hs, strict=True)]
        sums = [(x - p) / (scale + self.eps).to(p) for x, p in zip(x0s, ps, strict=True)]
        inner_product = tree.total([tree.vdot(g, d) for g, d in zip(gs, sums, strict=True)])
        s, rest = self._scales(state, reduce.sum(inner_product).to(scale))
        outs: list[Any] = [None] * len(leaves)
        kept: list[Any] = spec.flatten_up_to(state.x0)
        for i, p, x, d, u in zip(there, ps, x0s, sums, us, strict=True):
            outs[i] = x - s.sum().to(p) * (d - u) - p
            kept[i] = x
        return spec.unflatten(outs), MechanizeState(
            advance(state.step), *rest, s, spec.unflatten(kept), inner
        )

    def _scales(
        self, old: MechanizeState, h: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The new scales, and r, m and v."""
        powers = torch.arange(1, self.num_betas + 1, device=h.device, dtype=h.dtype)
        betas = 1 - 0.1**powers
        clipped = torch.minimum(torch.maximum(h, -old.m), old.m)
        m = torch.maximum(betas * old.m, h.abs() + self.eps)
        v = betas**2 * old.v + h**2
        r = betas * old.r + clipped * old.s
        wealth = self.s_init / self.num_betas * m + torch.clamp(r, min=0)
        return wealth / (root(v) + self.eps), (r, m, v)
