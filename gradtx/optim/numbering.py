"""Where shards lie in their leaves, for chains that number elements, as random numbers need it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ..core.hyper import declare
from ..core.numbered import Part
from ..core.random import Numbers
from ..distributed.records import box_of, is_sharded
from .options import Option

_ALL = 1 << 40  # elements of a row that does not end: of shards that are cut along rows alone
_FIELDS = dataclasses.fields(Part)
_WITHIN = declare(Part)


def numbers_in(who: str, name: str, p: Any) -> Numbers | None:
    """The numbers of the elements that this rank has of a leaf; None on all ranks if it cannot say.

    A shard must be rows of elements at equal distances: cut along one dimension, or along the first
    and another one. Where tensor parallelism has cut a dimension before ``fully_shard`` does, so is
    what they share out evenly.

    Args:
        who: for errors.
        name: of the leaf.
        p: the leaf.
    """
    if not is_sharded(p) or not p.ndim:
        return None
    shape, ranks = tuple(p.shape), Counter[int]()  # along which dimension there are how many
    for size, place in zip(p.device_mesh.mesh.shape, p.placements, strict=True):
        if not place.is_replicate():
            ranks[place.dim] = size * (ranks[place.dim] or 1)
    kinds = {(type(x).__name__, x.dim) for x in p.placements if not x.is_replicate()}
    if not ranks.keys() <= {0, max(ranks)} or any(
        kind != "Shard" and (kind != "_StridedShard" or shape[dim] % ranks[dim])
        for kind, dim in kinds
    ):
        return None
    box, dims, at = box_of(who, name, p), sorted(ranks), max(ranks)
    first = sum(box.offset[dim] * math.prod(shape[dim + 1 :]) for dim in dims)
    length, distance = math.prod(box.shape[at:]), math.prod(shape[at:])
    if at == 0 or length == distance or not box.numel:
        return Numbers(first, _ALL, _ALL)
    return Numbers(first, length, distance)


def with_numbers(
    numbers: Numbers | None, options: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What makes the options of leaves with such numbers from those of a group."""
    if numbers is None:
        return options
    own = {field.name: x for field, x in zip(_FIELDS, numbers, strict=True)}
    return lambda group: {**options(group), **own}


def number_options(group: Mapping[str, Any]) -> dict[str, Option]:
    """The options of a group that ``with_numbers`` adds; none where it has not."""
    return {
        field.name: Option(((field.name,),), (_WITHIN[field.name],), field.default)
        for field in _FIELDS
        if field.name in group
    }
