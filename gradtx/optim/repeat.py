"""A fused step done again: what must be as it was, checked by identity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain as concat
from operator import is_
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..core.fields import is_readable
from ..core.protocol import GradientTransformation
from ..fuse import CannotFuseError, NestedEngine, write_all
from .options import Option

# Options that are no hyperparameters, yet change what a step does.
_MODES = ("maximize", "capturable", "differentiable", "fused")


class Grouped(Protocol):
    """What a repeated step needs to know of its optimizer."""

    param_groups: list[dict[str, Any]]
    state: Any

    def transform_of(self, group: Mapping[str, Any]) -> GradientTransformation:
        """The chain for a parameter group."""

    def options(self, group: Mapping[str, Any]) -> Mapping[str, Option]:
        """The dynamic options of a parameter group by name."""


class GroupValues:
    """The hyperparameters that a group feeds, and the options they came from.

    Args:
        optimizer: whose group it is.
        group: the group.
        engine: what runs its chain.

    Raises:
        ValueError, TypeError: an option does not fit.
    """

    def __init__(self, optimizer: Grouped, group: Mapping[str, Any], engine: NestedEngine) -> None:
        self._engine = engine
        self.group = group
        self._entries: list[Any] = []
        self.refresh(optimizer)

    def refresh(self, optimizer: Grouped) -> None:
        """Take over the group's options as they are now.

        Raises:
            ValueError, TypeError: an option does not fit.
        """
        entries = list(self.group.values())
        if _same(entries, self._entries):
            return
        values: dict[str, Any] = {}
        options = optimizer.options(self.group)
        for name, option in options.items():
            option.check(type(optimizer).__name__, name, self.group[name])
            values.update(option.values(self.group[name]))
        self.row = self._engine.row(values)
        self.per_entry = any(isinstance(v, Tensor) and v.ndim > 0 for v in values.values())
        # A list or a tensor may change and stay the same object.
        steady = not any(_may_change(self.group[name]) for name in options)
        self._entries = entries if steady else []


class Run(NamedTuple):
    """What was done for the parameters of one chain.

    Attributes:
        engine: what ran the chain.
        params: its parameters that had a gradient.
        rows: the hyperparameters it used.
    """

    engine: NestedEngine
    params: Sequence[Tensor]
    rows: Sequence[GroupValues]


class Repeat:
    """A fused step that has been done, and may be done again.

    Nothing is taken on trust: parameters, groups, names and the state with all its tensors must be
    the objects they were, and the same parameters must have gradients.

    Args:
        optimizer: whose step it was.
        params: all its parameters, once each.
        runs: all that was done.
    """

    def __init__(self, optimizer: Grouped, params: Iterable[Tensor], runs: Sequence[Run]) -> None:
        self._runs = [(run, run.engine.last) for run in runs]
        self._params = list(params)
        at = {p: i for i, p in enumerate(self._params)}
        self._where = [[at[p] for p in run.params] for run in runs]
        self._absent = [p.grad is None for p in self._params]
        self._groups = [
            (
                group,
                list(group["params"]),
                _names(group),
                _modes(group),
                optimizer.transform_of(group),
            )
            for group in optimizer.param_groups
        ]
        self._owners = list(optimizer.state)
        self._dicts = [d for state in optimizer.state.values() for d in _dicts(state)]
        self._top = list(optimizer.state.values())
        self._values = _values(self._dicts)

    def run(self, optimizer: Grouped, extra: Mapping[str, Tensor]) -> bool:
        """Do the step if everything is as it was; False if nothing has been done.

        Args:
            optimizer: the same one; it is not kept, so that it can be freed at once.
            extra: 0-d tensors for the chain.

        Raises:
            ValueError, TypeError: an option does not fit. Nothing has changed.
        """
        if not (self._same_groups(optimizer) and self._same_state(optimizer.state)):
            return False
        grads: list[Any] = [p.grad for p in self._params]
        if [g is None for g in grads] != self._absent:
            return False
        there = [[grads[i] for i in where] for where in self._where]
        for run, _ in self._runs:
            for row in run.rows:
                row.refresh(optimizer)
        steps = []
        try:
            for (run, last), given in zip(self._runs, there, strict=True):
                assert last is not None  # it has run
                hyper = [row.row for row in run.rows]
                steps.append(run.engine.again(last, given, hyper, extra))
        except CannotFuseError:
            return False
        write_all(steps)
        return True

    def _same_groups(self, optimizer: Grouped) -> bool:
        groups = optimizer.param_groups
        return len(groups) == len(self._groups) and all(
            now is group
            and _same(now["params"], params)
            and _names(now) == names
            and _same(_modes(now), modes)
            and optimizer.transform_of(now) is tx
            for now, (group, params, names, modes, tx) in zip(groups, self._groups, strict=True)
        )

    def _same_state(self, state: Mapping[Any, Any]) -> bool:
        return (
            _same(list(state), self._owners)
            and _same(list(state.values()), self._top)
            and _same(_values(self._dicts), self._values)
        )


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return len(a) == len(b) and all(map(is_, a, b))


def _names(group: Mapping[str, Any]) -> list[str]:
    return list(group.get("param_names") or ())


def _modes(group: Mapping[str, Any]) -> list[Any]:
    return [group[name] for name in _MODES]


def _may_change(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return isinstance(value, list) or any(map(_may_change, value))
    return isinstance(value, Tensor) and (value.ndim > 0 or is_readable(value))


def _dicts(nested: Any) -> Iterator[dict[str, Any]]:
    """A nested dict and those inside it, outer ones first."""
    if isinstance(nested, dict):
        yield nested
        for value in nested.values():
            yield from _dicts(value)


def _values(dicts: Iterable[dict[str, Any]]) -> list[Any]:
    return list(concat.from_iterable(map(dict.values, dicts)))
