"""``gx.fuse``: the numbers of the pure transform, and as much in kernels as is said."""

from __future__ import annotations

from typing import Any

import torch

from ..core import tree
from ..core.apply import apply_updates
from ..core.protocol import GradientTransformation, members
from ..fuse import Step, fuse
from .claims import refusal, require, require_close
from .subject import Subject, holds_for_all
from .trees import STEPS, number, random_tree, trees_wanted

SHAPES = {"b": (7,), "deep": (3, 2, 4), "w": (5, 6)}
RUNS = ("fused", "partly", "eager")


@holds_for_all
def fused_is_pure(s: Subject) -> None:
    """In place and in kernels the same numbers, also where gradients are not finite."""
    step = fuse(s.tx)
    in_place_is_pure(s.tx, step)
    if s.runs is not None and step.engine.lacks is None:
        found = how_it_runs(step)
        require(found == s.runs, f"it runs {found}, not {s.runs}: {step.report()}")


def in_place_is_pure(tx: GradientTransformation, step: Step) -> None:
    """Raise unless a step, made of the transform, gives its numbers."""
    params = random_tree(0, SHAPES)
    fused = params, tx.init(params)
    pure = tree.map(torch.clone, fused)
    for t in range(STEPS):
        fused, pure = both(tx, step, fused, pure, random_tree(t + 1, SHAPES))
    require_close(fused, pure, "after some steps in place", rtol=2e-5, atol=2e-6)
    for t, bad in enumerate((torch.inf, torch.nan)):
        grads = random_tree(10 + t, SHAPES)
        grads["w"][1 + t, 2] = bad
        try:
            updates = advance(tx, pure, grads)
        except ValueError:  # that is what it is asked to do
            with refusal(ValueError, "leaf 'w'", f"a gradient of {bad} in place"):
                step(fused[0], grads, fused[1], **wanted(tx, grads))
            continue
        fused, pure = step(fused[0], grads, fused[1], **wanted(tx, grads)), updates
        require_close(fused, pure, f"in place with a gradient of {bad}", rtol=1e-4, atol=1e-5)


def wanted(tx: GradientTransformation, grads: Any) -> dict[str, Any]:
    """What a step has to be given besides."""
    value = any(getattr(m, "needs_value", False) for _, m in members(tx))
    return trees_wanted(tx, grads) | ({"value": number(1.5)} if value else {})


def advance(tx: GradientTransformation, pure: Any, grads: Any) -> Any:
    """Parameters and state after one more pure step."""
    updates, state = tx.update(grads, pure[1], pure[0], **wanted(tx, grads))
    return apply_updates(pure[0], updates), state


def both(tx: GradientTransformation, step: Step, fused: Any, pure: Any, grads: Any) -> Any:
    """Parameters and state after one more step, in place and pure."""
    return step(fused[0], grads, fused[1], **wanted(tx, grads)), advance(tx, pure, grads)


def how_it_runs(step: Step) -> str:
    """Whether all, some or no members run in kernels: one of ``RUNS``."""
    # A kernel for the whole chain that was passed over says nothing about the members.
    kernels = set(step.engine.passed_over.values())
    apart = {member for member, why in step.reasons if member or why not in kernels}
    return "fused" if not apart else "eager" if "" in apart else "partly"
