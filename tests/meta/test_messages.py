"""What a caller is told who gives functional tools something of another form."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

W = torch.ones(3, dtype=torch.float64)


def root(optimality: object) -> torch.Tensor:
    solved = gx.meta.implicit_root(optimality)(lambda w, a: {"w": a * W})  # type: ignore[arg-type]
    return torch.func.grad(lambda a: solved({"w": W}, a)["w"].sum())(torch.ones((), dtype=W.dtype))


def test_an_optimality_is_a_tree_like_the_parameters() -> None:
    torch.testing.assert_close(root(lambda p, a: {"w": p["w"] - a * W}).item(), 3.0)
    with pytest.raises(gx.TreeMismatchError, match="implicit_root: the optimality tree"):
        root(lambda p, a: p["w"] - a * W)
    with pytest.raises(gx.TreeMismatchError, match=r"'w': optimality has shape \(\), parameter"):
        root(lambda p, a: {"w": (p["w"] - a * W).sum()})
    with pytest.raises(gx.TreeMismatchError, match="leaf 'w' has no optimality"):
        root(lambda p, a: {"w": None})


@pytest.mark.parametrize("antithetic", [True, False])
def test_values_of_an_estimate_are_single_numbers(antithetic: bool) -> None:
    for f, said in ((lambda w: 2 * w, r"\(3,\)"), (lambda w: 1.0, "a float")):
        with pytest.raises(ValueError, match=f"zero_order: f must return a 0-d tensor, got {said}"):
            gx.meta.zero_order(f, antithetic=antithetic)(W)  # type: ignore[arg-type]


def test_an_inner_loss_is_one_number() -> None:
    model = torch.nn.Linear(1, 1)
    with (
        gx.meta.inner_loop(model, gx.sgd(0.1)) as (fmodel, opt),
        pytest.raises(ValueError, match=r"one number, got shape \(2, 1\); take its mean"),
    ):
        opt.step(fmodel(torch.ones(2, 1)))
