"""The words in which cases are written, and the numbers they run on.

A ``Call`` names a function and its arguments; the two readers look the name up in their library.
Arguments may be calls themselves (a schedule, an inner transform) or lists and dicts of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

STEPS = 8
VALUES = (2.0, 1.5, 1.6, 1.55, 1.2, 1.25, 1.3, 0.9)  # losses of the steps
COUNTS = 40


@dataclass(frozen=True)
class Call:
    """A function by name. ``optax`` is its name there; the last two hold one side's arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    optax: str = ""
    optax_only: dict[str, Any] = field(default_factory=dict)
    ours_only: dict[str, Any] = field(default_factory=dict)
    kind: str = "transform"

    @property
    def optax_name(self) -> str:
        return self.optax or self.name


@dataclass(frozen=True)
class Case:
    """One trajectory: a transform run on the gradients and parameters of one tree."""

    id: str
    call: Call
    tree: str = "mixed"
    rtol: float = 1e-9


def tx(
    name: str,
    optax: str = "",
    optax_only: dict[str, Any] | None = None,
    ours_only: dict[str, Any] | None = None,
    **arguments: Any,
) -> Call:
    return Call(name, arguments, optax, optax_only or {}, ours_only or {})


def schedule(name: str, optax: str = "", **arguments: Any) -> Call:
    return Call(name, arguments, optax or f"{name}_schedule", kind="schedule")


def function(name: str, optax: str = "", **arguments: Any) -> Call:
    """A function with some of its arguments, handed to a transform."""
    return Call(name, arguments, optax, kind="function")


class Following:
    """A stateful schedule in either library: an average of losses, from which a rate follows."""

    def __init__(self, zero: Any) -> None:
        self.zero = zero

    def init(self) -> Any:
        return self.zero

    def update(self, state: Any, *, value: Any, **extra: Any) -> Any:
        return 0.5 * state + 0.5 * value

    def __call__(self, state: Any, **extra: Any) -> Any:
        return 0.5 / (1 + state)


def pull(params: Any, i: int) -> Any:
    """Gradients that an adversary asks for."""
    return {name: (0.3 * i - 0.2) * x for name, x in params.items()}


def growing(step: Any) -> Any:
    """A period that grows, of a count in either library."""
    return 1 + step // 2


SHAPES = {
    "mixed": {"matrix": (5, 3), "scalar": (), "vector": (7,)},
    "matrices": {"a": (5, 3), "b": (2, 4)},
    "kernels": {"a": (4, 3, 2), "b": (3, 2, 2, 2)},
    "factored": {"matrix": (6, 5), "vector": (7,)},
    "examples": {"kernel": (4, 3, 2), "vector": (4, 5)},
    "broken": {"matrix": (5, 3), "scalar": (), "vector": (7,)},
}


def data(tree: str) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Parameters and gradients of every step; parameters do not depend on the transform.

    Made by a fixed linear congruential generator, so that no library's random numbers matter.
    """
    state = 12345

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        nonlocal state
        out = np.empty(int(np.prod(shape)))
        for i in range(out.size):
            state = (6364136223846793005 * state + 1442695040888963407) % 2**64
            out[i] = (state >> 11) * 2.0**-52 - 1.0
        return out.reshape(shape)

    shapes = SHAPES[tree]
    params = [{name: draw(shape) for name, shape in shapes.items()}]
    grads = []
    for t in range(STEPS):
        grad = {name: draw(shape) * 10.0 ** (t % 3 - 1) for name, shape in shapes.items()}
        if tree in ("mixed", "broken") and t == 4:
            grad["vector"] = np.zeros_like(grad["vector"])
            grad["matrix"][0] = 0.0
        if tree == "broken" and t in (1, 5, 6, 7):
            grad["vector"][2] = np.nan
        grads.append(grad)
        params.append({name: p - 0.1 * grad[name] for name, p in params[-1].items()})
    if tree == "broken":
        params = params[:1] * len(params)
    return params[:STEPS], grads
