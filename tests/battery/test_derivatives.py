"""Derivatives through several updates: finite, and right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.testing.derivatives import trained
from tests.table import ROWS

from .helpers import params_, tensors

NAMES = (
    *("lookahead", "schedule_free_sgd", "schedule_free_adamw", "prodigy", "prodigy_adv", "adamw"),
    *("amsgrad", "nadam", "radam", "adagrad", "rmsprop", "adadelta", "adamax", "yogi", "novograd"),
    *("lamb", "ademamix", "adopt", "adafactor", "smmf", "multi_steps", "clip_by_global_norm"),
)


@pytest.mark.parametrize("name", NAMES)
def test_meta_gradients_agree_with_differences(name: str) -> None:
    """With respect to the initial parameters, in float64."""
    tx = next(row for row in ROWS if row.name == name).make()
    params = params_(dtype=torch.float64)
    away = gx.tree.map(lambda p: torch.sin(7 * p), params)

    def moved(by: float) -> Any:
        return gx.tree.map(lambda p, d: p + by * d, params, away)

    def loss(params: Any) -> Tensor:
        out = trained(tx, params, {})
        return sum((((x - 1) ** 2).sum() for x in tensors(out)), torch.zeros(()))

    slope = gx.tree.vdot(torch.func.grad(loss)(params), away)
    want = (loss(moved(1e-6)) - loss(moved(-1e-6))) / 2e-6
    torch.testing.assert_close(slope, want, rtol=1e-5, atol=1e-6)
