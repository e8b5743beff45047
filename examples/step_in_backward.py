"""Train the GPT twice: with ``optimizer.step()`` and with steps inside the backward pass.

Inside backward every gradient is used and freed as soon as it is there, so that no more than one
exists at a time. The losses are the same; what is measured is the memory of gradients.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

import gradtx as gx
from lm.data import Batch, batches, standard_library
from lm.model import GPT, GPTConfig, next_byte_loss
from lm.table import format_table

IN_BACKWARD = "step in backward"


class GradientMemory:
    """Bytes of all gradients that exist, looked at whenever one has become ready."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.peak = 0
        for p in self.parameters:
            p.register_post_accumulate_grad_hook(self.look)

    def look(self, ready: Tensor) -> None:
        live = sum(p.grad.nbytes for p in self.parameters if p.grad is not None)
        self.peak = max(self.peak, live)


@dataclass
class Run:
    """Losses in nats per byte."""

    name: str
    parameter_bytes: int = 0
    peak_gradient_bytes: int = 0
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)


def train(name: str, config: GPTConfig, seed: int, lr: float, data: list[Batch]) -> Run:
    """Take one step per batch."""
    model = GPT(config, seed=seed)
    memory = GradientMemory(model)  # its hooks come first: they see a gradient before it is freed
    optimizer = gx.optim.AdamW(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(data))
    if name == IN_BACKWARD:
        gx.optim.step_in_backward(optimizer)
    run = Run(name, sum(p.nbytes for p in model.parameters()))
    started = perf_counter()
    for inputs, targets in data:
        loss = next_byte_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()  # finds no gradients after a step in backward
        optimizer.zero_grad()
        scheduler.step()
        run.loss.append(loss.item())
    run.seconds = perf_counter() - started
    run.peak_gradient_bytes = memory.peak
    return run


def summary(runs: list[Run]) -> str:
    """One line per run."""
    header = ("run", "last loss", "peak gradient bytes", "of parameters", "seconds")
    rows = [
        (
            run.name,
            f"{run.loss[-1]:.6f}",
            f"{run.peak_gradient_bytes:,}",
            f"{run.peak_gradient_bytes / run.parameter_bytes:.1%}",
            f"{run.seconds:.1f}",
        )
        for run in runs
    ]
    return format_table(header, rows)


def main(argv: list[str] | None = None) -> None:
    """Train both ways, print the table, write ``results.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=30, help="steps of each run")
    add("--layers", type=int, default=4, help="transformer blocks")
    add("--width", type=int, default=160, help="channels of the residual stream")
    add("--lr", type=float, default=3e-3, help="first learning rate")
    add("--seed", type=int, default=0, help="seed of the weights and the batches")
    add("--out", type=Path, default=Path("out/step_in_backward"), help="folder of the results")
    args = parser.parse_args(argv)
    data = batches(standard_library().train, args.steps, size=8, context=64, seed=args.seed)
    config = GPTConfig(layers=args.layers, heads=2, width=args.width)
    runs = [train(name, config, args.seed, args.lr, data) for name in ("step()", IN_BACKWARD)]
    largest = max(abs(a - b) for a, b in zip(*(run.loss for run in runs), strict=True))
    print(f"{summary(runs)}\n\nlargest difference between the losses: {largest:.1e}")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.json"
    path.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
