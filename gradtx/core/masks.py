"""Named masks: predicates on a leaf that can be printed, compared and pickled, unlike a lambda."""

from __future__ import annotations

from dataclasses import dataclass, field

from .leaves import LeafInfo

__all__ = ["matrices", "vectors"]


@dataclass(frozen=True)
class Dimensions:
    """Leaves with a number of dimensions in a range; ``matrices`` and ``vectors`` are two.

    Args:
        least: smallest number.
        most: largest number, None for no limit.
        name: how the mask prints.

    >>> import torch, gradtx as gx
    >>> print(gx.add_decayed_weights(0.1, mask=gx.masks.matrices).mask)
    gx.masks.matrices
    >>> tx = gx.chain(gx.scale(-1.0), gx.add_decayed_weights(0.5, mask=gx.masks.matrices))
    >>> params = {"w": torch.ones(1, 1), "b": torch.ones(1)}
    >>> tx.update(params, tx.init(params), params)[0]
    {'w': tensor([[-0.5000]]), 'b': tensor([-1.])}
    """

    least: int
    most: int | None = None
    name: str = field(default="", compare=False)

    def __call__(self, info: LeafInfo) -> bool:
        return self.least <= info.ndim and (self.most is None or info.ndim <= self.most)

    def __repr__(self) -> str:
        return self.name or f"Dimensions({self.least}, {self.most})"


matrices = Dimensions(2, name="gx.masks.matrices")
"""Leaves with two dimensions or more: what weight decay is usually meant for."""

vectors = Dimensions(0, 1, name="gx.masks.vectors")
"""Leaves with one dimension or none: biases and gains."""
