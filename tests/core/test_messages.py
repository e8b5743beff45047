"""What newcomers write by mistake is named, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx

PARAMS = {"w": torch.ones(2), "b": torch.ones(1)}
MODEL = torch.nn.Linear(2, 1)


def update(tx: Any) -> Any:
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "class": (lambda: gx.chain(gx.trace), r"member .* the class trace; call it: trace\(...\)"),
    "function": (lambda: gx.chain(gx.adamw), r"the function adamw; call it: adamw\(...\)"),
    "list": (lambda: gx.chain([gx.trace(0.9)]), r"a list; write chain\(\*transforms\)"),
    "wrapper": (lambda: gx.lookahead(gx.adamw), r"lookahead: transform .* the function adamw"),
    "optimizer": (
        lambda: gx.chain(torch.optim.SGD(MODEL.parameters())),
        "the torch optimizer SGD",
    ),
    "scheduler": (
        lambda: gx.sgd(
            torch.optim.lr_scheduler.StepLR(torch.optim.SGD(MODEL.parameters()), 1)  # type: ignore
        ),
        "the torch scheduler StepLR; .* gx.schedules",
    ),
    "schedule": (lambda: gx.sgd(gx.schedules.constant), "the class constant; call it"),
    "module": (
        lambda: gx.adamw(0.1).init(MODEL),
        r"the module Linear; write dict\(model.named_parameters\(\)\)",
    ),
    "generator": (
        lambda: gx.adamw(0.1).init(MODEL.parameters()),
        r"gone through once; write dict\(model.named_parameters\(\)\)",
    ),
    "mask": (
        lambda: update(gx.masked(gx.trace(0.9), {"w": True})),
        r"masked: the update tree does not match the mask tree: .* the masks have \['w'\]",
    ),
    "labels": (
        lambda: update(gx.partition({"a": gx.trace(0.9)}, {"w": "a"})),
        "partition: the update tree does not match the label tree",
    ),
    "apply_updates": (
        lambda: gx.apply_updates(PARAMS, {"w": torch.ones(2)}),
        r"apply_updates: the update tree does not match the parameter tree: .* the parameters have",
    ),
    "fuse": (lambda: gx.fuse(gx.adamw), "fuse: expected .* the function adamw; call it"),
    "fuse an optimizer": (
        lambda: gx.fuse(gx.optim.SGD(MODEL.parameters())),
        "fuse: expected .* the torch optimizer SGD",
    ),
    "explain": (lambda: gx.explain(gx.trace, PARAMS), "explain: .* the class trace; call it"),
    "inner loop": (
        lambda: gx.meta.inner_loop(MODEL, gx.sgd).__enter__(),
        "inner_loop: expected .* the function sgd; call it",
    ),
    "nothing returned": (
        lambda: update(gx.stateless(lambda u, p: None)),
        "stateless: the function gives None",
    ),
    "nothing returned for a leaf": (
        lambda: update(gx.stateless_with_tree_map(lambda u, p: None)),
        "stateless_with_tree_map: the function gives None",
    ),
    "per leaf": (
        lambda: update(gx.stateless(lambda u, p: u / 2)),
        r"stateless: .* whole trees.* gx.tree.map\(fn, updates\)",
    ),
    "hyper": (
        lambda: gx.sgd(0.1).update(PARAMS, gx.sgd(0.1).init(PARAMS), hyper=0.5),
        "hyper must be a mapping from names to values, got float",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name: str) -> None:
    mistake, message = CASES[name]
    with pytest.raises((TypeError, ValueError), match=message):
        mistake()
