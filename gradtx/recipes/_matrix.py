"""What optimizers of matrices share: the other leaves go to AdamW."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.leaves import LeafInfo
from ..core.protocol import GradientTransformation
from ..core.select import Labels, partition
from ..core.tree import map as tree_map
from ..transforms import add_decayed_weights
from ._learning_rate import with_learning_rate
from .adam import adamw


@dataclass(frozen=True)
class _Label:
    """What a predicate says of a leaf: "matrix" or "other"; by default two dimensions do."""

    chosen: object = None

    def __call__(self, info: LeafInfo) -> str:
        yes = self.chosen(info) if callable(self.chosen) else info.ndim >= 2
        return "matrix" if yes else "other"


def matrices_and_others(
    *members: GradientTransformation,
    lr: Hyper | None,
    weight_decay: Hyper,
    matrices: Labels | None,
    other: GradientTransformation | None,
    cautious: bool = False,
) -> Chain:
    """The members, decay and learning rate for matrices, another optimizer for other leaves."""
    decay = add_decayed_weights(weight_decay, cautious=cautious)
    tx = with_learning_rate(chain(*members, decay), lr)
    if other is None:
        other = adamw(None if lr is None else 3e-4, 0.9, 0.95, 1e-10, weight_decay=0.0)
    by: Labels = _Label(matrices)
    if matrices is not None and not callable(matrices):
        by = tree_map(lambda yes: "matrix" if yes else "other", matrices)
    return chain(partition({"matrix": tx, "other": other}, by))
