"""What is checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from ..core.protocol import GradientTransformation
from .members import Dynamic, dynamics, with_values
from .trees import STEPS, call, run, some_grads, some_params, with_hyper
from .unrolled import Unrolled


class Subject:
    """A transform under check, with what many properties ask for computed once.

    Args:
        make: builds the transform.
        runs: what ``gx.fuse`` is to do with it: ``"fused"``, ``"partly"``, ``"eager"``, or None
            if that is not asked.
    """

    def __init__(self, make: Callable[[], GradientTransformation], runs: str | None = None) -> None:
        self.make = make
        self.runs = runs
        self.tx = make()
        self._overridden: dict[tuple[str, float], Any] = {}
        self._rebuilt: dict[frozenset[tuple[int, str, Any]], Any] = {}

    @cached_property
    def trajectory(self) -> tuple[list[Any], list[Any]]:
        """The updates of ``STEPS`` steps, and the states before, between and after them."""
        params = some_params()
        outs, states = [], [self.tx.init(params)]
        for step in range(STEPS):
            out, state = call(self.tx, some_grads(step), states[-1], params)
            outs.append(out)
            states.append(state)
        return outs, states

    @property
    def plain(self) -> tuple[list[Any], Any]:
        """The updates of all steps and the last state."""
        outs, states = self.trajectory
        return outs, states[-1]

    def state_after(self, steps: int) -> Any:
        """The state after some steps."""
        return self.trajectory[1][steps]

    @cached_property
    def dynamics(self) -> list[Dynamic]:
        """The dynamic hyperparameters of all members."""
        return dynamics(self.tx)

    @cached_property
    def unrolled(self) -> Unrolled:
        """Its training as a differentiable function."""
        return Unrolled(self.make())

    def overridden(self, key: str, value: float) -> tuple[list[Any], Any]:
        """As ``plain``, with one hyperparameter overridden in every step."""
        if (key, value) not in self._overridden:
            self._overridden[key, value] = run(self.tx, extra=with_hyper({key: value}))
        return self._overridden[key, value]

    def rebuilt(self, changes: list[tuple[Any, str, Any]]) -> tuple[list[Any], Any]:
        """As ``plain``, of the transform made with other values: (member, name, value)."""
        key = frozenset((id(member), name, value) for member, name, value in changes)
        if key not in self._rebuilt:
            self._rebuilt[key] = run(with_values(self.tx, changes))
        return self._rebuilt[key]


def holds_for_all(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Mark a function as a property: it raises where what its docstring says does not hold."""
    check.is_property = True  # type: ignore[attr-defined]
    return check
