"""Adversarial training on scikit-learn's digits (arXiv 1706.06083).

The attack is an optimizer of its own: steps along signs, back into the box around the image after
each. It attacks a whole batch as one tensor, and the model learns from what it finds.

Needs the extras ``pip install 'gradtx[examples]'``.
"""

import argparse

import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import Tensor
from torch.func import grad

import gradtx as gx

Params = dict[str, Tensor]
RADIUS = 0.15  # by which a pixel in [0, 1] may change
ATTACK = gx.chain(gx.scale_by_sign(), gx.scale(RADIUS / 4))


def init(generator: torch.Generator) -> Params:
    w, v = torch.randn(64, 128, generator=generator), torch.randn(128, 10, generator=generator)
    return {"w": w / 8, "b": torch.zeros(128), "v": v / 128**0.5}


def outputs(params: Params, x: Tensor) -> Tensor:
    return torch.relu(x @ params["w"] + params["b"]) @ params["v"]


def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs(params, x), y)


def attacked(params: Params, x: Tensor, y: Tensor, steps: int = 10) -> Tensor:
    """Images near x on which the loss is large."""
    low, high = (x - RADIUS).clamp(min=0.0), (x + RADIUS).clamp(max=1.0)
    z, state = x, ATTACK.init(x)
    for _ in range(steps):
        updates, state = ATTACK.update(grad(loss, argnums=1)(params, z, y), state, z)
        z = gx.projections.box(gx.apply_updates(z, updates), low, high)
    return z


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args(argv)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=generator)
    train, test = order[:1400], order[1400:]
    for name, steps in (("plain", 0), ("adversarial", 5)):
        params, tx = init(generator), gx.adamw(3e-3)
        state = tx.init(params)
        for epoch in range(1, args.epochs + 1):
            for part in train[torch.randperm(len(train), generator=generator)].split(100):
                seen = attacked(params, x[part], y[part], steps)
                updates, state = tx.update(grad(loss)(params, seen, y[part]), state, params)
                params = gx.apply_updates(params, updates)
            if epoch % max(args.epochs // 2, 1) == 0:
                print(f"{name}, epoch {epoch}: loss {loss(params, x[train], y[train]):.3f}")
        worst = attacked(params, x[test], y[test], 20)
        right = [(outputs(params, z).argmax(1) == y[test]).float().mean() for z in (x[test], worst)]
        print(f"{name}: test accuracy {right[0]:.3f}, under attack {right[1]:.3f}")


if __name__ == "__main__":
    main()
