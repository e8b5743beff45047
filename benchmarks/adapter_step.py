"""Training steps with adapters of each kind against a layer of LoRA written by hand.

The demo's language model, forward and backward pass and a step of AdamW; medians of interleaved
repetitions in one process. ``python benchmarks/adapter_step.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

import gradtx as gx

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from lm.data import batches, standard_library
from lm.model import GPT, GPTConfig, next_byte_loss
from lm.table import format_table

TARGETS = ("qkv", "out", "up", "down")


class PlainLoRA(nn.Module):
    """What other libraries do: two linear layers, a product with a number, a sum."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora_A = nn.Linear(linear.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, linear.out_features, bias=False)
        self.scaling = rank**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.lora_B(self.lora_A(x)) * self.scaling


def by_hand(model: nn.Module, rank: int) -> nn.Module:
    """Replace the same layers as ``gx.adapters.wrap`` does."""
    model.requires_grad_(False)
    for block in model.blocks:
        for parent, name in (
            *((block.attention, "qkv"), (block.attention, "out")),
            *((block, "up"), (block, "down")),
        ):
            setattr(parent, name, PlainLoRA(getattr(parent, name), rank))
    return model


def stepper(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> Callable[[int], float]:
    """Seconds of one step."""
    optimizer = gx.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    dylora = any(
        m.config.kind == "dylora"
        for m in model.modules()
        if isinstance(m, gx.adapters.AdaptedLinear)
    )

    def step(i: int) -> float:
        inputs, targets = data[i % len(data)]
        started = perf_counter()
        if dylora:
            gx.adapters.draw_rank(model, i)
        next_byte_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        return perf_counter() - started

    return step


def main(argv: list[str] | None = None) -> None:
    """Measure and print ratios to the layer written by hand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    data = batches(standard_library().train, 8, size=16, context=64, seed=0)
    models = {"LoRA by hand": by_hand(GPT(GPTConfig()), args.rank)}
    for kind in ("lora", "matryoshka", "dylora"):
        model = GPT(GPTConfig())
        models[kind] = gx.adapters.wrap(model, args.rank, kind, targets=TARGETS)
    steps = {name: stepper(model, data) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.repetitions):
        for name, step in steps.items():
            times[name].append(step(i))
    first = {name: median(t[len(t) // 10 :]) for name, t in times.items()}
    rows = [
        (name, f"{1e3 * t:.1f}", f"{t / first['LoRA by hand']:.3f}", f"{t / first['lora']:.3f}")
        for name, t in first.items()
    ]
    print(format_table(("adapter", "ms a step", "of LoRA by hand", "of lora"), rows))


if __name__ == "__main__":
    main()
