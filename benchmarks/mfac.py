"""M-FAC's step against its window and density, as a ratio to torch's fused AdamW.

Windows are full before anything is measured, and gradients change from step to step. Repetitions
of both are interleaved; printed are the median of the ratios, the median times, the bytes of state
a parameter, and for small damping the error of the direction against float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import record
import torch
from peers import set_threads
from step_time import SETS, parameters
from torch import Tensor

import gradtx as gx

GRADIENTS = 3
SPARSE = [(16, 0.01), (64, 0.001), (64, 0.01)]
DAMPING = 1e-7


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def bytes_a_parameter(opt: torch.optim.Optimizer) -> float:
    """Of state, tensors that several parameters share counted once."""
    held = {x.data_ptr(): x.nbytes for s in opt.state.values() for x in gx.tree.leaves(s)}
    count = sum(p.numel() for group in opt.param_groups for p in group["params"])
    return sum(held.values()) / count


def steps_of(opt: torch.optim.Optimizer) -> Callable[[], None]:
    """Steps whose gradients come in turn."""
    params = opt.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(1)
    grads: list[list[Tensor]] = [
        [torch.randn(p.shape, generator=generator) for p in params] for _ in range(GRADIENTS)
    ]

    def run() -> None:
        grads.append(grads.pop(0))
        for p, g in zip(params, grads[0], strict=True):
            p.grad = g
        opt.step()

    return run


def compare(
    label: str, shapes: Any, make: Callable[..., torch.optim.Optimizer], window: int, count: int
) -> dict[str, float]:
    """Times of steps beside fused AdamW's."""
    opt = make(parameters(shapes))
    ours, theirs = steps_of(opt), steps_of(torch.optim.AdamW(parameters(shapes), fused=True))
    for _ in range(window + 1):
        ours()
    theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(count + 1)][1:]
    ratio = statistics.median(a / b for a, b in pairs)
    mine, other = (1e3 * statistics.median(x) for x in zip(*pairs, strict=True))
    size = bytes_a_parameter(opt)
    print(f"{label:<34}{ratio:6.2f}  {mine:7.1f} ms, AdamW {other:6.1f} ms  {size:6.1f} B")
    return {
        "ratio": ratio,
        "milliseconds": mine,
        "AdamW, milliseconds": other,
        "bytes a parameter": size,
    }


def direction_error(window: int, numel: int) -> float:
    """The largest relative error of the direction over some steps, gradients being alike."""
    torch.manual_seed(0)
    common = torch.randn(numel) / numel**0.5
    tx = gx.precondition_mfac(window, DAMPING)
    state, rows, worst = tx.init({"w": common}), [], 0.0
    for _ in range(3 * window // 2):
        g = common + 0.3 * torch.randn(numel) / numel**0.5
        u, state = tx.update({"w": g}, state)
        rows = [*rows, g.double()][-window:]
        matrix = torch.stack(rows)  # (at most window, numel)
        a = matrix @ matrix.mT + window * DAMPING * torch.eye(len(rows), dtype=torch.float64)
        one = torch.eye(len(rows), dtype=torch.float64)[-1]
        want = window * (torch.linalg.solve(a, one) @ matrix)
        worst = max(worst, ((u["w"] - want).norm() / want.norm()).item())
    return worst


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="part of a row's name")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    set_threads(args.threads)
    results: dict[str, Any] = {}
    for window in (8, 32):
        label = f"error of the direction, damping {DAMPING:g}, window {window}"
        if args.only in label:
            results[label] = error = direction_error(window, 4000)
            print(f"{label}: {error:.1e}")
    sparse = [
        (f"sparse M-FAC, m {m}, density {d:g}", "gpt-23M", gx.optim.SparseMFAC, m, {"density": d})
        for m, d in SPARSE
    ]
    dense = [(f"dense M-FAC, m {m}, 400 x 256", "400x256", gx.optim.MFAC, m, {}) for m in (8, 16)]
    for label, shapes, kind, window, options in [*sparse, *dense]:
        if args.only in label:
            make = partial(kind, lr=1e-3, window=window, damping=1e-3, **options)
            results[label] = compare(label, SETS[shapes], make, window, args.repetitions)
    record.write(args.out, "mfac", args.threads, results)


if __name__ == "__main__":
    main()
