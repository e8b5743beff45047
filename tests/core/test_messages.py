"""What newcomers write by mistake is named, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx

PARAMS = {"w": torch.ones(2), "b": torch.ones(1)}
MODEL = torch.nn.Linear(2, 1)


def optimizer() -> gx.optim.Optimizer:
    return gx.optim.SGD(MODEL.parameters())


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
    "mask of all parameters": (
        lambda: update(gx.masked(gx.trace(0.9), lambda params: dict.fromkeys(params, True))),
        "masked: mask is called with the LeafInfo of one leaf .* give the tree that it makes",
    ),
    "mask that gives a tree": (
        lambda: update(gx.masked(gx.trace(0.9), lambda params: {"w": True, "b": False})),
        "masked: mask .* answers for that leaf alone, got a dict; .* give the tree",
    ),
    "mask of a tensor": (
        lambda: update(gx.freeze(lambda p: p.dim() > 1)),
        r"freeze: mask is called .* as in lambda info: info.ndim > 1; .* no attribute 'dim'",
    ),
    "mask of a name": (
        lambda: update(gx.adamw(0.1, mask=lambda name: "bias" not in name)),
        "masked: mask is called with the LeafInfo",
    ),
    "mask of two": (
        lambda: update(gx.adamw(0.1, mask=lambda name, p: True)),
        "masked: mask is called with the LeafInfo",
    ),
    "mask in words": (
        lambda: update(gx.masked(gx.trace(0.9), lambda info: "no")),
        "masked: mask must answer True or False, got 'no'",
    ),
    "labels of all parameters": (
        lambda: update(
            gx.partition({"a": gx.trace(0.9)}, lambda params: dict.fromkeys(params, "a"))
        ),
        "partition: by is called with the LeafInfo of one leaf",
    ),
    "prunable": (
        lambda: update(gx.acdc(gx.sgd(0.1), gx.sparsity.phases(("dense", 1)), prunable=len)),
        "acdc: prunable is called with the LeafInfo of one leaf",
    ),
    "where": (
        lambda: gx.galore_adamw(0.1, where=lambda p: p.dim() > 1).init({"w": torch.ones(3, 2)}),
        "where is called with the LeafInfo of one leaf",
    ),
    "state of an optimizer": (
        lambda: gx.tree.to_dict(optimizer()),
        r"tree.to_dict: expected a state, got the object SGD; it has state_dict\(\)",
    ),
    "state of a chain": (
        lambda: gx.tree.from_dict(gx.sgd(0.1), {}),
        r"tree.from_dict: expected a state, got the transform Chain; init\(params\) makes one",
    ),
    "dict of parameters": (
        lambda: gx.optim.SGD(dict(MODEL.named_parameters())),
        r"got a dict of 'weight', 'bias'; write model.named_parameters\(\)",
    ),
    "one group": (
        lambda: gx.optim.SGD({"params": list(MODEL.parameters())}),
        r"SGD: params must be .* got a dict of 'params'; write \[params\]",
    ),
    "group without parameters": (
        lambda: gx.optim.SGD([{"lr": 0.1}]),
        "SGD: a group needs 'params', got 'lr'",
    ),
    "state dict of a model": (
        lambda: optimizer().load_state_dict(MODEL.state_dict()),
        "has 'state' and 'param_groups', this one has 'weight', 'bias'; .* that of a model",
    ),
    "checkpoint": (
        lambda: optimizer().load_state_dict({"optim": optimizer().state_dict(), "step": 3}),
        "that of an optimizer is its entry 'optim'",
    ),
    "flat state dict": (
        lambda: optimizer().load_state_dict({"state.w.mu": torch.ones(1)}),
        "gx.optim.load_flat_state_dict takes it",
    ),
    "optimizer as state dict": (
        lambda: optimizer().load_state_dict(optimizer()),  # type: ignore[arg-type]
        r"SGD: load_state_dict needs .* got an? SGD; write its state_dict\(\)",
    ),
    "file as state dict": (
        lambda: optimizer().load_state_dict("a.pt"),  # type: ignore[arg-type]
        r"got 'a.pt'; write torch.load\(path\)",
    ),
    "export of torch's": (
        lambda: gx.optim.to_torch_state_dict(torch.optim.SGD(MODEL.parameters())),  # type: ignore
        "to_torch_state_dict: needs an optimizer of gx.optim, got torch.optim.SGD",
    ),
    "flat state of torch's": (
        lambda: gx.optim.flat_state_dict(torch.optim.SGD(MODEL.parameters())),  # type: ignore
        "flat_state_dict: needs an optimizer of gx.optim, got torch.optim.SGD",
    ),
    "checkpoint of torch's": (
        lambda: gx.optim.load_checkpoint(torch.optim.SGD(MODEL.parameters()), "x"),  # type: ignore
        "load_checkpoint: needs an optimizer of gx.optim, got torch.optim.SGD",
    ),
    "exponents": (
        lambda: gx.shampoo(0.1, exponents=0.5),  # type: ignore[arg-type]
        "shampoo: exponents must be a mapping from numbers of dimensions, got 0.5",
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
