"""A penalty for every weight, learnt through the solution (implicit differentiation).

Logistic regression of which 45 of 50 features say nothing. The validation loss is a function of 50
penalties through the weights that solve the training problem; ``gx.meta.implicit_root`` gives its
gradient from the conditions of optimality, whatever the solver did.
"""

import argparse

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import grad, grad_and_value

import gradtx as gx

FEATURES, TELL = 50, 5
Data = tuple[Tensor, Tensor]


def data(count: int, generator: torch.Generator) -> Data:
    x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return x, (x[:, :TELL].sum(1) + noise > 0).double()


def loss(w: Tensor, at: Data) -> Tensor:
    return F.binary_cross_entropy_with_logits(at[0] @ w, at[1])


def objective(w: Tensor, log_penalties: Tensor, train: Data) -> Tensor:
    return loss(w, train) + (log_penalties.exp() * w * w).sum() / 2


@gx.meta.implicit_root(grad(objective))
def fit(w: Tensor, log_penalties: Tensor, train: Data) -> Tensor:
    """L-BFGS; none of its steps is differentiated."""
    tx = gx.lbfgs()
    state = tx.init(w)

    def f(w: Tensor) -> Tensor:
        return objective(w, log_penalties, train)

    for _ in range(30):
        updates, state = tx.update(grad(f)(w), state, w, value_fn=f)
        w = gx.apply_updates(w, updates)
    return w


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    train, validation, test = (data(n, generator) for n in (100, 100, 5000))
    zero = torch.zeros(FEATURES, dtype=torch.float64)

    def accuracy(w: Tensor) -> float:
        return ((test[0] @ w > 0) == (test[1] > 0)).double().mean().item()

    same = [fit(zero, torch.full_like(zero, float(p)), train) for p in range(-8, 1)]
    best = min(same, key=lambda w: loss(w, validation).item())
    print(f"one penalty, the best of nine: test accuracy {accuracy(best):.3f}")

    penalties, tx = torch.full_like(zero, -3.0), gx.adam(0.3)
    state = tx.init(penalties)
    for step in range(1, args.steps + 1):
        of = lambda p: loss(fit(zero, p, train), validation)  # noqa: E731
        slope, value = grad_and_value(of)(penalties)
        updates, state = tx.update(slope, state, penalties)
        penalties = gx.apply_updates(penalties, updates)
        if step % (args.steps // 3) == 0:
            print(f"step {step}: validation loss {value:.3f}")
    w = fit(zero, penalties, train)
    print(f"one for every weight: test accuracy {accuracy(w):.3f}")
    tell, rest = penalties[:TELL].exp().mean(), penalties[TELL:].exp().mean()
    print(f"mean penalty of features that tell {tell:.3f}, of others {rest:.3f}")


if __name__ == "__main__":
    main()
