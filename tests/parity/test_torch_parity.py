"""Recipes as pure chains against the optimizers of torch.optim."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

from .torch_cases import CASES, TorchCase

STEPS = 50
SHAPES = {"scalar": (), "vector": (7,), "matrix": (5, 3), "cube": (4, 3, 2), "row": (1, 6)}


@pytest.fixture(autouse=True)
def _wide_scalars():
    """torch.optim keeps scalar state in the default dtype; the reference runs in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def normal(generator, shape, dtype):
    """The same numbers, representable in float32, in every dtype."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)


def start(dtype):
    generator = torch.Generator().manual_seed(0)
    return {k: normal(generator, s, dtype) for k, s in SHAPES.items()}


def gradients(dtype):
    """Gradients that change in size, with zeros, the same for both sides."""
    generator = torch.Generator().manual_seed(1)
    for t in range(STEPS):
        size = 10.0 ** (t % 4 - 2)
        yield {
            k: size * normal(generator, s, dtype) * (normal(generator, s, dtype) > -1)
            for k, s in SHAPES.items()
        }


def run_torch(case: TorchCase):
    params = {k: torch.nn.Parameter(p) for k, p in start(torch.float64).items()}
    optimizer = getattr(torch.optim, case.torch_class)(params.values(), **case.torch_kwargs)
    for grads in gradients(torch.float64):
        for k, p in params.items():
            p.grad = grads[k]
        optimizer.step()
    return {k: p.detach() for k, p in params.items()}


def run_recipe(case: TorchCase, dtype):
    tx = getattr(gx, case.recipe)(**case.arguments(dtype))
    params = start(dtype)
    state = tx.init(params)
    for grads in gradients(dtype):
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    return params


def difference(a, b):
    """Largest difference relative to the largest entry, over the leaves."""
    return max(float((a[k] - b[k]).abs().max() / b[k].abs().max()) for k in b)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_recipe_equals_torch(case):
    assert difference(run_recipe(case, torch.float64), run_torch(case)) <= 1e-12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_recipe_in_float32_stays_near_torch_in_float64(case):
    """Not near torch in float32, which rounds twice a step where decay is decoupled."""
    assert difference(run_recipe(case, torch.float32), run_torch(case)) <= 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case_moves_the_parameters(case):
    assert difference(run_torch(case), start(torch.float64)) > 1e-3
