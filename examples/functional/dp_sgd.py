"""Private training: gradients of examples by ``vmap``, clipped and noised (arXiv 1607.00133).

``gx.dpsgd`` sees of every example no more than a vector of length ``CLIP``, and noise of a multiple
of that hides whether it was there.
"""

import argparse

import torch
from torch import Tensor
from torch.func import grad, vmap

import gradtx as gx

Params = dict[str, Tensor]
CLIP, BATCH = 1.0, 256


def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Of one example, or the mean over several."""
    out = torch.tanh(x @ params["w"] + params["b"]) @ params["v"]
    return torch.nn.functional.softplus(-y * out[..., 0]).mean()


def data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points in ten dimensions, and on which side of a sphere in five of them they are."""
    x = torch.randn(count, 10, generator=generator)
    return x, (x[:, :5].square().sum(1) - 4.35).sign()


def train(noise: float, examples: tuple[Tensor, Tensor], steps: int) -> tuple[Params, float]:
    """The parameters, and the share of per-example gradients that were clipped."""
    generator = torch.Generator().manual_seed(0)
    w, v = torch.randn(10, 64, generator=generator), torch.randn(64, 1, generator=generator)
    params = {"w": w / 3, "b": torch.zeros(64), "v": v / 8}
    tx = gx.dpsgd(0.5, CLIP, noise, seed=1, momentum=0.9)
    state, clipped = tx.init(params), 0
    for _ in range(steps):
        chosen = torch.randint(len(examples[0]), (BATCH,), generator=generator)
        x, y = (part[chosen] for part in examples)
        each = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
        clipped += int((vmap(gx.tree.norm)(each) > CLIP).sum())
        updates, state = tx.update(each, state, params)
        params = gx.apply_updates(params, updates)
    return params, clipped / (steps * BATCH)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(1)
    examples, test = data(4000, generator), data(4000, generator)
    for noise in (0.0, 0.5, 1.0, 2.0):
        params, share = train(noise, examples, args.steps)
        out = torch.tanh(test[0] @ params["w"] + params["b"]) @ params["v"]
        right = (out[:, 0].sign() == test[1]).float().mean()
        print(f"noise {noise:.1f}: {share:.0%} clipped, test accuracy {right:.3f}")


if __name__ == "__main__":
    main()
