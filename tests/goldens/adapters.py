"""Hierarchical adapters of low rank: gradient descent on both factors, slices, areas."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

import gradtx as gx
from gradtx.adapters import AdapterConfig

from .golden import Golden, Tree
from .steppers import Extra, Meta

_MEASURED = 1e-9  # areas are float64 numbers


def _config(hyper: dict[str, Any]) -> AdapterConfig:
    """The config of a file; "binary" is the mean over ranks."""
    kind = hyper.get("kind", "matryoshka")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that no rank trains
        return AdapterConfig(
            hyper["rank"],
            "matryoshka" if kind == "binary" else kind,
            None if kind == "lora" else hyper.get("train_ranks"),
            hyper["scaling"],
            normalize="mean" if kind == "binary" else "sum",
        )


class Adapted:
    """One linear layer whose two factors are trained on recorded batches."""

    def __init__(self, meta: Meta, extra: Extra) -> None:
        hyper = meta["hyperparameters"]
        self.config, self.drawn = _config(hyper), hyper.get("dylora_ranks")
        self.steps, self.extra = meta["steps"], extra
        self.transform = gx.sgd(hyper["lr"])

    def init(self, params: Tree) -> Any:
        return self.transform.init(params), {}

    def step(self, params: Tree, grads: Tree, state: Any, t: int) -> tuple[Tree, Any]:
        inner, _ = state
        x, y = (self.extra[f"{name}/{t}"] for name in ("x", "y"))

        def loss(params: Tree) -> tuple[Tensor, Tensor]:
            out = self._forward(params, x, t)
            return (out - y).square().mean(), out

        grads, (value, out) = torch.func.grad_and_value(loss, has_aux=True)(params)
        shown = {f"extra/out/{t}": out, f"extra/loss/{t}": value}
        shown |= {f"grad/{t}/{name}": g for name, g in grads.items()}
        updates, inner = self.transform.update(grads, inner, params)
        params = gx.apply_updates(params, updates)
        if t == self.steps:
            shown |= self._slices(params)
        return params, (inner, shown)

    def shown(self, state: Any) -> dict[str, Tensor]:
        """Arrays of the file besides parameters and states."""
        return state[1]

    def _forward(self, params: Tree, x: Tensor, t: int) -> Tensor:
        weight, bias = self.extra["W0"], self.extra.get("b0")
        factors = params["lora_A"], params["lora_B"]
        return gx.adapters.matryoshka_linear(x, weight, bias, *factors, self._diagonal(t))

    def _diagonal(self, t: int) -> Tensor:
        c = self.config
        if not self.drawn:
            return c.diagonal()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gx.adapters.adapter_diagonal(
                c.rank, c.kind, c.ranks, c.scaling, active=self.drawn[t - 1]
            )

    def _slices(self, params: Tree) -> dict[str, Tensor]:
        """What the trained adapter does at recorded ranks, by merged weights."""
        out, x = {}, self.extra.get("x/eval")
        factors = params["lora_A"], params["lora_B"]
        for key in self.extra:
            if key.startswith("eval_out/"):
                rank = int(key.removeprefix("eval_out/"))
                weight = gx.adapters.merge(self.extra["W0"], *factors, rank, self.config.scaling)
                out[f"extra/{key}"] = linear(x, weight, self.extra.get("b0"))
        if "P" in self.extra:
            out["extra/P"] = self.config.diagonal()
        return out


def diagonals_and_areas(golden: Golden) -> list[tuple[str, Any, Any, float]]:
    """Diagonals of many configurations, and areas under curves."""
    hyper, rtol = golden.meta["hyperparameters"], golden.meta["rtol"]
    rows: list[tuple[str, Any, Any, float]] = []
    for entry in hyper.get("tables", ()):
        key = f"extra/P/{entry['i']}"
        rows.append((key, _config(entry).diagonal(), golden.tensor(key), rtol))
    for i, entry in enumerate(hyper.get("aurac", ())):
        for axis in ("linear", "log2"):
            got = gx.adapters.aurac(entry["ranks"], entry["accs"], axis)
            rows.append((f"aurac/{i}/{axis}", got, entry[f"aurac_{axis}"], _MEASURED))
    return rows


SYSTEMS = {"matryoshka_lora": Adapted}
CASES = {"matryoshka_lora": diagonals_and_areas}
