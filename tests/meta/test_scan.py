"""Scans: numbers, derivatives, what rematerialisation keeps, one graph, windows."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import gradtx as gx

TX = gx.chain(gx.scale_by_adam(), gx.scale_by_learning_rate(0.1))
START = {"w": torch.tensor([0.5, -1.0], dtype=torch.float64), "b": None}


def train(params: Any, targets: Tensor, remat: bool) -> Tensor:
    """The sum of losses of a few steps of Adam; the carry has integer counters."""

    def step(carry: Any, target: Tensor) -> Any:
        params, state = carry
        value = ((params["w"] - target) ** 2).sum()
        grads = {"w": 2 * (params["w"] - target), "b": None}
        updates, state = TX.update(grads, state, params)
        return (gx.apply_updates(params, updates), state), value

    (params, _), values = gx.meta.scan(step, (params, TX.init(params)), targets, remat=remat)
    return values.sum() + (params["w"] ** 3).sum()


TARGETS = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)


def of_start(w: Tensor, remat: bool, targets: Tensor = TARGETS) -> Tensor:
    return train({"w": w, "b": None}, targets, remat)


@pytest.mark.filterwarnings("ignore:.*get_attr Node:UserWarning")  # linearize itself
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's first jvp
@pytest.mark.parametrize(
    "transform",
    [
        torch.func.grad,
        torch.func.hessian,
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
        lambda f: torch.func.vmap(torch.func.grad(f)),
        lambda f: lambda w: torch.func.jvp(f, (w,), (w,))[1],
        lambda f: lambda w: torch.func.linearize(f, w)[1](w),
    ],
    ids=["grad", "hessian", "jacrev2", "vmap_grad", "jvp", "linearize"],
)
def test_rematerialized_derivatives_are_the_same(transform: Any) -> None:
    w = START["w"]
    try:
        want = transform(lambda w: of_start(w, False))(w)
    except ValueError:  # vmap wants one dimension more
        w = torch.stack([w, 2 * w])
        want = transform(lambda w: of_start(w, False))(w)
    torch.testing.assert_close(transform(lambda w: of_start(w, True))(w), want)


def test_rematerialized_backward_keeps_less_and_sees_closures() -> None:
    def run(remat: bool) -> tuple[int, Tensor, Tensor]:
        kept: list[int] = []
        w = START["w"].clone().requires_grad_()
        factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

        def step(c: Tensor, x: Any) -> Any:
            for _ in range(10):
                c = torch.sin(c * factor)
            return c, c.sum()

        pack = torch.autograd.graph.saved_tensors_hooks(
            lambda x: (kept.append(x.numel()), x)[1], lambda x: x
        )
        with pack:
            out, _ = gx.meta.scan(step, w, length=6, remat=remat)
        return len(kept), *torch.autograd.grad(out.sum(), (w, factor))

    less, more = run(True), run(False)
    assert less[0] < more[0] / 5
    torch.testing.assert_close(less[1:], more[1:])


def test_a_captured_tensor_is_refused_where_it_would_count_as_constant() -> None:
    def loss(a: Tensor) -> Tensor:
        step = lambda c, _: (c * a, None)  # noqa: E731
        return gx.meta.scan(step, torch.ones(2), length=3, remat=True)[0].sum()

    with pytest.raises(ValueError, match="scan: the function uses a tensor from outside"):
        torch.func.grad(loss)(torch.tensor(2.0))


@pytest.mark.parametrize("remat", [False, True])
def test_one_graph(remat: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(of_start, fullgraph=True, backend="aot_eager")
    w = START["w"].clone().requires_grad_()
    (got,) = torch.autograd.grad(compiled(w, remat, TARGETS[:2]), w)
    want = torch.func.grad(lambda w: of_start(w, False, TARGETS[:2]))(w.detach())
    torch.testing.assert_close(got, want)
    torch._dynamo.reset()


def test_lengths_and_carries_are_checked() -> None:
    keep = lambda c, x: (c, x)  # noqa: E731
    with pytest.raises(ValueError, match="give xs of one length, or length"):
        gx.meta.scan(keep, torch.ones(1))
    with pytest.raises(ValueError, match="one length"):
        gx.meta.scan(keep, torch.ones(1), {"a": torch.ones(2), "b": torch.ones(3)})
    with pytest.raises(ValueError, match="at least one step"):
        gx.meta.scan(keep, torch.ones(1), length=0)
    with pytest.raises(gx.TreeMismatchError, match=r"leaf 'w'.*\(1,\).*\(2,\)"):
        gx.meta.scan(lambda c, x: ({"w": torch.ones(2)}, x), {"w": torch.ones(1)}, length=1)
    with pytest.raises(
        gx.TreeMismatchError, match=r"'w' goes from torch\.float32 to torch\.float64"
    ):
        gx.meta.scan(lambda c, x: ({"w": c["w"].double()}, x), {"w": torch.ones(1)}, length=1)
    with pytest.raises(ValueError, match="window must be an integer >= 1"):
        next(gx.meta.truncated(keep, torch.ones(1), length=1, window=0))


class Node(torch.autograd.Function):
    """The identity, which counts how many of its graphs are alive."""

    alive: ClassVar[list[Any]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark = torch.zeros(1)
        Node.alive.append(weakref.ref(ctx.mark))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def test_windows_free_their_graphs_and_are_the_scan() -> None:
    w = torch.tensor(1.1, requires_grad=True)
    step = lambda c, x: (torch.sin(Node.apply(c * w)) + x, c)  # noqa: E731
    xs = torch.linspace(0, 1, 7)
    carries, ys, most = [], [], 0
    for carry, y in gx.meta.truncated(step, torch.tensor(0.3), xs, window=3):
        carries.append(carry.detach())
        ys.append(y.detach())
        most = max(most, sum(ref() is not None for ref in Node.alive))
        del carry, y
    assert most == 3
    last, want = gx.meta.scan(step, torch.tensor(0.3), xs)
    torch.testing.assert_close(carries[-1], last.detach())
    torch.testing.assert_close(torch.cat(ys), want.detach())


def test_windows_take_another_carry() -> None:
    loop = gx.meta.truncated(lambda c, x: (c + 1, c), torch.tensor(0.0), length=4, window=2)
    assert next(loop)[0] == 2
    assert loop.send(torch.tensor(10.0))[0] == 12


def test_stop_gradient_in_both_modes() -> None:
    f = lambda x: (x * gx.stop_gradient({"x": x, "n": 3})["x"]).sum()  # noqa: E731
    x = torch.tensor([2.0, 3.0])
    assert torch.func.grad(f)(x).tolist() == [2.0, 3.0]
    assert torch.func.jvp(f, (x,), (torch.ones(2),))[1] == 5.0
