"""One entry of the table of transforms that the battery runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import gradtx as gx


@dataclass(frozen=True)
class Row:
    """One transform to run the battery on.

    Attributes:
        name: the export that the row covers.
        make: builds the transform; called anew in every test.
        variant: tells rows of one export apart.
        fails: property (of ``gradtx.testing``) -> why it cannot hold.
        runs: whether ``gx.fuse`` runs it in kernels: ``"fused"``, ``"partly"`` or ``"eager"``.
    """

    name: str
    make: Callable[[], gx.GradientTransformation]
    variant: str = ""
    fails: Mapping[str, str] = field(default_factory=dict)
    runs: str = "fused"

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


PER_ENTRY = ("override_per_entry", "vmap_per_entry")

# Why properties of transforms inside gx.flatten cannot hold.
ONE_VECTOR = {
    "missing_gradient": "the vector needs every leaf",
    "absent_leaf": "the vector needs every leaf",
    "all_gradients_missing": "the vector needs every leaf",
    "override_per_leaf": "inside, the tree has one leaf",
    **dict.fromkeys(PER_ENTRY, "inside, the tree has one leaf"),
    "leaf_value_outside_its_interval": "inside, the tree has one leaf",
    "state_of_another_tree_is_an_error": "inside, only the length of the vector is known",
}
