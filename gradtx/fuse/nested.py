"""Fused steps on states kept as nested dicts, one per parameter, as in ``optimizer.state``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree
from .batch import Batch
from .engine import Engine
from .errors import CannotFuseError
from .layout import Paths

Nested = dict[str, Any]


class NestedEngine:
    """Runs one chain on lists of parameters and their nested states, in place.

    Args:
        tx: the chain.

    >>> import torch, gradtx as gx
    >>> from gradtx.fuse import NestedEngine
    >>> p, g = torch.ones(2), torch.ones(2)
    >>> engine = NestedEngine(gx.chain(gx.trace(0.9), gx.scale(-0.5)))
    >>> state = {"trace": {"trace": torch.zeros(2)}}
    >>> engine.run([p], [g], [state], lambda: {"w": p}, [engine.defaults()], [0])
    >>> p, state["trace"]["trace"]
    (tensor([0.5000, 0.5000]), tensor([1., 1.]))
    """

    def __init__(self, tx: GradientTransformation) -> None:
        self.engine = Engine(tx)
        self._last: Batch | None = None
        self._paths: list[Paths] = []

    def defaults(self) -> dict[str, Any]:
        """The declared hyperparameters that are no schedules, by full name: one row for ``run``."""
        return self.engine.hyper.plain()

    def refused(self) -> dict[str, str]:
        """Members that run as torch operations, and why."""
        return self.engine.refused()

    def run(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[Nested],
        params_tree: Callable[[], PyTree],
        hyper: Sequence[Mapping[str, Any]],
        rows: Sequence[int],
        maximize: Sequence[bool] = (),
        extra: Mapping[str, Tensor] | None = None,
        others: Iterable[Nested] = (),
    ) -> None:
        """One step in place.

        Args:
            params: parameters that have a gradient.
            grads: their gradients.
            states: their nested states, complete.
            params_tree: gives the tree of ``params``, in this order, with the names that
                predicates see; called when the parameters are not those of the last call.
            hyper: rows of hyperparameters by full name; all rows have the names of ``defaults``.
            rows: per parameter, its row.
            maximize: per parameter, whether its gradient is turned around; default none is.
            extra: 0-d tensors for the chain, such as ``value``.
            others: nested states of parameters without a gradient: what all parameters share is
                put there too.

        Raises:
            CannotFuseError: nothing has changed; run the chain as it is. The text says why.
        """
        last = self._last
        same = (
            last is not None
            and len(last.params) == len(params)
            and all(map(is_, params, last.params))
        )
        if not same:
            last = self._describe(list(params), params_tree())
        assert last is not None
        tensors = [
            [_get(state, path) for path in paths.leaf]
            for state, paths in zip(states, self._paths, strict=True)
        ]
        shared_paths = self._paths[0].shared if self._paths else ()
        shared = [_get(states[0], path) for path in shared_paths]
        batch = replace(
            last,
            grads=list(grads),
            hyper=list(hyper),
            rows=list(rows),
            maximize=list(maximize),
            extra=extra or {},
        )
        if not _same_lists(tensors, last.states) or not all(map(is_, shared, last.shared)):
            batch = replace(batch, states=tensors, shared=shared)
        with torch.no_grad():
            self.engine.run(batch)
        self._last = batch
        for path, x in zip(shared_paths, shared, strict=True):
            for state in (*states, *others):
                _put(state, path, x)

    def _describe(self, params: list[Tensor], whole: PyTree) -> Batch:
        """Structure, choices and paths for other parameters than last time."""
        leaves, spec = tree.flatten(whole)
        if len(leaves) != len(params) or not all(map(is_, leaves, params)):
            raise ValueError("NestedEngine: params_tree() must have the leaves of params, in order")
        names = tree.names(spec)
        choices = self.engine.choices(whole, whole)
        self._paths = [
            self.engine.paths(p, choice, name)
            for p, choice, name in zip(params, choices, names, strict=True)
        ]
        return Batch(
            params,
            [],
            [],
            [],
            [paths.structure for paths in self._paths],
            choices,
            [],
            [],
            spec,
            list(range(len(params))),
        )


def _same_lists(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    return len(a) == len(b) and all(
        len(x) == len(y) and all(map(is_, x, y)) for x, y in zip(a, b, strict=True)
    )


def _get(nested: Any, path: tuple[str, ...]) -> Tensor:
    try:
        for name in path:
            nested = nested[name]
    except (KeyError, TypeError) as error:
        raise CannotFuseError(path[0], f"the state has no entry {'.'.join(path)!r}") from error
    if not isinstance(nested, Tensor):
        raise CannotFuseError(path[0], f"the state's {'.'.join(path)!r} is no tensor")
    return nested


def _put(nested: Any, path: tuple[str, ...], x: Tensor) -> None:
    for name in path[:-1]:
        nested = nested.get(name)
        if nested is None:
            return
    nested[path[-1]] = x
