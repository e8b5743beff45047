"""iMAML: meta-learning through the solution of the inner problem, not its steps (arXiv 1909.04630).

The tasks are those of ``maml.py``. The inner problem is the task's loss and the distance from the
meta-parameters; its solution is a root of its gradient, so ``gx.meta.implicit_root`` gives its
derivatives whatever found it, here ten steps with momentum, none of which is kept in memory. The
factor of the distance keeps the inner problem convex enough for a few steps and a few products.
"""

import argparse

import torch
from maml import Params, init, loss, tasks
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

import gradtx as gx

DISTANCE = 2.0  # factor of half the squared distance from the meta-parameters
INNER = gx.sgd(0.01, momentum=0.8, nesterov=True)


def objective(params: Params, meta: Params, x: Tensor, y: Tensor) -> Tensor:
    away = gx.tree.map(torch.sub, params, meta)
    return loss(params, x, y) + DISTANCE / 2 * gx.tree.vdot(away, away)


def solve(matvec: object, b: Params) -> Params:
    """A few steps of conjugate gradients, as in the paper."""
    return gx.meta.cg(matvec, b, maxiter=5)


@gx.meta.implicit_root(grad(objective), solve)
def adapt(start: Params, meta: Params, x: Tensor, y: Tensor) -> Params:
    def step(carry: tuple, _: None) -> tuple:
        params, state = carry
        updates, state = INNER.update(grad(objective)(params, meta, x, y), state, params)
        return (gx.apply_updates(params, updates), state), None

    (params, _), _ = gx.meta.scan(step, (start, INNER.init(start)), length=10)
    return params


def after(meta: Params, x: Tensor, y: Tensor) -> Tensor:
    """The losses of all tasks on their second ten points, adapted to the first ten."""

    def one(x: Tensor, y: Tensor) -> Tensor:
        params = adapt(gx.stop_gradient(meta), meta, x[:10], y[:10])
        return loss(params, x[10:], y[10:])

    return vmap(one)(x, y)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    meta, test = init(generator), tasks(200, generator)
    outer = gx.adam(gx.schedules.cosine_decay(1e-2, args.steps))
    state = outer.init(meta)
    print(f"before: loss of adapted parameters {after(meta, *test).mean():.3f}")
    for step in range(1, args.steps + 1):
        batch = tasks(25, generator)
        grads, value = grad_and_value(lambda m: after(m, *batch).mean())(meta)  # noqa: B023
        updates, state = outer.update(grads, state, meta)
        meta = gx.apply_updates(meta, updates)
        if step % (args.steps // 4) == 0:
            print(f"meta-step {step}: loss of its tasks {value:.3f}")
    print(f"new tasks: loss of adapted parameters {after(meta, *test).mean():.3f}")


if __name__ == "__main__":
    main()
