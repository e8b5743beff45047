"""Small trees, runs of a transform over them, and comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optree
import torch
from torch import Tensor

import gradtx as gx
from gradtx.core import hyper as hyper_
from gradtx.core.protocol import members

SHAPES = {"b": (3,), "deep": {"s": ()}, "w": (3, 2)}
STEPS = 4


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def random_tree(seed: int, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    """Normal values from an own generator; the same numbers (up to rounding) in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return optree.tree_map(
        lambda shape: torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype),
        shapes,
        is_leaf=_is_shape,
    )


def params_(shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    return random_tree(100, shapes, dtype)


def grads_(step: int, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    return random_tree(step, shapes, dtype)


def call(tx: gx.GradientTransformation, grads: Any, state: Any, params: Any, **extra: Any) -> Any:
    """One update with everything that some transform may ask for."""
    extra = {"grads": grads, "value": torch.tensor(1.5), **extra}
    return tx.update(grads, state, params, **extra)


def run(
    tx: gx.GradientTransformation,
    params: Any = None,
    grads: Callable[[int], Any] = grads_,
    steps: int = STEPS,
    extra: Callable[[int, Any], Mapping[str, Any]] = lambda step, state: {},
    state: Any = None,
    start: int = 0,
) -> tuple[list[Any], Any]:
    """The updates of every step and the last state; parameters stay where they are."""
    params = params_() if params is None else params
    state = tx.init(params) if state is None else state
    outs = []
    for step in range(start, steps):
        out, state = call(tx, grads(step), state, params, **extra(step, state))
        outs.append(out)
    return outs, state


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in gx.tree.leaves(tree) if isinstance(x, Tensor)]


def structure(tree: Any) -> Any:
    return gx.tree.flatten(tree)[1]


def bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


def same_bits(a: Any, b: Any) -> bool:
    """Same structure, dtypes, shapes and bits (NaN equals the same NaN)."""
    if structure(a) != structure(b):
        return False
    for x, y in zip(gx.tree.leaves(a), gx.tree.leaves(b), strict=True):
        if (x.dtype, x.shape) != (y.dtype, y.shape) or not torch.equal(bits(x), bits(y)):
            return False
    return True


def assert_close(a: Any, b: Any, rtol: float = 2e-6, atol: float = 1e-6) -> None:
    """Same structure and nearly the same numbers, dtypes included."""
    assert structure(a) == structure(b)
    for x, y in zip(gx.tree.leaves(a), gx.tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol, equal_nan=True)


class Snapshot:
    """Remembers trees and asserts that nothing touched them."""

    def __init__(self, *trees: Any) -> None:
        self.trees = trees
        self.copies = [gx.tree.map(torch.clone, t) for t in trees]
        self.versions = [[x._version for x in tensors(t)] for t in trees]
        self.rng = torch.random.get_rng_state()

    def check(self) -> None:
        for tree, copy, versions in zip(self.trees, self.copies, self.versions, strict=True):
            assert same_bits(tree, copy), "an input was changed"
            assert [x._version for x in tensors(tree)] == versions, "an input was written to"
        assert torch.equal(self.rng, torch.random.get_rng_state()), "the global generator moved"


def leaf_states(state: Any, params: Any, index: int) -> list[Any]:
    """What the state holds for one leaf: wherever it has the parameters' structure."""
    spec = structure(params)
    found = []

    def visit(node: Any) -> bool:
        try:
            found.append(spec.flatten_up_to(node)[index])
        except ValueError:
            return False
        return True

    optree.tree_flatten(state, is_leaf=visit, none_is_leaf=True, namespace=gx.tree.NAMESPACE)
    return found


def rebuild(tx: Any, replace: Callable[[Any], Any]) -> Any:
    """``tx`` with ``replace`` applied to it and to every transform inside, outer ones first."""
    if isinstance(tx, gx.GradientTransformation):
        tx = replace(tx)
        parts = {f.name: getattr(tx, f.name) for f in dataclasses.fields(tx)}
        new = {k: rebuild(v, replace) for k, v in parts.items() if _holds_transform(v)}
        return dataclasses.replace(tx, **new) if new else tx
    if isinstance(tx, Mapping):
        return {k: rebuild(v, replace) for k, v in tx.items()}
    return type(tx)(rebuild(v, replace) for v in tx) if isinstance(tx, (tuple, list)) else tx


def _holds_transform(value: Any) -> bool:
    if isinstance(value, gx.GradientTransformation):
        return True
    if isinstance(value, Mapping):
        return any(_holds_transform(v) for v in value.values())
    return isinstance(value, (tuple, list)) and any(_holds_transform(v) for v in value)


def with_value(tx: Any, chosen: list[Any], name: str, value: Any) -> Any:
    """``tx`` rebuilt with another value of one hyperparameter of the chosen members."""
    return with_values(tx, [(member, name, value) for member in chosen])


def with_values(tx: Any, changes: list[tuple[Any, str, Any]]) -> Any:
    """``tx`` rebuilt with other values of hyperparameters: (member, name, value)."""

    def replace(member: Any) -> Any:
        new = {name: value for changed, name, value in changes if changed is member}
        return dataclasses.replace(member, **new) if new else member

    return rebuild(tx, replace)


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """One dynamic hyperparameter somewhere inside a transform."""

    path: str  # of the member, "" for the transform itself
    member: Any
    name: str

    @property
    def key(self) -> str:
        return f"{self.path}.{self.name}".lstrip(".")

    @property
    def within(self) -> str:
        return self.member.declared[self.name]

    @property
    def value(self) -> Any:
        return getattr(self.member, self.name)

    def bounds(self) -> tuple[float, float]:
        low, high = (float(x) for x in self.within[1:-1].split(","))
        return low, high

    def other_value(self, share: float = 0.5) -> float:
        """Another admissible value: part of the way to the upper bound, or that much more."""
        _, high = self.bounds()
        now = 0.5 if callable(self.value) else float(self.value)
        if high == math.inf:
            return now + share
        return now + share * (high - now) if now < high else now - share * (now - self.bounds()[0])

    def outside(self) -> Iterator[float]:
        """Values that must be refused."""
        low, high = self.bounds()
        yield float("nan")
        yield low if self.within[0] == "(" else math.nextafter(low, -math.inf)
        yield high if self.within[-1] == ")" else math.nextafter(high, math.inf)


def reached(ds: list[Dynamic], d: Dynamic) -> list[Any]:
    """The members that ``"member.name"`` of ``d`` reaches: its own, and those inside it."""
    same = [e for e in ds if e.name == d.name]
    return [e.member for e in same if f"{e.path}.".startswith(f"{d.path}." if d.path else "")]


def dynamics(tx: gx.GradientTransformation) -> list[Dynamic]:
    """All dynamic hyperparameters of all members."""
    return [
        Dynamic(path, member, name)
        for path, member in members(tx)
        if dataclasses.is_dataclass(member)
        for name in hyper_.dynamic_fields(member)
    ]
