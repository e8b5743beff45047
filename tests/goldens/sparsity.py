"""Sparse training: AC/DC in both published forms, OBS pruning, iterative OBS."""

from __future__ import annotations

from typing import Any

import torch

import gradtx as gx

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Stepper, Steps


def _masks(state: Any, params: Tree) -> Checks:
    """The masks, ones for leaves without."""
    found = gx.sparsity.masks_of(state, params)
    return {"mask": {k: (p == p) if found[k] is None else found[k] for k, p in params.items()}}


def _published(h: Hyper) -> gx.GradientTransformation:
    per_epoch = h["steps_per_epoch"]
    schedule = gx.sparsity.phase_schedule(h["prune_epochs"], h["restore_epochs"], per_epoch)
    if h["mode"] == "nm":
        support: Any = gx.sparsity.nm_support(h["N"], h["M"])
    else:
        scope = "global" if h["mode"] == "global" else "leaf"
        support = gx.sparsity.magnitude_support(h["sparsity"], scope, h.get("count", "reference"))
    sgd = gx.sgd(
        h["lr"],
        h["momentum"] or None,
        h["nesterov"],
        h["weight_decay"],
        dampening=h.get("dampening", 0),
    )
    reset = "first_moments" if h["reset_momentum"] else "nothing"
    named = set(h["prunable"])
    return gx.acdc(sgd, schedule, support, reset, lambda info: info.name in named)


def _layerwise(h: Hyper) -> gx.GradientTransformation:
    schedule = gx.sparsity.layerwise_schedule(
        h["total_epochs"],
        h["warmup_epochs"],
        h["phase_length_epochs"],
        h["finetuning_epochs"],
        h["steps_per_epoch"],
    )
    decays = lambda info: info.ndim != 1  # noqa: E731
    decay = (
        gx.add_adaptive_decayed_weights(h["weight_decay"], mask=decays)
        if h["wd_type"] == "awd"
        else gx.add_decayed_weights(h["weight_decay"], mask=decays)
    )
    inner = gx.chain(gx.trace(h["momentum"]), decay, gx.scale_by_learning_rate(h["lr"]))
    support = gx.sparsity.magnitude_support(None, "leaf", "floor", h["density"])
    return gx.acdc(inner, schedule, support)


def acdc(meta: Meta, extra: Extra) -> Steps:
    h = meta["hyperparameters"]
    return Steps((_layerwise if "density" in h else _published)(h), view=_masks)


def in_order(meta: Meta, tree: Tree) -> Tree:
    """The leaves as the file lists them."""
    return {k: tree[k] for k in meta["leaves"]}


class Pruner:
    """Events that prune, and gradient descent with the masks that they leave in between."""

    def __init__(self, meta: Meta, extra: Extra) -> None:
        self.meta, self.extra, self.h = meta, extra, meta["hyperparameters"]
        inner = gx.sgd(
            self.h.get("lr", 0.0),
            self.h.get("momentum") or None,
            weight_decay=self.h.get("weight_decay", 0.0),
        )
        self.prunable = self.h.get("prunable") or meta["leaves"]
        tx = gx.named_chain(
            ("inner", inner), ("keep", gx.keep_params_sparse(lambda i: i.name in self.prunable))
        )
        self.tx = tx

    def init(self, params: Tree) -> Any:
        return self.tx.init(params)

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        event = self.meta["events"][t - 1]
        if event["type"] == "sgd":
            updates, state = self.tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state
        listed = in_order(self.meta, params)  # blocks are cut from leaves as the file lists them
        masks = in_order(self.meta, gx.sparsity.masks_of(state, params))
        pruned = self._prune(event["target_sparsity"])(listed, masks, self._gradients(t))
        new, kept = ({k: tree[k] for k in params} for tree in (pruned.params, pruned.masks))
        return new, gx.sparsity.replace_masks(self.tx.init(new), kept)

    def _prune(self, sparsity: float) -> gx.sparsity.obs_prune:
        h = self.h
        block = None if h.get("block", -1) == -1 else h["block"]
        if "mask_type" in h:
            group = 4 if h["mask_type"] == "block4" else 1
            eps = float(torch.finfo(torch.float32).eps)
            return gx.sparsity.obs_prune(
                sparsity, h["damp"], block, packed=False, group=group, eps=eps
            )
        if h.get("pruner") == "mag":
            return gx.sparsity.obs_prune(sparsity, score="magnitude", update="none")
        return gx.sparsity.obs_prune(sparsity, h["damp"], block)

    def _gradients(self, t: int) -> Any:
        if f"G/{t}" in self.extra:
            return self.extra[f"G/{t}"]
        parts = [self.extra[f"G/{t}/{leaf}"] for leaf in self.prunable]
        return torch.cat(parts, dim=1)

    def checks(self, state: Any, params: Tree) -> Checks:
        found = gx.sparsity.masks_of(state, params)
        return {"mask": {k: m for k, m in found.items() if m is not None}}


class Iterative:
    """Iterative OBS with a recorded Hessian, or gradients of a Fisher matrix."""

    def __init__(self, meta: Meta, extra: Extra) -> None:
        h, self.meta, self.extra = meta["hyperparameters"], meta, extra
        self.tx = gx.sparsity.iobs(
            h["k"], h["mode"], h.get("score", "obs"), h.get("damp", 1e-5), h.get("lr", 1.0)
        )

    def init(self, params: Tree) -> Any:
        return self.tx.init(params)

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        given = {"fisher": self.extra[f"G/{t}"]} if f"G/{t}" in self.extra else {}
        given = given or {"matrix": self.extra.get(f"H/{t}", self.extra.get("H"))}
        listed = in_order(self.meta, params)
        updates, state = self.tx.update(in_order(self.meta, grads), state, listed, **given)
        new = gx.apply_updates(listed, updates)
        return {k: new[k] for k in params}, state


class Greedy:
    """Rows pruned one weight at a time."""

    def __init__(self, meta: Meta, extra: Extra) -> None:
        self.h, self.extra = meta["hyperparameters"], extra

    def init(self, params: Tree) -> Any:
        return {}

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        inverse = torch.linalg.inv(self.extra["H"].double())
        new, masks = {}, {}
        for k, w in params.items():
            new[k], masks[k] = gx.sparsity.obc_prune(w, inverse, self.h["k"], self.h["eps"])
        return new, masks

    def checks(self, state: Any, params: Tree) -> Checks:
        return {"mask": state}


def obs(meta: Meta, extra: Extra) -> Stepper:
    if "rows" in meta["hyperparameters"]:
        return Greedy(meta, extra)
    return (Pruner if "events" in meta else Iterative)(meta, extra)


SYSTEMS = {"acdc": acdc, "obs": obs}
