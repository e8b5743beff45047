"""L-BFGS with a line search, as a transform: the loss is an argument of ``update``.

On Rosenbrock's function and on a least-squares fit of which the numbers of the data differ by
1e3; float64 accuracy in tens of steps.
"""

import argparse

import torch
from torch import Tensor
from torch.func import grad, vmap

import gradtx as gx


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def minimise(f: object, x: Tensor, tx: gx.GradientTransformation, steps: int, every: int) -> Tensor:
    state = tx.init(x)
    for i in range(steps):
        if every and i % every == 0:
            print(f"  step {i:3d}: {f(x):.2e}")
        updates, state = tx.update(grad(f)(x), state, x, value_fn=f)
        x = gx.apply_updates(x, updates)
    return x


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args(argv)
    start = torch.tensor([-1.2, 1.0, -1.2, 1.0], dtype=torch.float64)
    searches = {
        "strong Wolfe conditions": gx.lbfgs(),
        "backtracking": gx.lbfgs(linesearch=gx.scale_by_backtracking_linesearch(20)),
    }
    for name, tx in searches.items():
        print(f"Rosenbrock's function of 4, {name}")
        x = minimise(rosenbrock, start, tx, args.steps, args.steps // 4)
        print(f"  at the end: {rosenbrock(x):.2e}")

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    a = a * torch.logspace(0, 3, 8, dtype=torch.float64)
    b = torch.randn(40, generator=generator, dtype=torch.float64)

    def squares(x: Tensor) -> Tensor:
        return (a @ x - b).square().mean()

    least = squares(torch.linalg.lstsq(a, b[:, None]).solution[:, 0])
    x = minimise(squares, torch.zeros(8, dtype=torch.float64), gx.lbfgs(), 2 * args.steps, 0)
    print(f"least squares: {squares(x) - least:.2e} above the minimum")

    starts = 2 * torch.rand(16, 4, generator=generator, dtype=torch.float64) - 1
    ends = vmap(lambda x: minimise(rosenbrock, x, gx.lbfgs(), args.steps, 0))(starts)
    print(f"16 starts at once by vmap: {(vmap(rosenbrock)(ends) < 1e-12).sum()} at a minimum of 0")


if __name__ == "__main__":
    main()
