"""Small trees, runs of a transform over them, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optree
import torch
from torch import Tensor

from ..core import tree
from ..core.protocol import GradientTransformation, members

SHAPES = {"b": (3,), "deep": {"s": ()}, "w": (3, 2)}
STEPS = 4
_CPU = torch.device("cpu")


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def random_tree(seed: int, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    """Normal values from an own generator; the same numbers (up to rounding) in every dtype."""
    generator = torch.Generator(_CPU).manual_seed(seed)
    return optree.tree_map(
        lambda shape: torch.randn(shape, generator=generator, dtype=torch.float32, device=_CPU).to(
            dtype
        ),
        shapes,
        is_leaf=_is_shape,
    )


def some_params(shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    """Parameters."""
    return random_tree(100, shapes, dtype)


def some_grads(step: int, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> Any:
    """The gradients of a step."""
    return random_tree(step, shapes, dtype)


def filled(shape: tuple[int, ...], value: Any = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on the CPU with one number everywhere."""
    return torch.full(shape, value, dtype=dtype, device=_CPU)


def number(value: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """A 0-d tensor on the CPU."""
    return torch.tensor(value, dtype=dtype, device=_CPU)


def call(tx: GradientTransformation, grads: Any, state: Any, params: Any, **extra: Any) -> Any:
    """One update with everything that some transform may ask for."""
    given = {"grads": grads, **trees_wanted(tx, grads), "value": number(1.5)}
    return tx.update(grads, state, params, **{**given, **extra})


def trees_wanted(tx: GradientTransformation, grads: Any) -> dict[str, Any]:
    """What members declare that ``update`` is to be given besides, each a tree like gradients."""
    names = {
        name
        for _, m in members(tx)
        for kind in ("needs_extra", "takes_extra")
        for name in getattr(m, kind, ())
    }

    def positive(g: Any) -> Any:
        if not isinstance(g, Tensor):
            return g
        wide = tree.accumulator(g if g.layout == torch.strided else g.to_dense())
        return wide * wide + 0.5

    return {name: tree.map(positive, grads) for name in sorted(names)}


def run(
    tx: GradientTransformation,
    params: Any = None,
    grads: Callable[[int], Any] = some_grads,
    steps: int = STEPS,
    extra: Callable[[int, Any], Mapping[str, Any]] = lambda step, state: {},
    state: Any = None,
    start: int = 0,
) -> tuple[list[Any], Any]:
    """The updates of every step and the last state; parameters stay where they are."""
    params = some_params() if params is None else params
    state = tx.init(params) if state is None else state
    outs = []
    for step in range(start, steps):
        out, state = call(tx, grads(step), state, params, **extra(step, state))
        outs.append(out)
    return outs, state


def with_hyper(hyper: Mapping[str, Any]) -> Callable[[int, Any], Mapping[str, Any]]:
    """For ``run``: the same overrides in every step."""
    return lambda step, state: {"hyper": hyper}


def tensors(trees: Any) -> list[Tensor]:
    """The tensors among the leaves."""
    return [x for x in tree.leaves(trees) if isinstance(x, Tensor)]


def structure(trees: Any) -> Any:
    """The structure of a tree."""
    return tree.flatten(trees)[1]


def bits(x: Tensor) -> Tensor:
    """What is in memory, byte by byte."""
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


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

    optree.tree_flatten(state, is_leaf=visit, none_is_leaf=True, namespace=tree.NAMESPACE)
    return found
