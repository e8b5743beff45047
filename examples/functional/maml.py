"""MAML: parameters from which one gradient step fits a new sinusoid (arXiv 1703.03400).

A task is a sinusoid of which ten points are seen. The inner step is a function of its initial
parameters and of its learning rates, so the outer optimizer learns both: ``vmap`` maps the inner
step over the tasks, ``grad`` goes through it.
"""

import argparse
from itertools import pairwise

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

import gradtx as gx

Params = dict[str, Tensor]
SIZES = (1, 40, 40, 1)


def init(generator: torch.Generator) -> Params:
    params = {}
    for i, (a, b) in enumerate(pairwise(SIZES)):
        params[f"w{i}"] = torch.randn(a, b, generator=generator) / a**0.5
        params[f"b{i}"] = torch.zeros(b)
    return params


def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    for i in range(3):
        x = x @ params[f"w{i}"] + params[f"b{i}"]
        x = torch.tanh(x) if i < 2 else x
    return (x - y).square().mean()


def tasks(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Twenty points of every task, each (count, 20, 1): ten to learn from, ten to be right on."""
    uniform = torch.rand(2, count, 1, 1, generator=generator)
    amplitude, phase = 0.1 + 4.9 * uniform[0], torch.pi * uniform[1]
    x = 10 * torch.rand(count, 20, 1, generator=generator) - 5
    return x, amplitude * torch.sin(x + phase)


INNER = gx.sgd()


def adapt(params: Params, rates: Params, x: Tensor, y: Tensor, steps: int = 1) -> Params:
    state = INNER.init(params)
    for _ in range(steps):
        grads = grad(loss)(params, x, y)
        updates, state = INNER.update(grads, state, params, hyper={"lr": rates})
        params = gx.apply_updates(params, updates)
    return params


def after(meta: tuple[Params, Params], x: Tensor, y: Tensor, steps: int = 1) -> Tensor:
    """The losses of all tasks on their second ten points, after steps on the first ten."""

    def one(x: Tensor, y: Tensor) -> Tensor:
        params, log_rates = meta
        rates = gx.tree.map(torch.exp, log_rates)
        return loss(adapt(params, rates, x[:10], y[:10], steps), x[10:], y[10:])

    return vmap(one)(x, y)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    params = init(generator)
    log_rates = gx.tree.map(lambda p: torch.full_like(p, 0.01).log(), params)  # one an entry
    meta, test = (params, log_rates), tasks(200, generator)
    outer = gx.adam(gx.schedules.cosine_decay(5e-3, args.steps))
    state = outer.init(meta)
    print(f"before: loss after one step {after(meta, *test).mean():.3f}")
    for step in range(1, args.steps + 1):
        batch = tasks(25, generator)
        grads, value = grad_and_value(lambda m: after(m, *batch).mean())(meta)  # noqa: B023
        updates, state = outer.update(grads, state, meta)
        meta = gx.apply_updates(meta, updates)
        if step % (args.steps // 4) == 0:
            print(f"meta-step {step}: loss of its tasks {value:.3f}")
    for steps in (0, 1, 3):
        print(f"new tasks after {steps} steps: loss {after(meta, *test, steps).mean():.3f}")


if __name__ == "__main__":
    main()
