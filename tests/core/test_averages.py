"""Averages as autograd records them: derivatives of both orders, and where a number is one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.averages import add_multiple, average, average_square


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_squares_have_the_derivatives_of_their_formula() -> None:
    old, new = doubles(0.0, 2.0, 1.0), doubles(0.0, -3.0, 0.5)
    f = lambda a, b: average_square(a, b, 0.75)  # noqa: E731
    assert torch.autograd.gradcheck(f, (old, new), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (old, new))
    fixed = old.detach()
    assert torch.autograd.gradcheck(lambda b: f(fixed, b), (new,))
    assert torch.autograd.gradcheck(lambda a: f(a, new.detach()), (old,))


def test_squares_keep_the_new_tensor_alone_and_their_value() -> None:
    old, new, kept = doubles(1.0, 2.0), doubles(0.1, -3.0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = average_square(old, new, 0.9)
    assert [t.data_ptr() for t in kept] == [new.data_ptr()]
    assert torch.equal(out, average(old, new * new, 0.9))
    mapped = torch.vmap(lambda b: average_square(old, b, 0.9))(torch.stack([new, new]))
    assert torch.equal(mapped[1], out)


@pytest.mark.parametrize("decay", [0.9, torch.tensor(0.9, dtype=torch.float64)])
def test_old_values_of_another_dtype(decay: float | Tensor) -> None:
    old = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    out = average_square(old, doubles(2.0, 3.0), decay)
    assert out.dtype == torch.float64
    out.sum().backward()
    assert old.grad is not None
    assert old.grad.dtype == torch.bfloat16


def test_a_decay_of_zero_passes_over_parameters_and_has_no_derivative() -> None:
    p = torch.tensor([1.0, float("nan"), float("inf")], requires_grad=True)
    out, _ = gx.add_decayed_weights(0.0).update(torch.zeros(3), (), p)
    assert out.isnan().tolist() == [False, True, True]
    assert not out.requires_grad
    tx = gx.add_decayed_weights(torch.tensor(0.0, requires_grad=True))
    out, _ = tx.update(torch.zeros(3), (), p)
    assert out.requires_grad
    x = doubles(3.0)
    assert add_multiple(x, torch.tensor(0.5), x).item() == add_multiple(x, 0.5, x).item() == 4.5


@pytest.mark.filterwarnings("ignore:.*get_attr Node", "ignore:.*torch.jit.script")
@pytest.mark.parametrize("moved", [(True, False), (False, True), (True, True)])
def test_a_sum_with_a_multiple_is_linearized_by_either(moved: tuple[bool, bool]) -> None:
    x, y = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def add(z: torch.Tensor) -> torch.Tensor:
        return add_multiple(z if moved[0] else x, 0.5, z if moved[1] else y)

    _, along = torch.func.linearize(add, x)
    assert torch.equal(along(y), y * (moved[0] + 0.5 * moved[1]))
