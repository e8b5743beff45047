"""Fused steps on states kept as nested dicts, one per parameter, as in ``optimizer.state``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ...core import tree
from ...core.protocol import GradientTransformation
from ...core.reduce import Reduce
from ...core.tree import PyTree
from ..frontend.layout import Leaves, Paths, split
from ..frontend.memory import extent
from ..ir.errors import CannotFuseError
from .batch import Batch, Rows, Whole
from .engine import Engine
from .prepared import Prepared

Nested = dict[str, Any]


class NestedEngine:
    """Runs one chain on lists of parameters and their nested states, in place.

    Args:
        tx: the chain.
        reduce: joins leaves with those of other processes.
        rows: of parameters that are rows of leaves which other processes have the rest of.

    >>> import torch, gradtx as gx
    >>> from gradtx.fuse import NestedEngine
    >>> p, g = torch.ones(2), torch.ones(2)
    >>> engine = NestedEngine(gx.chain(gx.trace(0.9), gx.scale(-0.5)))
    >>> state = {"trace": {"trace": torch.zeros(2)}}
    >>> engine.run([p], [g], [state], lambda: {"w": p}, [engine.defaults()], [0])
    >>> p, state["trace"]["trace"]
    (tensor([0.5000, 0.5000]), tensor([1., 1.]))
    """

    def __init__(
        self,
        tx: GradientTransformation,
        reduce: Reduce | None = None,
        rows: Mapping[Tensor, Rows] | None = None,
    ) -> None:
        self.engine = Engine.of(tx) if reduce is None else Engine(tx, reduce=reduce)
        self._rows = rows or {}
        self._defaults = self.engine.hyper.plain()
        self._last: Batch | None = None
        self._choices: list[tuple[Any, ...]] = []
        self._paths: list[Paths] = []
        self._names: list[str] = []
        self._beside: list[tuple[int, int]] = []

    def another(self) -> NestedEngine:
        """The same chain for other parameters; what is traced and compiled is shared."""
        nested = copy.copy(self)
        nested.engine = self.engine.another()
        nested._last, nested._paths = None, []
        return nested

    def defaults(self) -> dict[str, Any]:
        """The declared hyperparameters that are no schedules, by full name: one row for ``run``."""
        return dict(self._defaults)

    def row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Every hyperparameter by full name; a short name in ``values`` reaches all who have it."""
        return {
            full: values.get(full, values.get(full.rpartition(".")[2], default))
            for full, default in self._defaults.items()
        }

    def refused(self) -> dict[str, str]:
        """Members that run as torch operations, and why."""
        return self.engine.refused()

    @property
    def passed_over(self) -> dict[str, str]:
        """Kernels for whole chains that do not update these leaves, and why."""
        return self.engine.passed_over

    @property
    def lacks(self) -> str | None:
        """Why it runs multi-tensor operations in place of compiled passes; None if it does not."""
        return self.engine.lacks

    def run(self, *args: Any, **options: Any) -> None:
        """One step in place, see ``prepare``."""
        self.prepare(*args, **options).write()

    def prepare(
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
        names: Sequence[str] = (),
        beside: Sequence[Tensor] = (),
    ) -> Prepared:
        """One step, to be written in place.

        Args:
            params: parameters that have a gradient.
            grads: their gradients.
            states: their nested states, complete.
            params_tree: gives the tree of ``params``, in this order, with the names that
                predicates see; called when parameters or names are not those of the last call.
            hyper: rows of hyperparameters by full name; all rows have the names of ``defaults``.
            rows: per parameter, its row.
            maximize: per parameter, whether its gradient is turned around; default none is.
            extra: 0-d tensors for the chain, such as ``value``.
            others: nested states of parameters without a gradient: what all parameters share is
                put there too.
            names: names of the parameters, where they may change.
            beside: parameters that other chains write before or after: a gradient that lies in
                one of them would be another by then, and is refused.

        Raises:
            CannotFuseError: run the chain as it is. The text says why.
        """
        near = [(p.data_ptr(), extent(p)) for p in beside]
        if near != self._beside:
            self._beside, self.engine = near, self.engine.another()
        last = self._last
        same = (
            last is not None
            and len(last.params) == len(params)
            and all(map(is_, params, last.params))
            and list(names) == self._names
        )
        if not same:
            last = self._describe(list(params), params_tree())
            if last.choices != self._choices:
                self.engine = self.engine.another()  # tables do not know of choices
            self._last, self._choices, self._names = None, last.choices, list(names)
        assert last is not None
        tensors = [
            [_get(state, path) for path in paths.leaf]
            for state, paths in zip(states, self._paths, strict=True)
        ]
        shared_paths = self._paths[0].shared if self._paths else ()
        shared = [_get(states[0], path) for path in shared_paths]
        if not _same_lists(tensors, last.states) or not all(map(is_, shared, last.shared)):
            last = replace(last, states=tensors, shared=shared)
        last = replace(last, rows=list(rows), maximize=list(maximize), beside=beside)
        step = self.again(last, grads, hyper, extra, anew=True)

        def write() -> None:
            step.write()
            self._last = last
            for path, x in zip(shared_paths, shared, strict=True):
                for state in (*states, *others):
                    _put(state, path, x)

        return Prepared(write, step.fails_late)

    @property
    def last(self) -> Batch | None:
        """What the last ``run`` worked on, without gradients; ``again`` takes it."""
        return self._last

    def again(
        self,
        last: Batch,
        grads: Sequence[Tensor],
        hyper: Sequence[Mapping[str, Any]],
        extra: Mapping[str, Tensor] | None = None,
        anew: bool = False,
    ) -> Prepared:
        """A former step once more, with other gradients and other values.

        Args:
            last: what ``last`` was after that step. The states of its parameters still hold the
                tensors that they held then.
            grads: gradients of its parameters.
            hyper: as many rows as at that step.
            extra: 0-d tensors for the chain.
            anew: whether its tensors may lie elsewhere, or in another way.

        Raises:
            CannotFuseError: run the chain as it is. The text says why.
        """
        batch = replace(last, grads=list(grads), hyper=hyper, extra=extra or {})
        with torch.no_grad():
            step = self.engine.prepare(batch, anew)
        return Prepared(torch.no_grad()(step.write), step.fails_late)

    def _describe(self, params: list[Tensor], whole: PyTree) -> Batch:
        """Structure, choices and paths for other parameters than last time."""
        leaves, spec = tree.flatten(whole)
        if len(leaves) != len(params) or not all(map(is_, leaves, params)):
            raise ValueError("NestedEngine: params_tree() must have the leaves of params, in order")
        names = tree.names(spec)
        shown = [self._rows[p].leaf if p in self._rows else p for p in params]
        whole = spec.unflatten(shown)
        choices = self.engine.choices(whole, whole)
        self._paths = [
            self.engine.paths(p, choice, name)
            for p, choice, name in zip(shown, choices, names, strict=True)
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
            wholes=[
                Whole(self._rows[p], paths.states)
                for p, paths in zip(params, self._paths, strict=True)
                if p in self._rows
            ],
        )

    def cut_states(self, p: Tensor, named: PyTree) -> dict[tuple[str, ...], tuple[int, ...]]:
        """The paths and shapes of those tensors of a leaf's state that are cut by rows as it is.

        Args:
            p: one of ``rows``.
            named: a tree with that alone.

        Raises:
            CannotFuseError: the chain does not run on parts of such a leaf.
        """
        if self.engine.events:
            raise CannotFuseError("", "what happens between steps may need whole leaves")
        batch = self._describe([p], named)
        (whole,), (forms,) = batch.wholes, self.engine.forms(batch)
        cut = [form.name in ("leaf", "row", "bits") for form in forms]
        states = [
            torch.zeros_like(whole.rows.of(x) if yes else x, device=p.device)
            for x, yes in zip(whole.states, cut, strict=True)
        ]
        skeleton = self.engine.skeleton(whole.rows.leaf, batch.choices[0])
        shared = split(skeleton, skeleton, tree.flatten(Leaves([0]))[1])[1]
        self.engine.bind(
            replace(
                batch,
                grads=[torch.zeros_like(p)],
                states=[states],
                shared=[torch.zeros_like(x, device=p.device) for x in shared],
                hyper=[self._defaults],
                rows=[0],
            )
        )
        each = zip(self._paths[0].leaf, whole.states, cut, strict=True)
        return {path: tuple(x.shape) for path, x, yes in each if yes}


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
