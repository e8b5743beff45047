"""What one step works on: leaves as flat lists, hyperparameters as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain as concat
from typing import Any, NamedTuple

from torch import Tensor

from ...core import hyper as hyper_
from ...core import tree
from ...core.plain import plain
from ...core.protocol import (
    GradientTransformation,
    check_names,
    declared_hyper,
    members,
    override_names,
)
from ...core.transform import of_tree
from ..frontend.layout import Structure
from ..frontend.specialize import Choice
from ..ir.errors import CannotFuseError


class Rows(NamedTuple):
    """All of a leaf, of which this process has some rows.

    Attributes:
        leaf: on the meta device.
        bounds: where the parts of processes begin, counted in elements, and where the last ends.
        own: which part this process has.
    """

    leaf: Tensor
    bounds: tuple[int, ...]
    own: int

    def of(self, x: Tensor) -> Tensor:
        """This process's part of a tensor whose first dimension goes along that of the leaf.

        Raises:
            CannotFuseError: parts of it do not begin where those of the leaf do.
        """
        each, rest = divmod(self.leaf.numel(), x.shape[0])
        if rest or any(bound % each for bound in self.bounds):
            raise CannotFuseError("", f"rows of a state {tuple(x.shape)} are cut")
        start, stop = (self.bounds[self.own + k] // each for k in (0, 1))
        return x.narrow(0, start, stop - start)


class Whole(NamedTuple):
    """All of a leaf of which there are some rows here, and its state, without values.

    Attributes:
        rows: the leaf.
        states: its state tensors, in the order of the structure.
    """

    rows: Rows
    states: Sequence[Tensor]


@dataclass
class Batch:
    """Leaves that have a gradient, and everything that belongs to them.

    Attributes:
        params, grads: one tensor per leaf.
        states: per leaf its state tensors, in the order of ``structures``.
        shared: state tensors that all leaves share.
        structures: per leaf.
        choices: per leaf, what ``specialize.choices`` says.
        hyper: rows of hyperparameters by full name; floats or 0-d tensors.
        rows: per leaf its row.
        spec: structure of the parameter tree, or of the part of it that the leaves are.
        positions: per leaf its position in the tree.
        extra: 0-d tensors passed on to the chain.
        maximize: per leaf whether the gradient is turned around.
        beside: what others write in the same step: no gradient may lie there.
        wholes: where ``params`` are rows of leaves that other processes have the rest of, those
            leaves with their states, without values; else empty.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    shared: list[Tensor]
    structures: list[Structure]
    choices: list[Choice]
    hyper: Sequence[Mapping[str, Any]]
    rows: list[int]
    spec: Any
    positions: list[int]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    maximize: list[bool] = field(default_factory=list)
    beside: Sequence[Tensor] = ()
    wholes: Sequence[Whole] = ()

    def some(self, where: Sequence[int]) -> Batch:
        """These leaves alone."""

        def chosen(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in where] if values else []

        return replace(
            self,
            params=chosen(self.params),
            grads=chosen(self.grads),
            states=chosen(self.states),
            structures=chosen(self.structures),
            choices=chosen(self.choices),
            rows=chosen(self.rows),
            positions=chosen(self.positions),
            maximize=chosen(self.maximize),
            wholes=chosen(self.wholes),
        )

    def alone(self) -> Batch:
        """These leaves as a tree of their own, in which they keep their names."""
        every = tree.names(self.spec)
        names = [every[position] for position in self.positions]
        order, spec = tree.flatten({name: i for i, name in enumerate(names)})
        if len(order) < len(names):  # two of one name: "a.b" is a key, or b is within a
            return self
        places = {i: place for place, i in enumerate(order)}
        return replace(self, spec=spec, positions=[places[i] for i in range(len(names))])

    def every_state(self) -> list[Tensor]:
        """The state tensors of all leaves, and those that they share."""
        return [*concat.from_iterable(self.states), *self.shared]

    def owned(self) -> list[Tensor]:
        """Everything that a step may write."""
        return [*self.params, *self.every_state()]


class HyperNames:
    """The dynamic hyperparameters of a chain by full name, and how overrides reach them."""

    def __init__(self, tx: GradientTransformation) -> None:
        self._tx = tx
        self._known = override_names(tx)
        self.declared = declared_hyper(tx)
        self._members = dict(members(tx))
        self.of_tree = set(of_tree(tx))

    def plain(self) -> dict[str, Any]:
        """Declared values that are no schedules."""
        return {k: v for k, v in self.declared.items() if isinstance(v, Tensor) or not callable(v)}

    def overrides(self, hyper: Mapping[str, Any] | None) -> dict[str, Any]:
        """Values given for a call, by full name.

        Raises:
            ValueError, TypeError: a name that nothing has.
        """
        found = {}
        if hyper and not isinstance(hyper, hyper_.Overrides):
            check_names(self._tx, hyper, self._known)
        for full in self.declared if hyper else ():
            path, _, name = full.rpartition(".")
            keys, segments = [name], path.split(".") if path else []
            keys += [".".join((*segments[: i + 1], name)) for i in range(len(segments))]
            for key in keys:
                if key in hyper:  # type: ignore[operator]
                    found[full] = hyper[key]  # type: ignore[index]
        return found

    def rows(
        self, hyper: Mapping[str, Any] | None, spec: Any, there: list[int]
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """Rows of values for a call, and the row of every leaf.

        Args:
            hyper: overrides by name; those that are trees give every leaf a row of its own.
            spec: structure of the trees.
            there: positions of the leaves in them.

        Raises:
            ValueError, TypeError: a number outside its interval, or a name that nothing has.
            CannotFuseError: a value for every entry of a leaf.
        """
        values = self.plain()
        per_leaf: dict[str, list[Any]] = {}
        for name, given in self.overrides(hyper).items():
            value = plain(given)
            if isinstance(value, (int, float, Tensor)):
                self.check(name, value)
                values[name] = value
                continue
            trees = tree.flatten_like("fuse", spec, value, f"hyper[{name!r}]")
            leaves = list(map(plain, trees))
            for v in leaves:
                if v is not None:
                    self.check(name, v)
            per_leaf[name] = [leaves[i] for i in there]
        if not per_leaf:
            return [values], [0] * len(there)
        rows = [
            {**values, **{name: x[k] for name, x in per_leaf.items() if x[k] is not None}}
            for k in range(len(there))
        ]
        return rows, list(range(len(there)))

    def check(self, full: str, value: Any) -> None:
        """Raise unless a value may stand for a hyperparameter."""
        path, _, name = full.rpartition(".")
        member = self._members[path]
        per_entry = hyper_.is_per_entry(member, name)
        hyper_.check_value(member.name, name, value, member.declared[name], per_entry)
        if isinstance(value, Tensor) and value.ndim:
            raise CannotFuseError(path, f"{name} has one value an entry")
