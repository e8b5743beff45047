"""A batch in parts: results, derivatives, what is kept, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

import gradtx as gx

W = {"a": torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2), "b": None}
X = torch.sin(torch.arange(36, dtype=torch.float64)).reshape(12, 3)
Y = torch.cos(torch.arange(24, dtype=torch.float64)).reshape(2, 12)


def loss(w: Any, x: Tensor, *, y: Tensor) -> Tensor:
    return (torch.tanh(x @ w["a"]) - y.T).square().sum()


def of_parts(way: Any, fn: Any = loss, size: int | None = 4, **options: Any) -> Any:
    return gx.meta.microbatch(fn, 1, size, way, argnames="y", in_dims=(0, 1), **options)


def test_results_are_those_of_the_whole_batch() -> None:
    def everything(w: Any, x: Tensor, *, y: Tensor) -> Any:
        out = x @ w["a"]
        return {"out": out, "parts": out.sum(), "of": (loss(w, x, y=y), out.mean(0)), "no": None}

    ways = {"out": "concat", "parts": "concat", "of": ("sum", "mean"), "no": "sum"}
    got, want = of_parts(ways, everything)(W, X, y=Y), everything(W, X, y=Y)
    parts = want["out"].reshape(3, -1).sum(1)
    torch.testing.assert_close(got, {**want, "parts": parts})
    assert got["parts"].shape == (3,)


@pytest.mark.parametrize("size", [1, 4, 12, None])
def test_gradients_add_up(size: int | None) -> None:
    def slopes(w: Any, x: Tensor, *, y: Tensor) -> Any:
        return grad_and_value(lambda a: loss({"a": a}, x, y=y))(w["a"])

    torch.testing.assert_close(of_parts("sum", slopes, size)(W, X, y=Y), slopes(W, X, y=Y))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's first jvp
@pytest.mark.parametrize("remat", [False, True])
def test_derivatives_of_all_kinds(remat: bool) -> None:
    in_parts = of_parts("mean", remat=remat)

    def got(a: Tensor, x: Tensor = X) -> Tensor:
        return in_parts({"a": a, "b": None}, x, y=Y)

    def want(a: Tensor, x: Tensor = X) -> Tensor:
        return loss({"a": a}, x, y=Y) / 3

    for f, g in (
        (grad(got), grad(want)),
        (grad(got, argnums=1), grad(want, argnums=1)),
        (torch.func.hessian(got), torch.func.hessian(want)),
    ):
        args = (W["a"], X)
        torch.testing.assert_close(f(*args), g(*args))
    many = torch.stack([W["a"], 2 * W["a"]])
    torch.testing.assert_close(vmap(grad(got))(many), vmap(grad(want))(many))
    a = W["a"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(got(a), a)
    torch.testing.assert_close(slope, grad(want)(W["a"]))


def test_rematerialized_parts_keep_nothing_of_their_own() -> None:
    kept: list[Any] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(tuple(x.shape))
        return x

    counts = {}
    for remat in (False, True):
        kept.clear()
        w = {"a": W["a"].clone().requires_grad_(), "b": None}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            of_parts("sum", remat=remat)(w, X, y=Y)
        counts[remat] = kept.count((4, 2))
    assert counts[False] >= 3
    assert counts[True] == 0


def test_it_compiles_to_one_graph() -> None:
    step = torch.compile(of_parts("sum"), fullgraph=True, backend="eager")
    torch.testing.assert_close(step({"a": W["a"], "b": None}, X, y=Y), loss(W, X, y=Y))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="size must be an integer >= 1 or None, got 0"):
        of_parts("sum", size=0)
    with pytest.raises(ValueError, match=r"accumulate must be one of .*got 'total'"):
        of_parts("total")
    with pytest.raises(ValueError, match="in_dims must have one dimension for each of"):
        gx.meta.microbatch(loss, (0, 1), 2, in_dims=(0,))
    with pytest.raises(ValueError, match="size must divide the batch of 12, got 5"):
        of_parts("sum", size=5)(W, X, y=Y)
    with pytest.raises(ValueError, match=r"one length of batch, got \[10, 12\]"):
        of_parts("sum")(W, X[:10], y=Y)
    with pytest.raises(ValueError, match="the call has no argument 'y'"):
        of_parts("sum")(W, X)
    with pytest.raises(ValueError, match=r"the mean of torch.int64 .* take sums"):
        of_parts("mean", lambda w, x, y: torch.tensor(3))(W, X, y=Y)
    with pytest.raises(gx.TreeMismatchError, match="the result tree does not match"):
        of_parts({"a": "sum"})(W, X, y=Y)


def test_many_parts_of_low_precision_add_up() -> None:
    x = torch.ones(1024, dtype=torch.bfloat16)
    for way, want in (("sum", 1024.0), ("mean", 1.0)):
        got = gx.meta.microbatch(torch.sum, 0, 1, way)(x)
        assert got == want
        assert got.dtype == torch.bfloat16
    assert gx.meta.microbatch(torch.any, 0, 1)(x) == 1024  # as torch.sum counts
