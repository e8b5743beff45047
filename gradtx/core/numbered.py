"""Transforms of parts of leaves, whose random numbers are those of elements in whole leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .chain import Chain
from .functions import identity
from .hyper import Hyper, Values, dynamic
from .protocol import GradientTransformation, members
from .random import Numbers
from .select import masked, partition


@dataclass(frozen=True)
class Part:
    """What transforms of parts are besides, see ``Execution.of_part``.

    Args:
        part_first, part_length, part_distance: where a part lies in its leaf, as ``Numbers`` says.
    """

    part_first: Hyper = dynamic(0, within="[0, inf)")
    part_length: Hyper = dynamic(1, within="[1, inf)")
    part_distance: Hyper = dynamic(1, within="[1, inf)")


def numbers_of(h: Values) -> Numbers:
    """The numbers of a part's elements, from its hyperparameters."""
    return Numbers(*(_whole(getattr(h, field.name)) for field in dataclasses.fields(Part)))


def _whole(x: Any) -> int | Tensor:
    return x.to(torch.int64) if isinstance(x, Tensor) else int(x)


def draws(tx: GradientTransformation) -> bool:
    """Whether something in a transform numbers elements, and can do so for parts of leaves."""
    return any(member.execution.of_part is not None for _, member in members(tx))


def of_parts(tx: GradientTransformation) -> GradientTransformation:
    """A chain for parts of leaves; states stand where they do for whole leaves.

    >>> import gradtx as gx
    >>> from gradtx.core.hyper import dynamic_fields
    >>> from gradtx.core.numbered import of_parts
    >>> dynamic_fields(of_parts(gx.stochastic_round()))
    ('part_first', 'part_length', 'part_distance')
    """
    return _replaced(tx, lambda member: member.execution.of_part(member))  # type: ignore[misc]


def without_draws(tx: GradientTransformation) -> GradientTransformation:
    """A chain without its members that number elements."""
    return _replaced(tx, lambda member: identity())


def _replaced(
    tx: GradientTransformation, fn: Callable[[GradientTransformation], GradientTransformation]
) -> GradientTransformation:
    if tx.execution.of_part is not None:
        return fn(tx)
    if isinstance(tx, Chain):
        return Chain(tuple((name, _replaced(member, fn)) for name, member in tx))
    if isinstance(tx, partition):
        inside = {label: _replaced(inner, fn) for label, inner in tx.transforms.items()}
        return dataclasses.replace(tx, transforms=inside)
    if isinstance(tx, masked):
        return dataclasses.replace(tx, transform=_replaced(tx.transform, fn))
    return tx
