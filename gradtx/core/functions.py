"""Transforms from plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from . import tree
from .execution import Execution
from .protocol import GradientTransformation
from .tree import PyTree


@dataclass(frozen=True)
class transformation(GradientTransformation):
    """Make a transform from two plain functions, which may look at all leaves.

    In fused steps it runs as torch operations; ``gx.LeafTransform`` is fused.

    Args:
        init_fn: ``params -> state``.
        update_fn: ``(updates, state, params) -> (updates, state)``; it also receives the keyword
            arguments of ``update`` if it takes ``**extra``.
        label: name in chains and errors.

    >>> import torch, gradtx as gx
    >>> def update(updates, state, params):
    ...     return gx.tree.map(lambda x: x / 2, updates), state
    >>> halve = gx.transformation(lambda params: (), update)
    >>> halve.update({"w": torch.ones(1)}, halve.init({"w": torch.ones(1)}))[0]
    {'w': tensor([0.5000])}
    """

    init_fn: Callable[[PyTree], PyTree]
    update_fn: Callable[..., tuple[PyTree, PyTree]]
    label: str = "transformation"

    @property
    def name(self) -> str:
        return self.label

    def init(self, params: PyTree) -> PyTree:
        return self.init_fn(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return self.update_fn(updates, state, params, **(extra if self._takes_extra else {}))

    @property
    def _takes_extra(self) -> bool:
        parameters = inspect.signature(self.update_fn).parameters.values()
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


@dataclass(frozen=True)
class stateless(GradientTransformation):
    """Make a transform without state from one function ``(updates, params) -> updates``.

    The function may look at all leaves, so it runs as torch operations in fused steps; one of a
    single leaf belongs into ``stateless_with_tree_map``, which is fused.

    >>> import torch, gradtx as gx
    >>> negate = gx.stateless(lambda u, p: gx.tree.map(torch.neg, u))
    >>> negate.update({"w": torch.ones(1)}, ())[0]
    {'w': tensor([-1.])}
    """

    fn: Callable[[PyTree, PyTree], PyTree]

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        try:
            out = self.fn(updates, params)
        except (TypeError, AttributeError) as error:
            if isinstance(updates, Tensor):
                raise
            raise TypeError(
                f"stateless: the function gets whole trees, here a {type(updates).__name__}, and "
                f"fails with {type(error).__name__}: {error}; for a function of one leaf write "
                "gx.stateless(lambda updates, params: gx.tree.map(fn, updates))"
            ) from error
        if out is None and updates is not None:
            raise TypeError("stateless: the function gives None; it has to return the updates")
        return out, state


@dataclass(frozen=True)
class stateless_with_tree_map(GradientTransformation):
    """Make a transform without state from a function of one leaf, ``(update, param) -> update``.

    Args:
        fn: called for every leaf that has an update; the parameter is None if there is none.

    >>> import torch, gradtx as gx
    >>> pull = gx.stateless_with_tree_map(lambda u, p: u + 0.5 * p)
    >>> pull.update({"w": torch.ones(1)}, (), {"w": torch.full((1,), 4.0)})[0]
    {'w': tensor([3.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    fn: Callable[[Any, Any], Any]

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if params is None:
            return tree.map(lambda u: self._of_leaf(u, None), updates), state
        return tree.map(self._of_leaf, updates, params), state

    def _of_leaf(self, u: Any, p: Any) -> Any:
        out = self.fn(u, p)
        if out is None:
            raise TypeError(
                "stateless_with_tree_map: the function gives None; it has to return the update"
            )
        return out


@dataclass(frozen=True)
class identity(GradientTransformation):
    """Leave updates as they are.

    >>> import torch, gradtx as gx
    >>> gx.identity().update({"w": torch.ones(1)}, ())
    ({'w': tensor([1.])}, ())
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True, cannot_raise=True)

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return updates, state
