"""Workers that step alone and meet from time to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import gradtx as gx
from gradtx.distributed import LocalSteps, Simulation, low_rank_leaves

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, fields


def _split(tree: Tree, workers: int) -> list[Tree]:
    """``w0/leaf`` -> a tree for every worker."""
    out: list[Tree] = [{} for _ in range(workers)]
    for name, x in tree.items():
        worker, _, leaf = name.partition("/")
        out[int(worker[1:])][leaf] = x
    return out


def _joined(trees: list[Any]) -> dict[str, Any]:
    return {f"w{m}/{leaf}": x for m, tree in enumerate(trees) for leaf, x in tree.items()}


@dataclass
class Running:
    """Simulated workers, and where each was before the last meeting."""

    workers: Simulation
    ends: list[Tree]
    met: bool = False


@dataclass(frozen=True)
class Workers:
    """Simulated workers as a stepper.

    Attributes:
        method: what they do.
        workers: how many.
        grads: ``(worker, params) -> gradients`` where a file holds the losses instead.
        in_kernels: whether steps are fused.
    """

    method: LocalSteps
    workers: int
    grads: Callable[[int, Tree], Tree] | None = None
    in_kernels: bool = False

    def fused(self) -> Workers:
        return replace(self, in_kernels=True)

    def init(self, params: Tree) -> Running:
        run = gx.fuse(self.method.transform) if self.in_kernels else None
        start = _split(params, self.workers)
        return Running(Simulation(self.method, start[0], self.workers, run), start)

    def step(self, params: Tree, grads: Tree, state: Running, t: int) -> tuple[Tree, Running]:
        workers, given = state.workers, _split(grads, self.workers)
        if self.grads is not None:
            given = [self.grads(m, p) for m, p in enumerate(workers.params)]
        workers.step(given, sync=False)
        state.ends = [gx.tree.map(lambda p: p.clone(), p) for p in workers.params]
        state.met = self.method.due(t)
        workers.meet()
        return _joined(workers.params), state

    def checks(self, state: Running, params: Tree) -> Checks:
        """States in working orientation, where rows are the smaller side."""
        out: Checks = {"Q": {}, "u": {}, "v": {}, "E": {}}
        for m, own in enumerate(state.workers.states):
            leaves = state.workers.params[m]
            low = low_rank_leaves(own.local, leaves)
            found = fields(own.local, leaves, u="mu", v="nu", E="error")
            # without error feedback nothing is remembered
            found.setdefault("E", {leaf: torch.zeros_like(leaves[leaf]) for leaf in low})
            for key, by_leaf in found.items():
                for leaf, x in by_leaf.items():
                    is_low, whole = leaf in low, key == "E"
                    out[key][f"w{m}/{leaf}"] = _upright(x, leaves[leaf], whole) if is_low else x
        first = state.workers.states[0].local
        bases = {owner.split(".")[-3]: q for owner, q in gx.tree.get_all(first, "basis").items()}
        out["Q"] = bases
        return out | _outer_momentum(state)

    def shown(self, state: Running) -> dict[str, Tensor]:
        """Where workers of an outer optimizer were before they met."""
        if not state.met or self.grads is None:
            return {}
        t = int(state.workers.states[0].step)
        ends = _joined(state.ends)
        return {f"param/{t}/local_end/{name}": x for name, x in ends.items()}


def _upright(x: Tensor, p: Tensor, whole: bool) -> Tensor:
    rows, columns = p.shape[0], p.numel() // p.shape[0]
    matrix = x.reshape(rows, columns) if whole else x
    return matrix.mT if rows > columns else matrix


def _outer_momentum(state: Running) -> Checks:
    return fields(state.workers.states[0].syncs, state.workers.params[0], outer_momentum="trace")


def lordo(h: Hyper) -> LocalSteps:
    return gx.distributed.lordo(
        h["lr"],
        h["rank"],
        h["beta1"],
        h["beta2"],
        h["eps"],
        h["omega"],
        h["clip"],
        h["K_x"],
        h.get("K_u"),
        h.get("K_v"),
        error_feedback=h.get("error_feedback", True),
        projection_type=h.get("projection", "svd"),
        rotate=h.get("rotate", True),
        denominator=h.get("qh_denominator", "mean"),
        debias=h.get("bias_correction", True),
        weight_decay=h.get("weight_decay", 0.0),
    )


def desloc(h: Hyper) -> LocalSteps:
    return gx.distributed.desloc(
        h["lr"],
        h["beta1"],
        h["beta2"],
        h["eps"],
        h.get("omega", 1.0),
        h.get("clip"),
        h["K_x"],
        h["K_u"],
        h["K_v"],
        h.get("bias_correction", False),
        h.get("weight_decay", 0.0),
    )


def diloco(h: Hyper) -> LocalSteps:
    momentum, dampening = h.get("outer_momentum", 0.0), h.get("dampening", 0.0)
    nesterov = h.get("outer_nesterov", True) and momentum > 0
    outer = gx.sgd(h["outer_lr"], momentum, nesterov, dampening=dampening)
    return gx.distributed.diloco(gx.sgd(h["inner_lr"]), outer, h["H"])


def system(meta: Meta, extra: Extra) -> Workers:
    h = meta["hyperparameters"]
    if "H" not in h:
        return Workers(lordo(h) if "rank" in h else desloc(h), h["workers"])

    def grads(m: int, params: Tree) -> Tree:
        """Of a quadratic, x' A x / 2 - b' x."""
        return {leaf: extra[f"A/w{m}"] @ x - extra[f"b/w{m}"] for leaf, x in params.items()}

    return Workers(diloco(h), h["workers"], grads)


SYSTEMS = {"lordo": system}
