"""One transform divided by another, and chains that start from new gradients."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import tree
from .chain import chain, check_members
from .execution import Execution, holds
from .leaves import densify_leaf
from .protocol import GradientTransformation, Wrapper
from .roots import angle, divide
from .tree import PyTree


def atan2(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The angle of a quotient times 4/pi: like ``divide`` near 0, bounded by 2, without an eps.

    Source: arXiv 2407.05872.

    >>> import torch, gradtx as gx
    >>> gx.atan2(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([3.0, 0.0, 0.0]))
    tensor([1., 2., 0.])
    """
    return 4 / math.pi * angle(numerator, denominator)


@dataclass(frozen=True)
class quotient(GradientTransformation):
    """Divide what one transform makes of the updates by what another makes of them.

    update = by(numerator(u), denominator(u)). Adam is the quotient of a first moment and of the
    root of a second one; a mask or a second average belongs to the numerator.

    Args:
        numerator: transform of the updates above the bar.
        denominator: transform of the same updates below it, such as ``gx.root_second_moment``.
        by: function of both, ``gx.divide`` or ``gx.atan2``.

    >>> import torch, gradtx as gx
    >>> tx = gx.quotient(gx.first_moment(0.9), gx.root_second_moment(0.99))
    >>> params = {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.tensor([-4.0])}, tx.init(params))[0]
    {'w': tensor([-0.1000])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    numerator: GradientTransformation
    denominator: GradientTransformation
    by: Callable[[Tensor, Tensor], Tensor] = divide

    def __repr__(self) -> str:
        by = "" if self.by is divide else f", by={getattr(self.by, '__name__', self.by)}"
        return f"quotient({self.numerator!r}, {self.denominator!r}{by})"

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {"numerator": self.numerator, "denominator": self.denominator}

    def init(self, params: PyTree) -> PyTree:
        return {name: tx.init(params) for name, tx in self.inner.items()}

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_members(self.name, state, tuple(self.inner.items()))
        extra.setdefault("grads", updates)
        outs, new = [], {}
        for name in self.inner:
            out, new[name] = self.update_inner(name, updates, state[name], params, extra)
            outs.append(tree.map(densify_leaf, out))
        # A denominator that cannot be zero needs no look at its entries.
        plain = self.by is divide and holds(self.denominator, "positive")
        return tree.map(operator.truediv if plain else self.by, *outs), new


@dataclass(frozen=True)
class AsGradients(Wrapper):
    """A transform for which its incoming updates are the gradients; made by ``as_gradients``."""

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    @property
    def name(self) -> str:
        return "as_gradients"

    def __repr__(self) -> str:
        return f"as_gradients({self.transform!r})"

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return self.update_transform(updates, state, params, {**extra, "grads": updates})


def as_gradients(*transforms: GradientTransformation) -> AsGradients:
    """Members for which the updates that arrive here are the gradients.

    ``cautious_mask`` and others compare with the gradients, by default those that entered the
    outermost chain. After something that replaces the gradient, such as
    ``gx.orthogonalize_grad``, they should compare with what it gave.

    >>> import torch, gradtx as gx
    >>> mask = gx.cautious_mask(rescale=None)
    >>> tx = gx.chain(gx.scale(-1.0), gx.as_gradients(mask))
    >>> params = {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.ones(1)}, tx.init(params))[0]
    {'w': tensor([-1.])}
    """
    return AsGradients(transforms[0] if len(transforms) == 1 else chain(*transforms))


@dataclass(frozen=True)
class on_gradients(Wrapper):
    """Run a transform on the gradients, in place of the updates that arrive.

    For a denominator or a norm that follows the gradients while the update is a filtered one. Which
    gradients these are ``gx.as_gradients`` says, by default those that entered the outermost chain.

    Args:
        transform: the transform.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.scale(3.0), gx.on_gradients(gx.scale(2.0)))
    >>> tx.update({"w": torch.ones(1)}, tx.init({"w": torch.zeros(1)}))[0]
    {'w': tensor([2.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if "grads" not in extra:
            raise ValueError(
                "on_gradients: needs the gradients; use it inside gx.chain, "
                "or pass grads= to update"
            )
        # A leaf without an update is left alone, whatever its gradient is.
        grads = tree.map(lambda u, g: densify_leaf(g), updates, extra["grads"])
        return self.update_transform(grads, state, params, extra)
