"""A learned optimizer: a small network in the place of a formula (arXiv 1606.04474).

A transform is made of two functions, so a network that maps a gradient and two of its averages to
an update is one. It is trained through unrolled steps on random quadratics, and compared with
SGD, momentum and Adam at their best learning rates on others, with longer runs.
"""

import argparse
from functools import partial

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

import gradtx as gx

Params = dict[str, Tensor]
DECAYS = (0.5, 0.9)
SIZE, HIDDEN, STEPS = 10, 16, 20


def init(generator: torch.Generator) -> Params:
    shape = (1 + len(DECAYS), HIDDEN)
    first = torch.randn(shape, generator=generator) / 2
    return {"first": first, "last": torch.full((HIDDEN, 1), 0.01)}


def learned(theta: Params) -> gx.GradientTransformation:
    """An optimizer for trees of any shapes; every entry is on its own."""

    def init_fn(params: Tensor) -> Tensor:
        return torch.zeros((*params.shape, len(DECAYS)))

    def update_fn(g: Tensor, means: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        decays = torch.tensor(DECAYS)
        means = decays * means + (1 - decays) * g[..., None]
        seen = torch.cat([g[..., None], means], dim=-1)
        hidden = torch.tanh(seen @ theta["first"])
        return -(hidden @ theta["last"])[..., 0] - 0.02 * means[..., 1], means

    return gx.transformation(init_fn, update_fn)


def problems(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Least squares: matrices (count, SIZE, SIZE) and right sides (count, SIZE)."""
    a = torch.randn(count, SIZE, SIZE, generator=generator) / SIZE**0.5
    return a, torch.randn(count, SIZE, generator=generator)


def run(tx: gx.GradientTransformation, a: Tensor, b: Tensor, steps: int = STEPS) -> Tensor:
    """The losses before every step, each of the sum of squares of A x - b."""

    def step(carry: tuple, _: None) -> tuple:
        x, state = carry
        g, value = grad_and_value(lambda x: (a @ x - b).square().sum())(x)
        updates, state = tx.update(g, state, x)
        return (gx.apply_updates(x, updates), state), value

    x = torch.zeros(SIZE)
    return gx.meta.scan(step, (x, tx.init(x)), length=steps)[1]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    theta, outer = init(generator), gx.adam(gx.schedules.cosine_decay(3e-3, args.steps))
    state = outer.init(theta)

    def objective(theta: Params, a: Tensor, b: Tensor) -> Tensor:
        return vmap(partial(run, learned(theta)))(a, b).log().mean()

    for step in range(1, args.steps + 1):
        grads, value = grad_and_value(objective)(theta, *problems(16, generator))
        updates, state = outer.update(grads, state, theta)
        theta = gx.apply_updates(theta, updates)
        if step % (args.steps // 4) == 0:
            print(f"meta-step {step}: mean logarithm of losses {value:.3f}")

    test, rates = problems(100, generator), [0.01, 0.02, 0.05, 0.1, 0.2, 0.3]

    def last(tx: gx.GradientTransformation, steps: int) -> float:
        return vmap(partial(run, tx, steps=steps))(*test)[:, -1].log().mean().item()

    others = {"SGD": gx.sgd, "momentum": partial(gx.sgd, momentum=0.9), "Adam": gx.adam}
    for steps in (STEPS, 2 * STEPS):
        print(
            f"logarithm of the loss after {steps} steps: learned {last(learned(theta), steps):.3f}"
        )
        for name, make in others.items():
            print(f"  {name}: {min(last(make(lr), steps) for lr in rates):.3f}")


if __name__ == "__main__":
    main()
