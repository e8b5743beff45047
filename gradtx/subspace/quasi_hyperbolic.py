"""Quasi-hyperbolic steps: a part of the plain gradient beside the moments."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import tree
from ..core.chain import check_members
from ..core.declared import Call, DeclaredTransform, like
from ..core.execution import Execution, holds
from ..core.extra import without_trees
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo, LowRankUpdate, densify_leaf
from ..core.protocol import GradientTransformation
from ..core.roots import divide
from ..core.sums import element_mean, mean_over
from ..core.tree import PyTree
from .leaf import Where, is_projected
from .projector import Projector

_WAYS = ("mean", "column")


def _check_across(who: str, name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value not in _WAYS and not (number and value > 0):
        raise ValueError(f"{who}: {name} must be one of {_WAYS} or a number > 0, got {value!r}")


@dataclass(frozen=True)
class quasi_hyperbolic(DeclaredTransform):
    """Mix the gradient with its moments: ``((1 - omega) u + omega m) / d``.

    m = numerator(u), d = denominator(u), or 1 without one. Of a low-rank update with coordinates z
    in a basis Q both see z, and the gradient is all of g, what is outside the subspace too:
    (1 - omega) g / mean(d) + omega Q (m / d). So a step leaves a subspace that was chosen once.

    Args:
        numerator: transform above the bar, such as ``gx.first_moment``.
        denominator: transform below it, such as ``gx.root_second_moment``, or None.
        omega: weight of the moments, in [0, 1]; 1 is the plain quotient.
        across: by what the gradient of a low-rank update is divided: the "mean" of d, its mean for
            every "column" of coordinates, or a number > 0.
        projector: of low-rank updates, it says how large their coordinates are.
        where: the same predicate as there.

    Raises:
        ValueError: a value outside its range; low-rank updates outside a chain.
        TypeError: a member of another type.

    Source: arXiv 1810.06801, arXiv 2602.04396.

    >>> import torch, gradtx as gx
    >>> tx = gx.quasi_hyperbolic(gx.first_moment(0.9), omega=0.5)
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([0.5500])}
    """

    accepts: ClassVar[tuple[type, ...]] = (Tensor, LowRankUpdate)
    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    numerator: GradientTransformation
    denominator: GradientTransformation | None = None
    omega: Hyper = dynamic(0.7, within="[0, 1]")
    across: str | float = static("mean", check=_check_across)
    projector: Projector | None = None
    where: Where | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("numerator", "denominator"):
            tx = getattr(self, name)
            if not isinstance(tx, GradientTransformation) and (name, tx) != ("denominator", None):
                raise TypeError(
                    f"{self.name}: {name} must be a GradientTransformation, got {type(tx).__name__}"
                )

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        below = {} if self.denominator is None else {"denominator": self.denominator}
        return {"numerator": self.numerator, **below}

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        low = list(leaves)
        for i, (p, name) in enumerate(zip(leaves, names, strict=True)):
            if p is None or self.projector is None:
                continue
            info = LeafInfo.of(p, name)
            if is_projected(self.projector, self.where, info):
                low[i] = p.new_zeros(self.projector.factor_shape(info.shape))
        return {name: tx.init(spec.unflatten(low)) for name, tx in self.inner.items()}

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        check_members(self.name, state, tuple(self.inner.items()))
        updates, spec = call.spec.unflatten(call.updates), call.spec
        low = spec.unflatten([u.factor if _is_low(u) else u for u in call.updates])
        projected = any(map(_is_low, call.updates))
        grads: list[Any] = call.updates
        if projected:
            if "grads" not in call.extra:
                raise ValueError(
                    f"{self.name}: needs the gradients of low-rank updates; use it inside gx.chain"
                )
            grads = tree.leaves_like(self.name, spec, call.extra["grads"], "gradient")
        extra = {
            **(without_trees(self, call.extra, updates) if projected else call.extra),
            "grads": low,
        }
        # Coordinates have no parameters.
        known = not projected and any(p is not None for p in call.params)
        given = spec.unflatten(call.params) if known else None
        parts: dict[str, list[Any]] = {}
        new = {}
        for name in self.inner:
            out, new[name] = self.update_inner(name, low, state[name], given, extra)
            outs = tree.leaves_like(self.name, spec, out, "inner update")
            parts[name] = [None if x is None else densify_leaf(x) for x in outs]
        above = parts["numerator"]
        below = parts.get("denominator", [None] * len(above))
        mixed = [
            None
            if u is None
            else like(self._mixed(u, g, above[i], below[i], Values(call.values_at(i, values))), u)
            for i, (u, g) in enumerate(zip(call.updates, grads, strict=True))
        ]
        return spec.unflatten(mixed), new

    def _mixed(self, u: Any, g: Tensor, m: Tensor, d: Tensor | None, h: Values) -> Tensor:
        by: Any = operator.truediv
        if self.denominator is not None and not holds(self.denominator, "positive"):
            by = divide
        if not _is_low(u):
            out = (1 - h.omega) * u + h.omega * m
            return out if d is None else by(out, d)
        g = tree.accumulator(g)
        if d is not None:
            m, g = by(m, d), by(g, self._size(d, u))
        inside = LowRankUpdate(m, u.basis, u.shape, u.side, u.chosen)
        return (1 - h.omega) * g + h.omega * inside.to_dense()

    def _size(self, d: Tensor, u: LowRankUpdate) -> Tensor:
        """By what the gradient is divided, as it broadcasts against the leaf."""
        if self.across == "mean":
            return element_mean(d)
        if self.across == "column":
            left = u.side == "left"
            shape = (1, *u.shape[1:]) if left else (u.shape[0], *(1,) * (len(u.shape) - 1))
            return mean_over(d, -2 if left else -1).reshape(shape)
        return torch.full((), float(self.across), dtype=d.dtype, device=d.device)


def _is_low(u: Any) -> bool:
    return isinstance(u, LowRankUpdate)
