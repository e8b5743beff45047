"""What executors may rely on: hints that transforms declare, and kernels for whole chains.

An executor never knows a transform; it knows these hints. A class declares what holds for it::

    execution: ClassVar[Execution] = Execution(leaves_independent=True, cannot_raise=True)

What it does not name comes from its base class. A hint that depends on the options of a transform
is given as a function of the transform.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch import Tensor

Transform: TypeAlias = Any  # a GradientTransformation, whose module imports this one
Truth: TypeAlias = "bool | Callable[[Transform], bool]"


@dataclass(frozen=True)
class NextShared:
    """What all leaves share after a step in which leaves were updated one by one.

    Attributes:
        state: the class of the transform's state.
        field: its field that all leaves share.
        compute: ``compute(tx, shared, sums, hyper, count)`` makes that field from what it was
            before the step. ``sums`` are the values that ``update`` passed to ``reduce.sum``, added
            over all leaves, ``hyper`` the overrides that it got, as lists over leaves, ``count``
            the updates done before, for schedules.

    >>> import gradtx as gx
    >>> gx.NextShared(gx.TreeState, "shared", lambda tx, shared, sums, hyper, count: sums[0]).field
    'shared'
    """

    state: type
    field: str
    compute: Callable[[Transform, Any, tuple[Tensor, ...], Mapping[str, Any], Tensor | None], Any]


@dataclass(frozen=True)
class Factored:
    """Updates that are the gradient times something small: a number a row, a column or a leaf.

    Attributes:
        form: ``form(tx, shape, state)`` says what a leaf is multiplied with, "row", "column" or
            "scalar", or None where its update is something else; ``state`` is the leaf's.
        squares: ``squares(tx, gradient)`` says of what the transform gives squared norms of the
            gradient besides, "row" or "column", or None.
        transform: ``transform(tx)`` is the same transform without the multiplication; updates
            have the fields ``factor`` and ``squares``.
    """

    form: Callable[[Transform, tuple[int, ...], Any], str | None]
    squares: Callable[[Transform, Tensor], str | None]
    transform: Callable[[Transform], Transform]


@dataclass(frozen=True)
class Events:
    """What happens to a state before some steps, and nothing of which happens in the others.

    Attributes:
        count: the field of the transform's state that counts its updates, shared by all leaves.
        due: ``due(tx, count)`` says of an int whether something happens before that step.
        begin: ``begin(tx, params, state)`` is the state once it has happened.
        between: ``between(tx)`` is the transform without events; its state is of the same form.

    >>> import gradtx as gx
    >>> gx.sparsity.reset_on.execution.events.count
    'step'
    """

    count: str
    due: Callable[[Transform, int], bool]
    begin: Callable[[Transform, Any, Any], Any]
    between: Callable[[Transform], Transform]


@dataclass(frozen=True)
class Stacked:
    """Leaves that are stacks of parts, of which processes may have some each.

    The transform updates every part as it would alone, and what it keeps of such a leaf, if
    anything, is of one part each or of the whole leaf.

    Attributes:
        count: ``count(tx, shape)`` says into how many equal parts along its first dimension a leaf
            falls; None: into none.
        share: ``share(tx, first, count)`` is the transform for so many parts from that one on,
            perhaps none; states stand where they do for the whole leaf.

    >>> import torch, gradtx as gx
    >>> hint = gx.split_rows.execution.stacked
    >>> own = hint.share(gx.split_rows(gx.normalize_neurons(), blocks=8), 2, 1)
    >>> [bool(x) for x in own.init({"w": torch.ones(4, 3)})["w"][:4]]
    [False, False, True, False]
    """

    count: Callable[[Transform, tuple[int, ...]], int | None]
    share: Callable[[Transform, int, int], Transform] = lambda tx, first, count: tx


_CONTRACTS = {
    "events": Events,
    "factored": Factored,
    "next_shared": NextShared,
    "stacked": Stacked,
}
_FUNCTIONS = ("chooses", "matrix_view", "low_rank_form", "of_part")


@dataclass(frozen=True)
class Execution:
    """What executors may rely on, as far as it depends on the transform itself.

    Attributes:
        leaves_independent: leaves may be updated one by one, in any order. What all leaves share
            follows from what it was before the step, or from ``next_shared``.
        reduces: where leaves are not independent, what they share comes from values that go through
            ``reduce``, so that processes may have some of the leaves each.
        joins_leaves: what is kept is of all leaves as one, in a shape that depends on them all;
            every leaf takes part in every step.
        cannot_raise: ``update`` raises for no values where it has not raised for others, shapes
            and dtypes being the same. Executors may then write some leaves before others.
        precomputes: leaves compute something in one go; they are better not cut apart.
        orders_dimensions: what happens to a leaf depends on which of its dimensions is larger.
        positive: results are above zero.
        chooses: ``chooses(tx)`` names the field with a predicate on ``LeafInfo`` that decides what
            is kept of a leaf and done to it.
        matrix_view: how the transform sees leaves as matrices, ``shape -> (rows, columns)``, or
            None.
        low_rank_form: the same transform for executors, or None: it may overwrite its state, and
            its updates may be ``LowRankUpdate``, to be multiplied out when they are applied.
        factored: updates as gradients times something small.
        next_shared: what follows the last leaf where they are updated one by one.
        events: what happens before some steps only.
        stacked: how leaves fall into parts that are updated one by one.
        of_part: ``of_part(tx)`` is the same transform for parts of leaves. It treats elements one
            by one, but for the numbers that they have in their leaf, which it gets as the
            hyperparameters of ``core.numbered.Part``.

    Raises:
        TypeError: a hint that does not exist, or is of another type.

    >>> from gradtx.core.execution import Execution
    >>> Execution(cannot_raise=True).over(Execution(leaves_independent=True)).leaves_independent
    True
    """

    leaves_independent: Truth | None = None
    reduces: Truth | None = None
    joins_leaves: Truth | None = None
    cannot_raise: Truth | None = None
    precomputes: Truth | None = None
    orders_dimensions: Truth | None = None
    positive: Truth | None = None
    chooses: Callable[[Transform], str] | None = None
    matrix_view: Callable[[Transform], Callable[..., tuple[int, int]] | None] | None = None
    low_rank_form: Callable[[Transform], Transform | None] | None = None
    factored: Factored | None = None
    next_shared: NextShared | None = None
    events: Events | None = None
    stacked: Stacked | None = None
    of_part: Callable[[Transform], Transform] | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in _CONTRACTS:
                good, wanted = isinstance(value, _CONTRACTS[name]), _CONTRACTS[name].__name__
            elif name in _FUNCTIONS:
                good, wanted = callable(value), "a function of the transform"
            else:
                good = isinstance(value, bool) or callable(value)
                wanted = "True, False or a function of the transform"
            if value is not None and not good:
                raise TypeError(f"Execution: {name} must be {wanted}, got {value!r}")

    def over(self, base: Execution) -> Execution:
        """These hints, and those of ``base`` where there are none."""
        named = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(base, **named)


# Attributes that were hints before.
_FORMER = {"per_leaf": "leaves_independent=True", "steady": "cannot_raise=True"}


def inherit(cls: type) -> None:
    """Complete the hints that a class declares by those of its bases.

    Raises:
        TypeError: they are no ``Execution``, or spelt as attributes.
    """
    for former, now in _FORMER.items():
        if former in vars(cls):
            raise TypeError(f"{cls.__name__}: {former} is now a hint, execution = Execution({now})")
    own = vars(cls).get("execution")
    if own is None or isinstance(own, property):
        return
    if not isinstance(own, Execution):
        raise TypeError(f"{cls.__name__}: execution must be an Execution, got {own!r}")
    for base in cls.__mro__[1:]:
        if isinstance(theirs := vars(base).get("execution"), Execution):
            cls.execution = own = own.over(theirs)  # type: ignore[attr-defined]


def holds(tx: Transform, name: str) -> bool:
    """Whether a hint that is true or false is true of a transform.

    >>> import gradtx as gx
    >>> from gradtx.core.execution import holds
    >>> holds(gx.trace(0.9), "leaves_independent"), holds(gx.orthogonalize(), "cannot_raise")
    (True, True)
    """
    value = getattr(tx.execution, name)
    return bool(value(tx) if callable(value) else value)


def low_rank_form(tx: Transform) -> Transform | None:
    """A transform in its form for executors, see ``Execution.low_rank_form``."""
    hint = tx.execution.low_rank_form
    return None if hint is None else hint(tx)


class Leaves(Protocol):
    """Lists of leaves with a gradient, and everything that belongs to them; see ``gx.fuse``.

    Attributes:
        params, grads: a tensor a leaf.
        states: per leaf its state tensors, as they stand in the state.
        shared: state tensors that all leaves share.
        hyper: rows of hyperparameters by full name.
        rows: per leaf its row.
        maximize: per leaf whether the gradient is turned around; empty for none.
        extra: further arguments of ``update``.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor]]
    shared: list[Tensor]
    hyper: Sequence[Mapping[str, Any]]
    rows: list[int]
    maximize: list[bool]
    extra: Mapping[str, Tensor]


class ChainStep(ABC):
    """A chain kernel with the leaves that it updates."""

    @property
    @abstractmethod
    def may_raise(self) -> bool:
        """Whether ``run`` may raise."""

    @abstractmethod
    def run(
        self, leaves: Leaves, grads: list[Tensor], at: np.ndarray, name: Callable[[int], str]
    ) -> None:
        """One step in place.

        Parameters and states lie where and as they did when the step was bound, so that it may
        keep a table of their addresses.

        Args:
            leaves: these, with the hyperparameters of the step.
            grads: their gradients, contiguous.
            at: where they begin.
            name: gives the name of a leaf, for errors.

        Raises:
            ValueError: what the chain raises; nothing has changed.
        """

    @abstractmethod
    def moved(self) -> int:
        """Bytes that a step reads and writes."""


class ChainKernel(ABC):
    """An operator that computes a whole chain on lists of leaves, in place.

    It is registered beside the recipe of the chain.
    """

    name: str

    @abstractmethod
    def match(self, tx: Transform) -> Any:
        """What the operator has to know of a chain; None: another chain; text: why not it."""

    @abstractmethod
    def bind(self, found: Any, leaves: Leaves) -> ChainStep | str:
        """Steps of these leaves, or why the operator does not update them.

        Args:
            found: what ``match`` gave.
            leaves: ordinary dense tensors on one device. Gradients must not be kept.
        """


_KERNELS: list[ChainKernel] = []


def register(kernel: ChainKernel) -> None:
    """Let executors try a kernel before anything else."""
    _KERNELS.append(kernel)


def chain_kernels() -> tuple[ChainKernel, ...]:
    """All that have been registered, in order."""
    return tuple(_KERNELS)
