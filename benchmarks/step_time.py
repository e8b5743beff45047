"""Step time of gradtx optimizers as ratios to ``torch.optim.AdamW(fused=True)``.

One process; repetitions of all candidates are interleaved and the median of the ratios within a
repetition is reported, so that a noisy machine moves numerator and denominator together. ``floor``
is the ratio of bytes that must move per parameter and step.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

import gradtx as gx

ADAMW_BYTES = 28  # read gradient, parameter, two moments; write parameter, two moments (float32)
# name -> (constructor, bytes per parameter and step that a single pass would move)
CANDIDATES: dict[str, tuple[Callable[[list[Tensor]], torch.optim.Optimizer], int]] = {
    "torch adamw foreach": (lambda p: torch.optim.AdamW(p, foreach=True), 28),
    "torch adamw loop": (lambda p: torch.optim.AdamW(p, foreach=False), 28),
    "gx adamw": (lambda p: gx.optim.AdamW(p), 28),
    "gx lion": (lambda p: gx.optim.Lion(p), 20),
    "gx sgd momentum": (lambda p: gx.optim.SGD(p, momentum=0.9), 20),
    "gx clip + adamw": (
        lambda p: gx.optim.from_transform(
            gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(None)), p, lr=1e-3
        ),
        32,
    ),
}


def gpt_parameters(width: int, layers: int, vocabulary: int) -> list[Tensor]:
    """Parameters of a GPT's shapes, with gradients."""
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    shapes = [(vocabulary, width)] + layers * [*block, (width,), (width,)]
    return with_gradients(shapes)


def with_gradients(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Random parameters that have gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return params


SETS: dict[str, Callable[[], list[Tensor]]] = {
    "gpt-23M": lambda: gpt_parameters(512, 6, 8000),
    "400x256": lambda: with_gradients([(256,)] * 400),
}


def step_seconds(optimizer: torch.optim.Optimizer) -> float:
    """Wall time of one step."""
    start = time.perf_counter()
    optimizer.step()
    return time.perf_counter() - start


def measure(make_params: Callable[[], list[Tensor]], repetitions: int) -> dict[str, dict]:
    """Median ratios of all candidates on one parameter set."""
    reference = torch.optim.AdamW(make_params(), fused=True)
    optimizers = {name: make(make_params()) for name, (make, _) in CANDIDATES.items()}
    for optimizer in (reference, *optimizers.values()):
        step_seconds(optimizer)
    base: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(repetitions):
        base.append(step_seconds(reference))
        for name, optimizer in optimizers.items():
            times[name].append(step_seconds(optimizer))
    return {
        name: {
            "ratio": statistics.median(t / b for t, b in zip(times[name], base, strict=True)),
            "floor": CANDIDATES[name][1] / ADAMW_BYTES,
            "milliseconds": 1e3 * statistics.median(times[name]),
        }
        for name in optimizers
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {name: measure(make, args.repetitions) for name, make in SETS.items()}
    for set_name, rows in results.items():
        print(f"\n{set_name}, {args.threads} threads: ratio to torch.optim.AdamW(fused=True)")
        for name, row in rows.items():
            print(f"  {name:<22}{row['ratio']:>8.2f}   floor {row['floor']:.2f}")
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "device": "cpu",
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "gradtx": gx.__version__,
        "threads": args.threads,
        "sets": results,
    }
    path = args.out / f"step_time_cpu_{args.threads}_threads.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
