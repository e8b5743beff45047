"""A function along a line of parameters, and how its minimum is looked for without branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.checks import check_tensors
from ..core.state import new_scalar
from ..core.sums import element_sum
from ..core.tree import PyTree


class Point(NamedTuple):
    """Where a line has been looked at.

    Attributes:
        rate: 0-d, multiple of the update.
        value: 0-d, of the function.
        slope: 0-d, its derivative along the line.
        grads: its gradient, by leaf.
    """

    rate: Tensor
    value: Tensor
    slope: Tensor
    grads: tuple[Tensor, ...]


def either(condition: Tensor, a: Point, b: Point) -> Point:
    """One of two points."""
    pairs = zip(a.grads, b.grads, strict=True)
    return Point(
        torch.where(condition, a.rate, b.rate),
        torch.where(condition, a.value, b.value),
        torch.where(condition, a.slope, b.slope),
        tuple(torch.where(condition, x, y) for x, y in pairs),
    )


class Line:
    """``f(params + rate * updates)`` for 0-d rates.

    Args:
        who: for errors.
        updates: a direction in which the function falls.
        params: tree like the updates.
        extra: ``value_fn``, and optionally ``grad_fn``, ``value`` and ``grads``.

    Raises:
        ValueError: no parameters or no ``value_fn``.
    """

    def __init__(self, who: str, updates: PyTree, params: PyTree, extra: Mapping[str, Any]) -> None:
        if params is None:
            raise ValueError(f"{who}: needs the parameters; call update(updates, state, params)")
        value_fn, grad_fn = extra.get("value_fn"), extra.get("grad_fn")
        if not callable(value_fn):
            raise ValueError(f"{who}: needs value_fn; pass value_fn=f to update, f: params -> loss")
        check_tensors(who, updates, params)
        leaves, self.spec = tree.flatten(updates)
        self._params = tree.leaves_like(who, self.spec, params, "parameter")
        self._there = [i for i, u in enumerate(leaves) if u is not None]
        self._updates = [leaves[i] for i in self._there]
        self._value_fn: Callable[[PyTree], Any] = value_fn
        self._grad_fn: Callable[[PyTree], PyTree] | None = grad_fn
        self._who = who
        self.zero = new_scalar(self._updates)
        self.start = self._start(extra.get("value"), extra.get("grads"))

    def _start(self, value: Any, grads: PyTree) -> Point:
        if value is None or grads is None:
            found = self.at(self.zero)
            if grads is None:
                return found if value is None else found._replace(value=self._number(value))
            value = found.value
        gs = tree.leaves_like(self._who, self.spec, grads, "gradient")
        return self._point(self.zero, value, [gs[i] for i in self._there])

    def _number(self, value: Any) -> Tensor:
        given = torch.as_tensor(value, dtype=self.zero.dtype, device=self.zero.device)
        if given.ndim:
            raise ValueError(
                f"{self._who}: the value must be a 0-d tensor, got shape {tuple(given.shape)}"
            )
        return given

    def _point(self, rate: Tensor, value: Any, grads: Sequence[Any]) -> Point:
        gs = tuple(
            torch.zeros_like(u) if g is None else g.to(u)
            for g, u in zip(grads, self._updates, strict=True)
        )
        slope = self.zero
        for g, u in zip(gs, self._updates, strict=True):
            slope = slope + element_sum(g * u).to(slope)
        return Point(rate, self._number(value), slope, gs)

    def _whole(self, leaves: Sequence[Any]) -> PyTree:
        out = list(self._params)
        for i, x in zip(self._there, leaves, strict=True):
            out[i] = x
        return self.spec.unflatten(out)

    def at(self, rate: Tensor) -> Point:
        """Value, slope and gradients at a rate."""
        moved = [
            self._params[i] + (rate.to(u) * u).to(self._params[i])
            for i, u in zip(self._there, self._updates, strict=True)
        ]
        if self._grad_fn is None:

            def of_leaves(*leaves: Tensor) -> Tensor:
                return self._value_fn(self._whole(leaves))

            slots = tuple(range(len(moved)))
            grads, value = torch.func.grad_and_value(of_leaves, argnums=slots)(*moved)
        else:
            value = self._value_fn(self._whole(moved))
            found = self._grad_fn(self._whole(moved))
            gs = tree.leaves_like(self._who, self.spec, found, "gradient")
            grads = [gs[i] for i in self._there]
        return self._point(rate, value, grads)

    def scaled(self, rate: Tensor) -> PyTree:
        """The updates times a rate, a tree."""
        out: list[Any] = [None] * self.spec.num_leaves
        for i, u in zip(self._there, self._updates, strict=True):
            out[i] = u * rate.to(u)
        return self.spec.unflatten(out)

    def gradient(self, point: Point, like: PyTree) -> PyTree:
        """The gradients of a point, in a tree with another's leaves where there is no update."""
        out = tree.leaves_like(self._who, self.spec, like, "state")
        for i, g in zip(self._there, point.grads, strict=True):
            out[i] = g.to(out[i])
        return self.spec.unflatten(out)


def cubic_minimum(a: Point, b: Point, low: Tensor, high: Tensor) -> Tensor:
    """Where the cubic through two points with their slopes is least, between two rates.

    In the middle where there is no such place.
    """
    gap = b.rate - a.rate
    safe = torch.where(gap == 0, 1.0, gap)
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / safe
    square = d1 * d1 - a.slope * b.slope
    ok = (square >= 0) & (gap != 0)
    d2 = torch.where(ok, square, 1.0).sqrt() * torch.sign(gap)
    below = b.slope - a.slope + 2 * d2
    ok = ok & (below != 0)
    found = b.rate - gap * (b.slope + d2 - d1) / torch.where(ok, below, 1.0)
    found = torch.where(ok & torch.isfinite(found), found, (low + high) / 2)
    return torch.minimum(torch.maximum(found, low), high)
