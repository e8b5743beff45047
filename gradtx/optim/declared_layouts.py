"""What users say about where sharded leaves are updated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..core.leaves import LeafInfo
from ..core.predicates import ask

LAYOUTS = ("owned", "replicate", "stacked", "local")


class Declared(NamedTuple):
    """What has been said about how an optimizer's leaves are updated.

    Attributes:
        by: says of a leaf in which of the layouts it is updated; None leaves it open.
        bucket_bytes: what a rank sends of the leaves that owners update at once.
    """

    by: Callable[[LeafInfo], str | None] | None = None
    bucket_bytes: int = 64 << 20  # less leaves ranks without work: a layer has few matrices

    def of(self, who: str, p: Tensor, name: str) -> str | None:
        """The layout of a leaf.

        Raises:
            ValueError: there is no such layout; names the leaf.
        """
        said = None if self.by is None else ask(f"{who}: layout", self.by, LeafInfo.of(p, name))
        if said is not None and said not in LAYOUTS:
            raise ValueError(
                f"{who}: leaf {name!r}: the layout must be one of {LAYOUTS} or None, got {said!r}"
            )
        return said


def check_stacked(who: str, sent: Sequence[str]) -> None:
    """Raise for leaves of which nothing was to be sent.

    Args:
        who: for the error.
        sent: their names.

    Raises:
        ValueError: there is one; names it.
    """
    if sent:
        raise ValueError(
            f"{who}: leaf {sent[0]!r} cannot be 'stacked': its chain does not treat elements, "
            "matrices of a stack or blocks of rows one by one, or ranks have less than all of one; "
            "shard it so that these are whole, or say 'owned', or 'local' for another update"
        )
