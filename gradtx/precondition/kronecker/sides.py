"""What happens to stacks of blocks with a basis on some of their sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core import tree
from ...core.declared import Call, widen
from ...core.leaves import densify_leaf
from .eigenbasis import Turned, eigenbasis
from .factors import kronecker_factors
from .orthogonal_iteration import picked, rotate
from .spectrum import spectrum
from .stacks import along, contract, unfolded
from .units import Kind

Sides = tuple[Tensor, ...]


def rotated(kind: Kind, x: Tensor, bases: Sides, low: torch.dtype | None = None) -> Tensor:
    """The coordinates of blocks (n, d_1, .. d_o) in the bases of their sides.

    Args:
        kind: of the blocks.
        x: the blocks.
        bases: of the sides that have one.
        low: dtype that factors and results of the products are rounded to.
    """
    y = x if low is None or not bases else x.to(low)
    for q, side in zip(bases, kind.sides, strict=True):
        y = contract(y, q.to(y.dtype), side)
    return y.to(x.dtype)


def back(kind: Kind, x: Tensor, bases: Sides, low: torch.dtype | None = None) -> Tensor:
    """The blocks with these coordinates; arguments as for ``rotated``."""
    y = x if low is None or not bases else x.to(low)
    for q, side in zip(bases, kind.sides, strict=True):
        y = contract(y, q.to(y.dtype), side, transpose=True)
    return y.to(x.dtype)


class Gathered(NamedTuple):
    """Attributes: ``factors`` and ``roots``, one a side, after another gradient."""

    factors: Sides
    roots: Sides


def gathered(
    how: kronecker_factors,
    track: spectrum | None,
    kind: Kind,
    x: Tensor,
    factors: Sides,
    roots: Sides,
    old: Tensor,
    new: Tensor,
) -> Gathered:
    """Factors and inverse roots after the coordinates x of another gradient."""
    new_factors, new_roots = [], []
    order, n = x.ndim - 1, max(math.prod(kind.block), 1)
    by = roots
    if track is not None and track.source == "factors":
        by = tuple(map(track.of_factor, factors))
    for k, side in enumerate(kind.sides):
        w = x
        if how.form == "kl":
            for j, other in enumerate(kind.sides):
                if j != k:
                    w = w * along(by[j], other, order)
        factor = how.updated(factors[k], w, side, old, new)
        new_factors.append(factor)
        if track is not None and track.source == "tracked":
            mean = unfolded(w, side).square().sum(-1) / (n // kind.block[side])
            others = torch.ones_like(old)
            for j in range(len(kind.sides)):
                if j != k:
                    others = others * roots[j].square().mean(-1)
            new_roots.append(track.following(roots[k], mean, others, old, new))
    return Gathered(tuple(new_factors), tuple(new_roots))


def first_factors(
    how: kronecker_factors, kind: Kind, x: Tensor, factors: Sides, new: Tensor
) -> Sides:
    """The factors of a first gradient, in the coordinates that it comes in."""
    zero = torch.zeros_like(new)
    pairs = zip(factors, kind.sides, strict=True)
    return tuple(how.updated(torch.zeros_like(f), x, side, zero, new) for f, side in pairs)


def turn(how: eigenbasis, method: str, factors: Sides, bases: Sides) -> tuple[Turned, ...]:
    """The next bases of all sides."""
    return tuple(how.turned(f, q, method) for f, q in zip(factors, bases, strict=True))


def carry(kind: Kind, x: Tensor, turns: Sequence[Turned], second: bool) -> Tensor:
    """Coordinates of blocks, or averages of their squares, after the bases have turned."""
    for t, side in zip(turns, kind.sides, strict=True):
        if not second:
            x = rotate(x, t.rotation, side)
        elif isinstance(t.order, Tensor):
            x = picked(x, t.order, side + 1)
    return x


def gradients_of(who: str, call: Call) -> list[Any]:
    """The gradients of a call like its updates; the updates themselves where none are given."""
    given = call.extra.get("grads")
    if given is None:
        return call.updates
    gs = tree.leaves_like(who, call.spec, given, "gradient")
    return [
        None if u is None else widen(densify_leaf(g)).to(u.dtype)
        for u, g in zip(call.updates, gs, strict=True)
    ]
