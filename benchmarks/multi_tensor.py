"""A step without a compiler as a ratio to torch's multi-tensor AdamW.

Repetitions of both are interleaved; printed are the median of the ratios and the median times.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import torch
from step_time import SETS, parameters

import gradtx as gx

REPETITIONS = 15


def timed(step: Any) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    os.environ.update(PATH="", CXX="")  # no compiler is found
    options: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}
    for name in ("400x256", "gpt-23M"):
        theirs = torch.optim.AdamW(parameters(SETS[name]), foreach=True, **options).step
        ours = {
            "multi-tensor": gx.optim.AdamW(parameters(SETS[name]), **options).step,
            "as it is": gx.optim.AdamW(parameters(SETS[name]), fused=False, **options).step,
        }
        for label, step in ours.items():
            pairs = [(timed(step), timed(theirs)) for _ in range(REPETITIONS + 2)][2:]
            ratio = statistics.median(a / b for a, b in pairs)
            mine, other = (1e3 * statistics.median(x) for x in zip(*pairs, strict=True))
            print(f"{name:<10}{label:<14}{ratio:5.2f}  {mine:7.2f} ms, torch {other:7.2f} ms")


if __name__ == "__main__":
    main()
