"""What lowers a torch operation to graph nodes: a rule, and what it needs from the tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Rule = Callable[["Recorder", Tensor, tuple[Any, ...], dict[str, Any]], int]
Spec = tuple[int, int, bool]  # bits, elements of a block, signed
RULES: dict[str, Rule] = {}


class Recorder(Protocol):
    """What a rule needs from the tracer."""

    def node(self, value: Any) -> int:
        """The node of a tensor or of a number."""

    def add(self, op: str, args: tuple[int, ...], dtype: torch.dtype, value: Any = None) -> int:
        """Record an operation; its form follows from those of the arguments."""

    def fill(self, number: Any, out: Tensor, like: Tensor | None = None) -> int:
        """A constant shaped like ``out``; of the form of ``like`` if that has the shape too."""

    def reduction(self, op: str, x: int, source: Tensor, out: Tensor, dims: Any) -> int:
        """Combine ``x`` over some dimensions, all if there are none."""

    def count(self, source: Tensor, out: Tensor) -> int:
        """How many elements are combined into each of ``out``."""

    def pack(self, x: Tensor) -> int:
        """The signs of a matrix as bits."""

    def unpack(self, bits: Tensor, out: Tensor) -> int:
        """Bits as booleans."""

    def decode(self, codes: Tensor, scale: Tensor, out: Tensor, spec: Spec) -> int:
        """The elements that codes stand for."""

    def encode(self, x: Tensor, out: Tensor, spec: Spec) -> int:
        """The codes of elements, or the scale of every block."""

    def every(self, x: Tensor, step: int, out: Tensor) -> int:
        """Every so many elements of a flat leaf, from the first on."""

    def draw(self, key: Tensor, out: Tensor, numbers: Sequence[Tensor] = ()) -> int:
        """Random numbers of 16 bits for the elements, which may have other numbers than here."""

    def pick(self, pair: Tensor, index: int) -> int:
        """One of the two numbers of a state."""

    def pair(self, first: Tensor, second: Tensor) -> int:
        """Such a state from its numbers."""

    def refuse(self, reason: str) -> Exception:
        """The error for something unsupported."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators, by name with or without overload."""

    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return register
