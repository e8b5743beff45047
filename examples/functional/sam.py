"""Sharpness-aware minimisation: descend by the gradient of the worst point nearby (2010.01412).

``gx.sam`` steps by the gradient of where an adversary goes, an optimizer too: it climbs by a step
of length rho. Labels of a part of the examples are wrong, which a large network learns by heart;
the flat minimum has learnt less of them.
"""

import argparse

import torch
from torch import Tensor
from torch.func import grad

import gradtx as gx

Params = dict[str, Tensor]
Data = tuple[Tensor, Tensor]


def outputs(params: Params, x: Tensor) -> Tensor:
    return (torch.relu(x @ params["w"] + params["b"]) @ params["v"])[:, 0]


def loss(params: Params, at: Data) -> Tensor:
    return torch.nn.functional.softplus(-at[1] * outputs(params, at[0])).mean()


def data(count: int, wrong: float, generator: torch.Generator) -> Data:
    x = torch.randn(count, 20, generator=generator)
    y = (x[:, 0] * x[:, 1] + x[:, 2]).sign()
    return x, torch.where(torch.rand(count, generator=generator) < wrong, -y, y)


def sharpness(params: Params, at: Data) -> float:
    """The largest eigenvalue of the Hessian, by twenty steps of power iteration."""
    v = gx.tree.ones_like(params)
    for _ in range(20):
        v = gx.tree.scale(1 / gx.tree.norm(v), v)
        v = gx.meta.hvp(lambda p: loss(p, at), params, v)
    return gx.tree.norm(v).item()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    train, test = data(400, 0.2, generator), data(4000, 0.0, generator)
    w, v = torch.randn(20, 256, generator=generator), torch.randn(256, 1, generator=generator)
    start = {"w": w / 20**0.5, "b": torch.zeros(256), "v": v / 16}
    slope = grad(lambda params: loss(params, train))
    for rho in (0.0, 0.1, 0.2, 0.4):
        adversary = gx.chain(gx.scale(-1.0), gx.normalize_by_update_norm(rho))
        tx = gx.sam(gx.sgd(0.2, momentum=0.9), adversary, opaque_mode=True)
        params, state = start, tx.init(start)
        for _ in range(args.steps):
            updates, state = tx.update(
                slope(params), state, params, grad_fn=lambda at, _: slope(at)
            )
            params = gx.apply_updates(params, updates)
        right = [(outputs(params, x).sign() == y).float().mean() for x, y in (train, test)]
        print(
            f"rho {rho:.1f}: train accuracy {right[0]:.3f}, test accuracy {right[1]:.3f}, "
            f"largest curvature {sharpness(params, train):.2f}"
        )


if __name__ == "__main__":
    main()
