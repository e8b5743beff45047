"""What sparse training costs: AC/DC's steps, a prune event, block-Fisher OBS.

Steps are ratios to torch's fused AdamW, all candidates interleaved, medians within repetitions;
ours without masks is there to compare with. Events are medians of wall times. Of OBS the
multiply-adds of its formulas (m^2 d to prepare, m d for the diagonal, 2 m d for the correction) at
half the rate of float64 matrix products, measured in between, are beside the time that it took.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from peers import set_threads
from step_time import SETS, parameters, seconds, step_of
from torch import Tensor

import gradtx as gx

ROWS, COLUMNS, BLOCK, GRADIENTS = 1024, 1024, 64, 64
AC_DC = {
    "AdamW": None,
    "AC/DC around AdamW, sparse phase": gx.sparsity.phases(("sparse", 10**6)),
    "AC/DC around AdamW, dense phase": gx.sparsity.phases(("dense", 10**6), ("sparse", 1)),
}


def steps(repetitions: int) -> dict[str, dict[str, float]]:
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
        seconds(step)
        seconds(step)
    times: dict[str, list[float]] = {name: [] for name in ("torch", *candidates)}
    for _ in range(repetitions):
        times["torch"].append(seconds(adamw))
        for name, step in candidates.items():
            times[name].append(seconds(step))
    found = {}
    for name in candidates:
        pairs = list(zip(times[name], times["torch"], times["AdamW"], strict=True))
        found[name] = {
            "milliseconds": 1e3 * statistics.median(times[name]),
            "fused AdamW, milliseconds": 1e3 * statistics.median(times["torch"]),
            "ratio": statistics.median(a / b for a, b, _ in pairs),
            "ratio to ours": statistics.median(a / c for a, _, c in pairs),
            "ratio of the fastest": min(times[name]) / min(times["torch"]),
        }
        row = found[name]
        print(
            f"{name:<36}{row['ratio']:6.2f} of torch's fused AdamW (fastest steps "
            f"{row['ratio of the fastest']:.2f}), {row['ratio to ours']:.2f} of ours  "
            f"{row['milliseconds']:7.1f} ms, torch {row['fused AdamW, milliseconds']:.1f} ms",
            flush=True,
        )
    return found


def prune(repetitions: int) -> dict[str, dict[str, float]]:
    """A prune event of AC/DC over 23M parameters, global magnitude."""
    params = {str(i): p.detach() for i, p in enumerate(parameters(SETS["gpt-23M"]))}
    found = {}
    for count in ("reference", "exact"):
        support = gx.sparsity.magnitude_support(0.9, count=count)
        tx = gx.acdc(gx.sgd(0.1), gx.sparsity.phases(("sparse", 9)), support)
        state = tx.init(params)
        times = [seconds(partial(tx.begin, params, state)) for _ in range(repetitions)]
        found[f"prune, {count}"] = {"seconds": statistics.median(times), "best": min(times)}
        print(
            f"prune event, count={count!r:<12} {statistics.median(times):.2f} s "
            f"(best {min(times):.2f} s)",
            flush=True,
        )
    return found


def obs(repetitions: int) -> dict[str, dict[str, float]]:
    """One-shot OBS of one layer."""
    generator = torch.Generator().manual_seed(0)
    params = {"w": torch.randn(ROWS, COLUMNS, generator=generator)}
    masks = {"w": torch.ones(ROWS, COLUMNS, dtype=torch.bool)}
    size = ROWS * COLUMNS
    gradients = 1e-2 * torch.randn(GRADIENTS, size, generator=generator)
    event = gx.sparsity.obs_prune(0.5, damping=1e-5, block=BLOCK)
    square: Tensor = torch.randn(1024, 1024, generator=generator, dtype=torch.float64)
    square @ square
    products, times = [], []
    for _ in range(repetitions):
        products += [seconds(lambda: square @ square) for _ in range(5)]
        times.append(seconds(lambda: event(params, masks, gradients)))
    rate = 1024**3 / statistics.median(products)  # multiply-adds a second
    work = GRADIENTS**2 * size + 3 * GRADIENTS * size
    took, allowed = statistics.median(times), work / (rate / 2)
    print(
        f"OBS of {ROWS} x {COLUMNS}, block {BLOCK}, {GRADIENTS} gradients: {took:.2f} s (best "
        f"{min(times):.2f} s); {work / 1e9:.2f}e9 multiply-adds at half of {rate / 1e9:.1f}e9 a "
        f"second: {allowed:.2f} s",
        flush=True,
    )
    return {"obs": {"seconds": took, "best": min(times), "allowed": allowed, "rate": rate}}


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
    path = args.out / f"sparsity_cpu_{args.threads}_threads.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in args.only:
        fewer = args.repetitions if name == "steps" else max(args.repetitions // 3, 1)
        results |= parts[name](fewer)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "gradtx": gx.__version__,
        "threads": args.threads,
        "results": results,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
