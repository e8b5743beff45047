"""Chains as steppers, and what families of systems share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.execution import holds
from gradtx.core.protocol import members

from .golden import Tree

Checks = dict[str, dict[str, Tensor]]
Meta = Mapping[str, Any]
Extra = Mapping[str, Tensor]
Hyper = Mapping[str, Any]


class Stepper(Protocol):
    """What a golden is replayed with. ``checks(state, params) -> {key: {leaf: tensor}}`` may be
    there too, for the states that a file records, ``shown(state) -> {key: tensor}`` for other
    arrays, and ``fused()``, the same steps in kernels."""

    def init(self, params: Tree) -> Any: ...

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]: ...


Factory = Callable[[Meta, Extra], Stepper]


@dataclass(frozen=True)
class Steps:
    """A transform as a stepper.

    Attributes:
        transform: learning rate included.
        hyper: step -> overrides of dynamic hyperparameters, such as a recorded schedule.
        bits: step -> random 16-bit integers per leaf, for stochastic rounding.
        view: ``(state, params)`` -> what to compare with recorded states.
        extra: step -> further arguments of ``update``.
    """

    transform: gx.GradientTransformation
    hyper: Callable[[int], Hyper] | None = None
    bits: Callable[[int], Mapping[str, Tensor]] | None = None
    view: Callable[[Any, Tree], Checks] | None = None
    extra: Callable[[int], Mapping[str, Any]] | None = None

    def init(self, params: Tree) -> Any:
        return self.transform.init(params)

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        hyper = self.hyper(t) if self.hyper else None
        extra = self.extra(t) if self.extra else {}
        updates, state = self.transform.update(grads, state, params, hyper=hyper, **extra)
        if self.bits is None:
            return gx.apply_updates(params, updates), state
        bits = self.bits(t)
        bits = {leaf: bits.get(leaf) for leaf in params}
        return gx.apply_updates(params, updates, random_bits=bits), state

    def checks(self, state: Any, params: Tree) -> Checks:
        return self.view(state, params) if self.view else {}


class Fused:
    """The same steps through ``gx.fuse``."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.run = gx.fuse(steps.transform)
        self.checks = steps.checks

    def init(self, params: Tree) -> Any:
        return self.steps.init(params)

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        hyper = self.steps.hyper(t) if self.steps.hyper else None
        extra = self.steps.extra(t) if self.steps.extra else {}
        return self.run(params, grads, state, hyper=hyper, **extra)


class Backward:
    """The same steps inside the backward pass of a torch optimizer, last leaf first."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def init(self, params: Tree) -> Any:
        named = [(leaf, torch.nn.Parameter(p)) for leaf, p in params.items()]
        optimizer = gx.optim.from_transform(self.steps.transform, named)
        return dict(named), gx.optim.step_in_backward(optimizer)

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        leaves, _ = state
        there = [leaf for leaf, g in grads.items() if g is not None]
        # The engine runs what was recorded last first.
        loss = sum((leaves[leaf] * grads[leaf]).sum().double() for leaf in there)
        if there:
            loss.backward()
        return {leaf: p.detach() for leaf, p in leaves.items()}, state


MODES: dict[str, Callable[[Steps], Stepper]] = {
    "pure": lambda steps: steps,
    "fused": Fused,
    "backward": Backward,
}


def in_mode(stepper: Stepper, mode: str) -> Stepper | None:
    """The stepper run another way, or None where it cannot be."""
    if mode == "pure":
        return stepper
    if mode == "fused" and hasattr(stepper, "fused"):
        return stepper.fused()
    if not isinstance(stepper, Steps) or stepper.bits is not None:
        return None
    alone = all(holds(member, "leaves_independent") for _, member in members(stepper.transform))
    given = stepper.hyper is not None or stepper.extra is not None
    if mode == "backward" and (given or not alone):
        return None
    return MODES[mode](stepper)


# -- hyperparameters ---------------------------------------------------------------------------


def options(meta: Meta) -> dict[str, dict[str, Any]]:
    """The hyperparameters of every leaf: those of the file, and the leaf's own over them."""
    own = meta.get("per_leaf") or {}
    return {leaf: {**meta["hyperparameters"], **own.get(leaf, {})} for leaf in meta["leaves"]}


def per_leaf(
    meta: Meta, build: Callable[[dict[str, Any]], gx.GradientTransformation]
) -> gx.GradientTransformation:
    """A transform from ``build(hyperparameters)``; a partition where leaves have their own.

    Leaves with the same hyperparameters are updated together. For transforms whose state is shared
    by all leaves give ``values`` as ``hyper`` instead.
    """
    labels = {leaf: json.dumps(h, sort_keys=True) for leaf, h in options(meta).items()}
    distinct = list(dict.fromkeys(labels.values()))
    if len(distinct) == 1:
        return build(options(meta)[meta["leaves"][0]])
    group = {leaf: f"group_{distinct.index(label)}" for leaf, label in labels.items()}
    return gx.partition(
        {f"group_{i}": build(json.loads(label)) for i, label in enumerate(distinct)},
        by=lambda info: group[info.name],
    )


def values(meta: Meta, *names: str) -> dict[str, Any]:
    """Dynamic hyperparameters by name as overrides: a number, or a tree where leaves differ."""
    out: dict[str, Any] = {}
    for name in names:
        tree = {leaf: h[name] for leaf, h in options(meta).items()}
        first = next(iter(tree.values()))
        out[name] = first if all(v == first for v in tree.values()) else tree
    return out


def learning_rates(meta: Meta) -> Callable[[int], Hyper] | None:
    """The recorded learning rates as overrides by step, if there are any."""
    rates = meta.get("lr_schedule")
    return None if rates is None else lambda t: {"lr": rates[t - 1]}


def random_bits(meta: Meta, extra: Extra) -> Callable[[int], dict[str, Tensor]] | None:
    """The recorded 16-bit integers by step and leaf, if there are any."""
    if not any(key.startswith("rand/") for key in extra):
        return None
    leaves = meta["leaves"]
    return lambda t: {n: extra[f"rand/{t}/{n}"] for n in leaves if f"rand/{t}/{n}" in extra}


# -- states ------------------------------------------------------------------------------------


def fields(state: Any, leaves: Any, **names: str) -> Checks:
    """Fields of a state by leaf: ``fields(state, params, m="mu")`` -> ``{"m": {leaf: tensor}}``.

    A dotted name goes into what the field holds: ``m_row="mu.row"``. Leaves that lack a field are
    left out.
    """
    out: Checks = {}
    for key, path in names.items():
        name, *inside = path.split(".")
        found: dict[str, Tensor] = {}
        for owner, value in gx.tree.get_all(state, name).items():
            leaf = owner.rpartition(".")[2]
            for step in inside:
                value = getattr(value, step, None)
            if leaf in leaves and isinstance(value, Tensor):
                found[leaf] = value
        if found:
            out[key] = found
    return out
