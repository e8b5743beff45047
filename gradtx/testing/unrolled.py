"""A few steps of training as a function of parameters and hyperparameters, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.apply import apply_updates
from ..core.leaves import densify_leaf
from ..core.protocol import GradientTransformation
from ..meta.leaves import jvp
from ..meta.scan import scan
from .members import dynamics
from .trees import call, number, random_tree, tensors

SHAPES = {"b": (2,), "w": (3, 2)}
STEPS = 2
SIZE = 1e-3  # of the steps: what is learnt may not run away
_F64 = torch.float64
# Where the gradient is not zero throughout.
_MASK = {
    "b": torch.tensor([1.0, 0.0], dtype=_F64, device="cpu"),
    "w": torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=_F64, device="cpu"),
}

Training = Callable[[Any, Any], Tensor]


def vdot(a: Any, b: Any) -> Tensor:
    """The sum of products of two trees."""
    pairs = zip(tensors(a), tensors(b), strict=True)
    return sum(((x * y).sum() for x, y in pairs), number(0.0, _F64))


class Unrolled:
    """A transform's training in float64, differentiated by parameters and hyperparameters.

    Some entries never have a gradient. Hyperparameters at the end of their interval are
    differentiated, and not moved.

    Attributes:
        at: parameters and hyperparameters.
        along: the direction of directional derivatives.
    """

    def __init__(self, tx: GradientTransformation) -> None:
        self.tx = tx
        params = random_tree(100, SHAPES, _F64)
        fixed = [d for d in dynamics(tx) if not callable(d.value)]
        hyper = {d.key: number(float(d.value), _F64) for d in fixed}
        inside = {d.key: float(d.value) not in d.bounds() for d in fixed}
        self.at = (params, hyper)
        self.along = (
            tree.map(lambda p: torch.sin(7 * p), params),
            {key: 0.3 * value * inside[key] for key, value in hyper.items()},
        )
        self._weights = random_tree(101, SHAPES, _F64)

    def step(self, carry: Any, x: Any = None) -> tuple[Any, Any]:
        """One step of parameters, state and hyperparameters, and its updates."""
        params, state, hyper = carry
        grads = tree.map(lambda p, m: m * (p - 2) ** 3, params, _MASK)
        updates, state = call(self.tx, grads, state, params, hyper=hyper)
        dense = tree.map(densify_leaf, updates)
        params = apply_updates(params, tree.map(lambda u: SIZE * u, dense))
        return (params, state, hyper), dense

    def loop(self, params: Any, hyper: Any) -> Tensor:
        """What the updates of an ordinary loop come to, as one number."""
        carry, outs = (params, self.tx.init(params), hyper), []
        for _ in range(STEPS):
            carry, out = self.step(carry)
            outs.append(out)
        return self._total(tree.map(lambda *us: torch.stack(us), *outs))

    def scanned(self, params: Any, hyper: Any, remat: bool = False) -> Tensor:
        """The same by ``gx.meta.scan``."""
        start = (params, self.tx.init(params), hyper)
        return self._total(scan(self.step, start, length=STEPS, remat=remat)[1])

    def _total(self, outs: Any) -> Tensor:
        weighted = tree.map(lambda u, w: u * w + u * u / 2, outs, self._weights)
        return sum((x.sum() for x in tensors(weighted)), number(0.0, _F64))

    def moved(self, by: float) -> Any:
        """The point some way along the direction."""
        return tree.map(lambda x, d: x + by * d, self.at, self.along)

    @cached_property
    def gradient(self) -> Any:
        """By reverse mode."""
        return gradient(self.loop)(*self.at)

    @cached_property
    def slope(self) -> Tensor:
        """Along the direction, by forward mode."""
        return jvp(self.loop, self.at, self.along)[1]

    @cached_property
    def curvature(self) -> Any:
        """The Hessian times the direction, by forward over reverse mode."""
        return jvp(gradient(self.loop), self.at, self.along)[1]


def gradient(f: Training) -> Callable[..., Any]:
    """The gradient by both arguments."""
    derive: Callable[..., Any] = torch.func.grad(f, argnums=(0, 1))
    return derive
