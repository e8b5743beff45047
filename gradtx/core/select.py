"""Choose leaves: partition, masked, freeze.

Leaves that are not chosen are None to the inner transform, so wrappers nest and no placeholder
shows up in a state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from . import tree
from .chain import check_members
from .errors import described
from .execution import Execution
from .extra import map_trees
from .leaves import STRUCTURED, LeafInfo, zeros_of
from .predicates import ask, is_chosen
from .protocol import GradientTransformation, Wrapper
from .tree import PyTree

_TRUTH = ("bool", torch.bool)  # dtypes of truth values
Labels = Callable[[LeafInfo], Hashable] | PyTree


def label_leaves(who: str, by: Labels, updates: PyTree, params: PyTree) -> list[Any]:
    """The label of every leaf of ``updates``, from a function of ``LeafInfo`` or a tree prefix."""
    leaves, spec = tree.flatten(updates)
    if not callable(by):
        return _broadcast(who, by, updates)
    ps = leaves if params is None else tree.leaves_like(who, spec, params, "parameter")
    names = tree.names(spec)
    shown = [u if p is None else p for u, p in zip(leaves, ps, strict=True)]
    for name, leaf in zip(names, shown, strict=True):
        if not isinstance(leaf, (torch.Tensor, type(None), *STRUCTURED)):
            raise TypeError(f"{who}: leaf {name!r}: must be a tensor, got {described(leaf)}")
    answer, what = (ask, "by") if who == "partition" else (is_chosen, "mask")
    return [
        None if leaf is None else answer(f"{who}: {what}", by, LeafInfo.of(leaf, name))
        for name, leaf in zip(names, shown, strict=True)
    ]


def _broadcast(who: str, labels: PyTree, updates: PyTree) -> list[Any]:
    """One label per leaf from a tree of labels that may stop above the leaves."""
    out: list[Any] = []
    label_leaves, spec = tree.flatten(labels)
    subtrees = tree.flatten_like(
        who, spec, updates, "update", "label" if who == "partition" else "mask"
    )
    for label, sub in zip(label_leaves, subtrees, strict=True):
        out.extend([label] * len(tree.flatten(sub)[0]))
    return out


def keep(updates: PyTree, chosen: list[bool]) -> PyTree:
    """The same tree with None where ``chosen`` is False."""
    leaves, spec = tree.flatten(updates)
    return spec.unflatten([x if yes else None for x, yes in zip(leaves, chosen, strict=True)])


def keep_params(params: PyTree, chosen: list[bool]) -> PyTree:
    """What ``keep`` gives, of parameters that may not be there or be another tree, as given.

    So are those of which no leaf is left: one that is a tree would be as if there were none.
    """
    there = params is not None and tree.flatten(params)[1].num_leaves == len(chosen)
    return keep(params, chosen) if there and any(chosen) else params


def merge(updates: PyTree, chosen: list[bool], new: PyTree) -> PyTree:
    """Leaves of ``new`` where ``chosen``, of ``updates`` elsewhere."""
    leaves, spec = tree.flatten(updates)
    news = tree.flatten(new)[0]
    return spec.unflatten([n if yes else u for u, n, yes in zip(leaves, news, chosen, strict=True)])


def _check_mask(who: str, mask: Labels) -> None:
    """Raise unless a mask is a function or a tree of booleans.

    Raises:
        TypeError: another leaf.
    """
    for leaf in [] if callable(mask) else tree.leaves(mask):
        if not isinstance(leaf, int) and getattr(leaf, "dtype", None) not in _TRUTH:
            raise TypeError(
                f"{who}: mask must be a function of LeafInfo or a tree of booleans, got {leaf!r}"
            )


@dataclass(frozen=True)
class partition(GradientTransformation):
    """Different transforms for different leaves.

    Args:
        transforms: label -> transform.
        by: a function of ``LeafInfo`` giving the label, or a tree of labels shaped like the
            parameters (it may stop above the leaves).

    Raises:
        ValueError: a leaf gets a label that has no transform (names the leaf).

    >>> import torch, gradtx as gx
    >>> tx = gx.partition({"matrix": gx.scale(-1.0), "vector": gx.scale(-10.0)},
    ...                   by=lambda info: "matrix" if info.ndim == 2 else "vector")
    >>> grads = {"w": torch.ones(1, 1), "b": torch.ones(1)}
    >>> tx.update(grads, tx.init(grads))[0]
    {'w': tensor([[-1.]]), 'b': tensor([-10.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    transforms: Mapping[str, GradientTransformation]
    by: Labels

    def __post_init__(self) -> None:
        for label, tx in self.transforms.items():
            if not isinstance(tx, GradientTransformation):
                raise TypeError(
                    f"partition: transforms[{label!r}] must be a GradientTransformation, "
                    f"got {described(tx)}"
                )

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return {str(label): tx for label, tx in self.transforms.items()}

    def __hash__(self) -> int:
        return hash(tuple(self.transforms.items()))

    def init(self, params: PyTree) -> PyTree:
        labels = self.labels(params, params)
        return {
            str(label): tx.init(keep(params, [x == label for x in labels]))
            for label, tx in self.transforms.items()
        }

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_members(self.name, state, tuple(self.inner.items()))
        labels = self.labels(updates, params)
        out, new_state = updates, {}
        for label in self.transforms:
            chosen, name = [x == label for x in labels], str(label)
            given = map_trees(lambda t, chosen=chosen: keep(t, chosen), extra, updates)  # type: ignore[misc]
            new, new_state[name] = self.update_inner(
                name, keep(updates, chosen), state[name], keep_params(params, chosen), given
            )
            out = merge(out, chosen, new)
        return out, new_state

    def labels(self, updates: PyTree, params: PyTree) -> list[Any]:
        """The label of every leaf."""
        leaves, spec = tree.flatten(updates)
        labels = label_leaves(self.name, self.by, updates, params)
        for name, leaf, label in zip(tree.names(spec), leaves, labels, strict=True):
            if leaf is not None and label not in self.transforms:
                raise ValueError(
                    f"partition: leaf {name!r} has label {label!r}; "
                    f"the transforms are {list(self.transforms)}"
                )
        return labels


@dataclass(frozen=True)
class masked(Wrapper):
    """Apply a transform to some leaves only; the others pass through unchanged.

    Args:
        transform: the transform for the chosen leaves.
        mask: a predicate on ``LeafInfo``, or a tree of booleans like the parameters.

    >>> import torch, gradtx as gx
    >>> tx = gx.masked(gx.add_decayed_weights(0.1), lambda info: info.ndim > 1)
    >>> params = {"w": torch.ones(1, 1), "b": torch.ones(1)}
    >>> tx.update(gx.tree.zeros_like(params), tx.init(params), params)[0]
    {'w': tensor([[0.1000]]), 'b': tensor([0.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    mask: Labels

    def __post_init__(self) -> None:
        _check_mask(self.name, self.mask)

    def __hash__(self) -> int:
        return hash(self.transform)

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(keep(params, self._chosen(params, params)))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        chosen = self._chosen(updates, params)
        given = map_trees(lambda t: keep(t, chosen), extra, updates)
        new, state = self.update_transform(
            keep(updates, chosen), state, keep_params(params, chosen), given
        )
        return merge(updates, chosen, new), state

    def _chosen(self, updates: PyTree, params: PyTree) -> list[bool]:
        return [bool(x) for x in label_leaves(self.name, self.mask, updates, params)]


@dataclass(frozen=True)
class freeze(GradientTransformation):
    """Zero updates for the chosen leaves.

    Args:
        mask: a predicate on ``LeafInfo``, or a tree of booleans like the parameters; True freezes.

    >>> import torch, gradtx as gx
    >>> gx.freeze({"w": True, "b": False}).update({"w": torch.ones(1), "b": torch.ones(1)}, ())[0]
    {'w': tensor([0.]), 'b': tensor([1.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    mask: Labels

    def __post_init__(self) -> None:
        _check_mask(self.name, self.mask)

    def __hash__(self) -> int:
        return hash(freeze)

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        frozen = [bool(x) for x in label_leaves(self.name, self.mask, updates, params)]
        return merge(updates, frozen, tree.map(zeros_of, updates)), state
