"""A bilinear game, min over x and max over y of x^T A y: gradient descent leaves the saddle.

The optimistic gradient, which steps along 2 g_t - g_(t-1), goes there (arXiv 1711.00141). Both
players are leaves of one tree; the second climbs, so its gradient changes sign.
"""

import argparse

import torch
from torch import Tensor
from torch.func import grad

import gradtx as gx

Players = dict[str, Tensor]
A = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)


def game(z: Players) -> Tensor:
    return z["x"] @ A @ z["y"]


def field(z: Players) -> Players:
    """What each player wants to step against."""
    g = grad(game)(z)
    return {"x": g["x"], "y": -g["y"]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    optimizers = {
        "gradient descent": gx.sgd(0.2),
        "Adam": gx.adam(0.05),
        "optimistic gradient": gx.optimistic_gradient_descent(0.2),
    }
    for name, tx in optimizers.items():
        z = {k: torch.ones(2, dtype=torch.float64) for k in ("x", "y")}
        state, sizes = tx.init(z), []
        for i in range(args.steps):
            if i % (args.steps // 3) == 0:
                sizes.append(gx.tree.norm(z).item())
            updates, state = tx.update(field(z), state, z)
            z = gx.apply_updates(z, updates)
        sizes.append(gx.tree.norm(z).item())
        print(f"{name:<20} distance from the saddle", "  ".join(f"{s:.1e}" for s in sizes))


if __name__ == "__main__":
    main()
