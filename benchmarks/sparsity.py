"""What sparse training costs: AC/DC's steps, a prune event, block-Fisher OBS.

Steps are ratios to torch's fused AdamW, all candidates interleaved, medians within repetitions;
ours without masks is there to compare with. Of OBS the multiply-adds of its formulas (m^2 d to
prepare, m d for the diagonal, 2 m d for the correction) at half the rate of float64 matrix products
are beside the time that it took. Beside wall times stands the work of all threads in seconds of a
core, which processes that run at the same time disturb less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import record
import torch
from peers import set_threads
from step_time import SETS, parameters, step_of
from torch import Tensor

import gradtx as gx

ROWS, COLUMNS, BLOCK, GRADIENTS = 1024, 1024, 64, 64
Result = dict[str, dict[str, float]]
AC_DC = {
    "AdamW": None,
    "AC/DC around AdamW, sparse phase": gx.sparsity.phases(("sparse", 10**6)),
    "AC/DC around AdamW, dense phase": gx.sparsity.phases(("dense", 10**6), ("sparse", 1)),
}


class Time(NamedTuple):
    """Seconds on the wall, and of all threads' work, which other processes disturb less."""

    wall: float
    work: float


def timed(step: Callable[[], object]) -> Time:
    """The time of one call."""
    start = time.perf_counter(), time.process_time()
    step()
    return Time(time.perf_counter() - start[0], time.process_time() - start[1])


def steps(repetitions: int) -> Result:
    """Steps of 23M parameters."""
    reference = parameters(SETS["gpt-23M"])
    adamw = torch.optim.AdamW(reference, fused=True).step
    candidates: dict[str, Callable[[], object]] = {}
    for name, schedule in AC_DC.items():
        params = [p.detach().clone().requires_grad_() for p in reference]
        for p, q in zip(params, reference, strict=True):
            p.grad = q.grad
        inner = gx.adamw(1e-3)
        tx = inner if schedule is None else gx.acdc(inner, schedule, 0.9)
        candidates[name] = step_of(tx, params)
    for step in (adamw, *candidates.values()):
        timed(step)
        timed(step)
    times: dict[str, list[Time]] = {name: [] for name in ("torch", *candidates)}
    for _ in range(repetitions):
        times["torch"].append(timed(adamw))
        for name, step in candidates.items():
            times[name].append(timed(step))
    found: Result = {}
    for name in candidates:
        pairs = list(zip(times[name], times["torch"], strict=True))
        found[name] = {
            "milliseconds": 1e3 * median(a.wall for a, _ in pairs),
            "AdamW, milliseconds": 1e3 * median(b.wall for _, b in pairs),
            "ratio": median(a.wall / b.wall for a, b in pairs),
            "ratio of work": median(a.work / b.work for a, b in pairs),
        }
        row = found[name]
        print(
            f"{name:<36}{row['ratio']:6.2f} of torch's fused AdamW, {row['ratio of work']:.2f} of "
            f"its work  {row['milliseconds']:7.1f} ms, AdamW {row['AdamW, milliseconds']:.1f} ms",
            flush=True,
        )
    return found


def prune(repetitions: int) -> Result:
    """A prune event of AC/DC over 23M parameters, global magnitude."""
    params = {str(i): p.detach() for i, p in enumerate(parameters(SETS["gpt-23M"]))}
    found: Result = {}
    for count in ("reference", "exact"):
        support = gx.sparsity.magnitude_support(0.9, count=count)
        tx = gx.acdc(gx.sgd(0.1), gx.sparsity.phases(("sparse", 9)), support)
        state = tx.init(params)
        found[f"prune, {count}"] = row = of_event(partial(tx.begin, params, state), repetitions)
        print(f"prune event, count={count!r:<12} {shown(row)}", flush=True)
    return found


def obs(repetitions: int) -> Result:
    """One-shot OBS of one layer."""
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(ROWS, COLUMNS, generator=generator)}
    masks = {"w": torch.ones(ROWS, COLUMNS, dtype=torch.bool)}
    size = ROWS * COLUMNS
    gradients = 1e-2 * torch.randn(GRADIENTS, size, generator=generator)
    event = gx.sparsity.obs_prune(0.5, damping=1e-5, block=BLOCK)
    square: Tensor = torch.randn(1024, 1024, generator=generator, dtype=torch.float64)
    product = of_event(lambda: square @ square, 5 * repetitions)
    row = of_event(lambda: event(params, masks, gradients), repetitions)
    work = GRADIENTS**2 * size + 3 * GRADIENTS * size
    for kind in ("seconds", "work"):
        rate = 1024**3 / product[kind]  # multiply-adds a second
        row[f"{kind} allowed"] = work / (rate / 2)
    print(
        f"OBS of {ROWS} x {COLUMNS}, block {BLOCK}, {GRADIENTS} gradients: {shown(row)}; "
        f"{work / 1e9:.2f}e9 multiply-adds at half the rate of float64 products: "
        f"{row['seconds allowed']:.2f} s, work {row['work allowed']:.2f} s",
        flush=True,
    )
    return {"obs": row}


def of_event(event: Callable[[], object], repetitions: int) -> dict[str, float]:
    """Medians over some calls, after a first one."""
    event()
    found = [timed(event) for _ in range(repetitions)]
    return {"seconds": median(t.wall for t in found), "work": median(t.work for t in found)}


def shown(row: dict[str, float]) -> str:
    """The times of an event."""
    return f"{row['seconds']:.2f} s, work of all threads {row['work']:.2f} s"


def main() -> None:
    """Measure, print, write JSON."""
    parts = {"steps": steps, "prune": prune, "obs": obs}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(parts), choices=list(parts))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    set_threads(args.threads)
    results: Result = {}
    for name in args.only:
        fewer = args.repetitions if name == "steps" else max(args.repetitions // 3, 1)
        results |= parts[name](fewer)
    record.write(args.out, "sparsity", args.threads, results)


if __name__ == "__main__":
    main()
