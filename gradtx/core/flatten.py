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
        # Leaves without a parameter are those that a wrapper has left out.
        known = leaves if params is None else tree.leaves_like(self.name, spec, params, "parameter")
        for name, x, p in zip(tree.names(spec), leaves, known, strict=True):
            if x is None and (params is None or p is not None):
                raise TreeMismatchError(
                    f"flatten: leaf {name!r} has no update; the vector needs every leaf "
                    "(inside a wrapper that chooses leaves, update needs params)"
                )
        leaves = [x for x in leaves if x is not None]
        extra = map_trees(lambda t: _join(tree.map(lambda _, x: x, updates, t)), extra, updates)
        flat = _join(updates)
        flat_params = None if params is None else _join(params)
        if self.live == "all":
            new, state = self.update_transform(flat, state, flat_params, extra)
        else:
            new, state = self._update_live(flat, state, flat_params, extra)
        sizes = [x.numel() for x in leaves]
        parts = torch.split(densify_leaf(new["flat"]), sizes)
        rest = iter(parts)
        return tree.map(
            lambda x: next(rest).reshape(x.shape).to(tree.accumulator_dtype(x.dtype)), updates
        ), state

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
