"""Unusual gradients: zero, missing, 0-d, empty, non-contiguous, not finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.leaves import densify_leaf
from .claims import (
    require,
    require_close,
    require_finite,
    require_same,
    require_same_structure,
)
from .subject import Subject, holds_for_all
from .trees import STEPS, call, leaf_states, random_tree, run, some_grads, some_params, tensors


def zeros(step: int) -> Any:
    """Gradients of zero."""
    return tree.zeros_like(some_params())


@holds_for_all
def zero_gradients(s: Subject) -> None:
    """Gradients of zero give finite updates and states."""
    require_finite(run(s.tx, grads=zeros), "with zero gradients")


@holds_for_all
def zero_parameters(s: Subject) -> None:
    """Parameters of zero give finite updates and states."""
    require_finite(run(s.tx, zeros(0)), "with zero parameters")


def without_b(trees: Any) -> Any:
    """A dict without one of its leaves."""
    return {k: v for k, v in trees.items() if k != "b"}


@holds_for_all
def missing_gradient(s: Subject) -> None:
    """A leaf whose gradient is None gets None, and its state stays."""
    params, state = some_params(), s.state_after(2)
    out, new = call(s.tx, some_grads(2) | {"b": None}, state, params)
    require(out["b"] is None, "the update of a leaf whose gradient is None is not None")
    require_same_structure(new, state, "the state after a missing gradient")
    kept = leaf_states(state, params, 0)
    require_same(leaf_states(new, params, 0), kept, "the state of the leaf without a gradient")
    out, _ = call(s.tx, some_grads(3), new, params)
    require_same_structure(out, params, "the updates once the gradient is there again")


@holds_for_all
def absent_leaf(s: Subject) -> None:
    """A leaf without a gradient, or without a parameter, is as good as a leaf that is not there."""
    rest = without_b(some_params())
    alone, alone_state = run(s.tx, rest, lambda step: without_b(some_grads(step)))
    for params in (some_params(), some_params() | {"b": None}):
        outs, state = run(s.tx, params, lambda step: some_grads(step) | {"b": None})
        require_same([without_b(x) for x in outs], alone, "the updates of the other leaves")
        for i in (1, 2):
            want = leaf_states(alone_state, rest, i - 1)
            require_same(leaf_states(state, params, i), want, "the state of another leaf")


@holds_for_all
def all_gradients_missing(s: Subject) -> None:
    """If all gradients are None, so are all updates, and what leaves remember stays."""
    params, state = some_params(), s.state_after(2)
    nothing = tree.map(lambda _: None, params)
    out, new = call(s.tx, nothing, state, params)
    require(tree.leaves(out) == [], "there are updates though all gradients are None")
    require_same_structure(new, state, "the state after missing gradients")
    for i in range(3):
        kept = leaf_states(state, params, i)
        require_same(leaf_states(new, params, i), kept, "the state of a leaf")


@holds_for_all
def no_leaves(s: Subject) -> None:
    """A tree without leaves is a tree."""
    outs, _ = run(s.tx, {}, lambda step: {})
    require(outs == [{}] * STEPS, f"the updates of an empty dict are {outs}")


@holds_for_all
def zero_d_and_empty_leaves(s: Subject) -> None:
    """Leaves without entries give finite numbers and change nothing for the others."""
    full = {"w": (3, 2), "s": ()}
    small = {"e": (0,), "m": (0, 3), "t": (2, 0, 1)}
    grads = random_tree(7, full) | random_tree(7, small)
    ps = random_tree(8, full) | random_tree(8, small)
    outs, state = run(s.tx, ps, lambda step: grads)
    require_finite((outs, state), "beside empty leaves")
    shapes = [tuple(x.shape) for x in tensors(ps)]
    require([tuple(x.shape) for x in tensors(outs[-1])] == shapes, "updates have other shapes")
    plain, _ = run(s.tx, random_tree(8, full), lambda step: random_tree(7, full))
    require_close([{k: out[k] for k in full} for out in outs], plain, "beside empty leaves")


@holds_for_all
def non_contiguous(s: Subject) -> None:
    """Expanded, strided and transposed leaves give what contiguous ones give."""
    base = random_tree(3, {"t": (4, 3), "x": (3, 1), "n": (6, 4)})
    strange = {
        "expanded": base["x"].expand(3, 4),
        "scalar": base["x"][1, 0].expand(4),
        "strided": base["n"][::2, 1:3],
        "transposed": base["t"].t(),
    }
    plain = tree.map(lambda x: x.clone(memory_format=torch.contiguous_format), strange)
    want = run(s.tx, plain, lambda step: plain)
    for params in (plain, strange):
        got = run(s.tx, params, lambda step: strange)
        require_close(got, want, "of leaves that are not contiguous")


def with_bad(step: int, leaf: str, bad: float, at: int = 1) -> Any:
    """Gradients of a step; from step ``at`` on the second entry of one leaf is ``bad``."""
    grads = some_grads(step)
    if step >= at:
        x = leaf_of(grads, leaf).clone()
        x.reshape(-1)[min(1, x.numel() - 1)] = bad
        grads = {**grads, "deep": {"s": x}} if leaf == "s" else {**grads, leaf: x}
    return grads


def leaf_of(trees: Any, leaf: str) -> Tensor:
    """A leaf by the short name of it."""
    x: Tensor = densify_leaf(trees["deep"]["s"] if leaf == "s" else trees[leaf])
    return x


@holds_for_all
def nan_in_nan_out(s: Subject) -> None:
    """The update of an entry whose gradient is NaN is NaN."""
    for leaf in ("b", "s", "w"):
        grads = with_bad(1, leaf, math.nan)
        out, _ = call(s.tx, grads, s.state_after(1), some_params())
        u = leaf_of(out, leaf).reshape(-1)
        # The two ways in which it is usually lost.
        hint = "torch.sign and comparisons lose it; torch.where(u.isnan(), u, ...) puts it back"
        require(u[min(1, u.numel() - 1)].isnan(), f"NaN became {u.tolist()}; {hint}")
