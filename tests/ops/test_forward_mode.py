"""Operators in forward mode: the derivative along a direction agrees with reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, linearize, vmap

import gradtx as gx

# What torch's own forward mode and linearize say.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lift_fresh_copy:UserWarning"),
]
INDICES = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 0]])
WEIGHTS = torch.tensor([0.5, 1.0], dtype=torch.float64)


def moments(x: Tensor) -> Tensor:
    weights = WEIGHTS * (1 + x.mean())
    first, second = gx.ops.window_moments(INDICES, x[:2, :4], weights, WEIGHTS * x[2, 0], 8, 4, 2)
    return first + second.cos()


def products(x: Tensor) -> Tensor:
    dots = gx.ops.sparse_window_dots(INDICES, x[:2, :4], x[:, :2].reshape(-1), 4, 2)
    rows = gx.ops.sparse_window_combine(INDICES, x[2:, 2:], dots, 8, 4, 2)
    return rows.cos() * gx.ops.window_dots(x[:2], x[2]).sum()


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "coordinates": lambda x: gx.ops.coordinates(x, x.mT[:, :1] * x.sum(), left=False),
    "dct": lambda x: gx.ops.dct(x, "fft") ** 2,
    "hadamard": lambda x: gx.ops.hadamard(x[:, :4]) ** 2,
    "idct": lambda x: gx.ops.idct(x, "matmul") ** 2,
    "newton_schulz": lambda x: gx.ops.newton_schulz([x[None]], [[(1.5, -0.5, 0.0)]]),
    "rotate": lambda x: gx.ops.rotate(x, "dct3", "left"),
    "symmetric_product": lambda x: gx.ops.symmetric_product(x[None], x.mT[None]),
    "window_moments": moments,
    "window_products": products,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_forward_mode(name: str) -> None:
    fn = OPERATORS[name]
    x, along = torch.randn(2, 4, 6, dtype=torch.float64).unbind()
    out, slope = jvp(fn, (x,), (along,))
    toward = torch.randn_like(out)
    assert torch.equal(out, fn(x))
    want = (grad(lambda x: (fn(x) * toward).sum())(x) * along).sum()
    torch.testing.assert_close((slope * toward).sum(), want)
    assert slope.abs().max() > 0
    torch.testing.assert_close(linearize(fn, x)[1](along), slope)
    both = vmap(lambda t: jvp(fn, (x,), (t,))[1])(torch.stack([along, 2 * along]))
    torch.testing.assert_close(both, torch.stack([slope, 2 * slope]))
