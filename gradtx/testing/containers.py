"""What holds the leaves makes no difference to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import optree

from ..core import tree
from .claims import require_same, require_same_structure
from .subject import Subject, holds_for_all
from .trees import run, some_grads, some_params, tensors


class Named(NamedTuple):
    """A container with named fields."""

    b: Any
    s: Any
    w: Any


class Box:
    """A container class that only its registration explains to optree."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


def _flatten(box: Any) -> tuple[Any, None]:
    return box.parts, None


def _unflatten(_: Any, parts: Any) -> Any:
    return Box(*parts)


kind: Any = Box
optree.register_pytree_node(kind, _flatten, _unflatten, namespace=tree.NAMESPACE)

CONTAINERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "list": lambda b, s, w: [b, s, w],
    "tuple": lambda b, s, w: (b, s, w),
    "ordered dict": lambda b, s, w: OrderedDict([("z", b), ("a", s), ("k", w)]),
    "named tuple": Named,
    "nested": lambda b, s, w: {"0": [(b,), {"x": {"y": s}}], "1": Named(w, [], {})},
    "registered class": Box,
}


@holds_for_all
def every_container(s: Subject) -> None:
    """Lists, tuples, dicts, registered classes and nests of them give the same numbers."""
    for name, container in CONTAINERS.items():
        same_in(s, name, container)


def same_in(s: Subject, name: str, container: Callable[[Any, Any, Any], Any]) -> None:
    """Raise unless the leaves in another container give the same numbers."""

    def pack(trees: Any) -> Any:
        return container(*tensors(trees))

    outs, state = run(s.tx, pack(some_params()), lambda step: pack(some_grads(step)), steps=2)
    for out in outs:
        require_same_structure(out, pack(some_params()), f"the updates in a {name}")
    require_same(tensors(outs), tensors(s.plain[0][:2]), f"the updates in a {name}")
    require_same(tensors(state), tensors(s.state_after(2)), f"the state of a {name}")


@holds_for_all
def lone_tensor(s: Subject) -> None:
    """A single tensor is a tree."""
    outs, _ = run(s.tx, some_params()["w"], lambda step: some_grads(step)["w"])
    want, _ = run(s.tx, [some_params()["w"]], lambda step: [some_grads(step)["w"]])
    require_same(outs, [x[0] for x in want], "the updates of a lone tensor")
    require_same_structure(outs[0], some_params()["w"], "the update of a lone tensor")
