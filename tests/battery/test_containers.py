"""What holds the leaves makes no difference to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import pytest

import gradtx as gx
from tests.table import Row

from .helpers import grads_, params_, run, same_bits, structure, tensors


class Named(NamedTuple):
    b: Any
    s: Any
    w: Any


class _Box:
    """A container class that only its registration explains to optree."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


class GlobalBox(_Box):
    pass


class GradtxBox(_Box):
    pass


for cls, namespace in ((GlobalBox, optree.registry.__dict__["__GLOBAL_NAMESPACE"]),):
    optree.register_pytree_node(
        cls, lambda box: (box.parts, None), lambda _, parts: GlobalBox(*parts), namespace=namespace
    )
optree.register_pytree_node(
    GradtxBox, lambda box: (box.parts, None), lambda _, parts: GradtxBox(*parts), namespace="gradtx"
)

CONTAINERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "list": lambda b, s, w: [b, s, w],
    "tuple": lambda b, s, w: (b, s, w),
    "ordered_dict": lambda b, s, w: OrderedDict([("z", b), ("a", s), ("k", w)]),
    "named_tuple": Named,
    "nested": lambda b, s, w: {"0": [(b,), {"x": {"y": s}}], "1": Named(w, [], {})},
    "registered_globally": GlobalBox,
    "registered_in_gradtx": GradtxBox,
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container(row: Row, container: Callable[[Any, Any, Any], Any]) -> None:
    tx = row.make()

    def pack(tree: Any) -> Any:
        return container(*tensors(tree))

    outs, state = run(tx, pack(params_()), lambda step: pack(grads_(step)))
    want, want_state = run(tx)
    assert all(structure(out) == structure(pack(params_())) for out in outs)
    assert same_bits(tensors(outs), tensors(want))
    assert same_bits(tensors(state), tensors(want_state))


def test_lone_tensor(row: Row) -> None:
    """A single tensor is a tree."""
    tx = row.make()
    outs, _ = run(tx, params_()["w"], lambda step: grads_(step)["w"])
    want, _ = run(tx, [params_()["w"]], lambda step: [grads_(step)["w"]])
    assert same_bits(outs, [x[0] for x in want])
    assert structure(outs[0]) == gx.tree.flatten(params_()["w"])[1]
