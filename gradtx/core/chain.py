"""Transforms in sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .errors import TreeMismatchError, described
from .execution import Execution, holds, low_rank_form
from .leaves import LowRankUpdate
from .protocol import GradientTransformation, members
from .tree import PyTree


@dataclass(frozen=True)
class Chain(GradientTransformation):
    """Named transforms applied one after the other; made by ``chain`` and ``named_chain``.

    The state is a dict from member name to member state. Members that ask for the gradients
    (``extra["grads"]``) get the updates that entered the outermost chain.
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True, cannot_raise=True, low_rank_form=lambda tx: tx.low_rank_form()
    )

    members: tuple[tuple[str, GradientTransformation], ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name, tx in self.members:
            if not isinstance(tx, GradientTransformation):
                raise TypeError(
                    f"chain: member {name!r} must be a GradientTransformation, got "
                    f"{described(tx)}; wrap functions with gx.stateless or gx.transformation"
                )
            if name in seen:
                raise ValueError(f"named_chain: two members are called {name!r}")
            if not name or "." in name:
                raise ValueError(f"named_chain: a member name must have no dot, got {name!r}")
            seen.add(name)

    @property
    def name(self) -> str:
        return "chain"

    @property
    def inner(self) -> Mapping[str, GradientTransformation]:
        return dict(self.members)

    def __iter__(self) -> Iterator[tuple[str, GradientTransformation]]:
        return iter(self.members)

    def __getitem__(self, name: str) -> GradientTransformation:
        return self.inner[name]

    def __repr__(self) -> str:
        transforms = [tx for _, tx in self.members]
        if [name for name, _ in chain(*transforms)] == [name for name, _ in self.members]:
            return "chain(" + ", ".join(map(repr, transforms)) + ")"
        return "named_chain(" + ", ".join(map(repr, self.members)) + ")"

    def init(self, params: PyTree) -> PyTree:
        return {name: tx.init(params) for name, tx in self.members}

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_members("chain", state, self.members)
        extra.setdefault("grads", updates)
        new_state = {}
        for name, _ in self.members:
            updates, new_state[name] = self.update_inner(name, updates, state[name], params, extra)
        return updates, new_state

    def low_rank_form(self) -> Chain | None:
        """With members in their forms for executors where all after them can take what they give.

        None if no member has such a form.
        """
        forms = {
            name: low_rank_form(tx)
            for i, (name, tx) in enumerate(self.members)
            if all(_takes_products(later) for _, later in self.members[i + 1 :])
        }
        if all(form is None for form in forms.values()):
            return None
        return Chain(tuple((name, forms.get(name) or tx) for name, tx in self.members))


def _takes_products(tx: GradientTransformation) -> bool:
    """Whether a member takes low-rank updates and cannot fail after others have been written."""
    accepts = LowRankUpdate in getattr(tx, "accepts", ())
    return accepts and all(holds(m, "cannot_raise") for _, m in members(tx))


def check_members(
    who: str, state: PyTree, members: tuple[tuple[str, GradientTransformation], ...]
) -> None:
    """Raise unless ``state`` has exactly one entry for every member."""
    want = [name for name, _ in members]
    if not isinstance(state, Mapping) or set(state) != set(want):
        got = list(state) if isinstance(state, Mapping) else type(state).__name__
        raise TreeMismatchError(f"{who}: the state has members {got}, the transform has {want}")


def chain(*transforms: GradientTransformation) -> Chain:
    """Apply transforms in order: each receives the updates of the one before it.

    A chain inside a chain is spliced in. Members are named after their transform; a repeated name
    gets a number. The names are the keys of the state and prefix hyperparameters
    (``hyper={"scale_by_adam.b1": 0.8}``).

    Raises:
        TypeError: a member is not a transform.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.scale(2.0), gx.trace(0.9), gx.scale(-0.1))
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> list(state)
    ['scale', 'trace', 'scale_1']
    >>> tx.update({"w": torch.ones(1)}, state)[0]
    {'w': tensor([-0.2000])}
    """
    flat: list[tuple[str, GradientTransformation]] = []
    for i, tx in enumerate(transforms):
        if isinstance(tx, (list, tuple)):
            raise TypeError(
                f"chain: member {i} must be a GradientTransformation, got {described(tx)}; "
                "write chain(*transforms)"
            )
        if isinstance(tx, Chain):  # a number that an inner chain gave is given anew
            flat.extend((_without_number(name, t), t) for name, t in tx.members)
        else:
            flat.append((tx.name if isinstance(tx, GradientTransformation) else str(i), tx))
    taken: set[str] = set()
    named = []
    for name, tx in flat:
        unique, i = name, 0
        while unique in taken:
            i += 1
            unique = f"{name}_{i}"
        taken.add(unique)
        named.append((unique, tx))
    return Chain(tuple(named))


def _without_number(name: str, tx: GradientTransformation) -> str:
    return tx.name if re.fullmatch(re.escape(tx.name) + r"_\d+", name) else name


def named_chain(*members: tuple[str, GradientTransformation]) -> Chain:
    """A chain whose members you name yourself; a chain as a member stays nested.

    Raises:
        ValueError: two members share a name, or a name contains a dot.
        TypeError: a member is not a transform.

    >>> import torch, gradtx as gx
    >>> tx = gx.named_chain(("momentum", gx.trace(0.9)), ("step", gx.scale(-0.1)))
    >>> tx
    named_chain(('momentum', trace(decay=0.9)), ('step', scale(step_size=-0.1)))
    >>> tx.init({"w": torch.zeros(1)})
    {'momentum': {'w': TraceState(trace=tensor([0.]))}, 'step': ()}
    """
    return Chain(tuple(members))
