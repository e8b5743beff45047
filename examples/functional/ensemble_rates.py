"""Eight learning rates at once: the optimizer's state and rate are mapped over like the model.

Nothing is restarted or recompiled: ``vmap`` gives every member its own rate, parameters and state.
"""

import argparse

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

import gradtx as gx

Params = dict[str, Tensor]


def init(generator: torch.Generator) -> Params:
    w = torch.randn(2, 64, generator=generator)
    return {"w": w, "b": torch.zeros(64), "v": torch.randn(64, 1, generator=generator) / 8}


def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Of a network with one hidden layer, on the sign of x1 x2."""
    out = torch.tanh(x @ params["w"] + params["b"]) @ params["v"]
    return torch.nn.functional.softplus(-y * out[:, 0]).mean()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    rates, tx = torch.logspace(-4, -0.5, 8), gx.adamw()

    def step(params: Params, state: object, rate: Tensor, x: Tensor, y: Tensor) -> tuple:
        grads, value = grad_and_value(loss)(params, x, y)
        updates, state = tx.update(grads, state, params, hyper={"lr": rate})
        return gx.apply_updates(params, updates), state, value

    params = gx.tree.map(lambda p: p.expand(8, *p.shape), init(generator))
    state = vmap(tx.init)(params)
    together = vmap(step, in_dims=(0, 0, 0, None, None))
    for i in range(1, args.steps + 1):
        x = torch.randn(128, 2, generator=generator)
        params, state, losses = together(params, state, rates, x, (x[:, 0] * x[:, 1]).sign())
        if i % (args.steps // 4) == 0:
            print(f"step {i}:", "  ".join(f"{value:.3f}" for value in losses.tolist()))
    print("rates:", "  ".join(f"{rate:.0e}" for rate in rates.tolist()))
    print(f"the best rate is {rates[losses.argmin()]:.0e}")


if __name__ == "__main__":
    main()
