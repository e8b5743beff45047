"""The whole tree as one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .errors import TreeMismatchError
from .execution import Execution
from .extra import map_trees
from .hyper import static
from .leaves import ANY_UPDATE, densify_leaf
from .protocol import Wrapper
from .tree import PyTree


class FlattenState(NamedTuple):
    """State of ``flatten(live="nonzero")``.

    Attributes:
        live: int64, positions in the vector of the entries that are kept.
        inner_state: state of the inner transform.
    """

    live: Tensor
    inner_state: PyTree


@dataclass(frozen=True)
class flatten(Wrapper):
    """Run a transform on all leaves concatenated into one vector, then cut the result up again.

    The inner transform sees the tree ``{"flat": vector}``, leaves in tree order. Every leaf that
    had a parameter at ``init`` needs an update at every call.

    Args:
        transform: the inner transform.
        live: which entries the vector has: "all", or the "nonzero" ones of the parameters that
            ``init`` gets, whose values it reads. The updates of others are zero, so that a pruned
            model stays pruned.

    Raises:
        ValueError: another ``live``; from ``update``, all parameters were zero at ``init``.
        TreeMismatchError: a leaf has no update.

    >>> import torch, gradtx as gx
    >>> tx = gx.flatten(gx.normalize_by_update_norm())
    >>> params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    >>> tx.update({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, tx.init(params))[0]
    {'a': tensor([0.6000]), 'b': tensor([0.8000])}
    """

    execution: ClassVar[Execution] = Execution(joins_leaves=True)

    live: Literal["all", "nonzero"] = static("all", choices=("all", "nonzero"))

    def init(self, params: PyTree) -> PyTree:
        check_tensors(self.name, params, what="parameter")
        joined = _join(params)
        if self.live == "all":
            return self.transform.init(joined)
        live = joined["flat"].detach().nonzero()[:, 0]
        return FlattenState(live, self.transform.init(_at(live, joined)))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        updates = tree.map(densify_leaf, updates)
        leaves, spec = tree.flatten(updates)
        if any(x is None for x in leaves):
            missing = [n for n, x in zip(tree.names(spec), leaves, strict=True) if x is None]
            raise TreeMismatchError(
                f"flatten: leaf {missing[0]!r} has no update; the vector needs every leaf"
            )
        extra = map_trees(_join, extra, updates)
        flat = _join(updates)
        flat_params = None if params is None else _join(params)
        if self.live == "all":
            new, state = self.update_transform(flat, state, flat_params, extra)
        else:
            new, state = self._update_live(flat, state, flat_params, extra)
        sizes = [x.numel() for x in leaves]
        parts = torch.split(densify_leaf(new["flat"]), sizes)
        cut = [
            part.reshape(x.shape).to(tree.accumulator_dtype(x.dtype))
            for part, x in zip(parts, leaves, strict=True)
        ]
        return spec.unflatten(cut), state

    def _update_live(
        self, flat: PyTree, state: FlattenState, params: PyTree, extra: dict[str, Any]
    ) -> tuple[PyTree, FlattenState]:
        """Run the inner transform on the live entries."""
        live, inner = state
        if not live.numel():
            raise ValueError("flatten: live='nonzero', but all parameters were zero at init")
        extra = map_trees(lambda x: _at(live, x), extra, flat)
        given = None if params is None else _at(live, params)
        new, inner = self.update_transform(_at(live, flat), inner, given, extra)
        out = densify_leaf(new["flat"])
        zeros = torch.zeros_like(flat["flat"], dtype=out.dtype)
        return {"flat": zeros.index_put((live,), out)}, FlattenState(live, inner)


def _at(live: Tensor, joined: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"flat": joined["flat"][live]}


def _join(values: PyTree) -> dict[str, Tensor]:
    flat = [densify_leaf(x).reshape(-1) for x in tree.leaves(values)]
    if not flat:
        return {"flat": torch.zeros(0, dtype=torch.float32, device="cpu")}
    return {"flat": torch.cat([tree.accumulator(x) for x in flat])}
