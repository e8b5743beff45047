"""Step time of gradtx chains on a CUDA device as ratios to ``torch.optim.AdamW(fused=True)``.

One process; every candidate alternates with fused AdamW on the same parameters and the median of
the ratios is reported, beside the bandwidth that the bytes a chain must move then amount to.
``capture`` is the ratio when both steps are replayed as CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from peers import Step
from rows import ROWS
from step_time import ADAMW_BYTES, gpt_shapes, step_of
from torch import Tensor

import gradtx as gx

SETS = {
    "gpt-124M": gpt_shapes(768, 12, 50257),
    "gpt-1B": gpt_shapes(2048, 18, 50257),
    "400x256": [(256,)] * 400,
}


@dataclass
class Result:
    """What was measured for one candidate on one parameter set."""

    ratio: float
    floor: float
    capture: float
    milliseconds: float
    terabytes_per_second: float
    first_seconds: float
    extra_bytes: float


def parameters(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Random parameters that have gradients."""
    torch.manual_seed(0)
    params = [torch.randn(s, device="cuda").requires_grad_() for s in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def seconds(step: Step) -> float:
    """Time of one step, until the device has finished it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def captured(step: Step) -> Step:
    """The step as a CUDA graph; it has run before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def extra_bytes(step: Step) -> int:
    """What one step allocates at its peak beyond what there was before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def ratios(base: Step, step: Step, repetitions: int) -> tuple[float, float]:
    """Medians: of the ratio to the base, and of the step's seconds."""
    pairs = [(seconds(base), seconds(step)) for _ in range(repetitions)]
    ratio = statistics.median(ours / theirs for theirs, ours in pairs)
    return ratio, statistics.median(ours for _, ours in pairs)


def measure(shapes: list[tuple[int, ...]], repetitions: int, names: list[str]) -> dict[str, Result]:
    """All candidates on one parameter set."""
    params = parameters(shapes)
    count = sum(p.numel() for p in params)
    reference: Step = torch.optim.AdamW(params, fused=True, capturable=True).step
    reference()
    replayed = captured(reference)
    results = {}
    for row in ROWS:
        if row.name not in names:
            continue
        step = step_of(row.ours, params)
        first = seconds(step)
        extra = extra_bytes(step) / count
        ratio, median = ratios(reference, step, repetitions)
        capture, _ = ratios(replayed, captured(step), repetitions)
        results[row.name] = Result(
            ratio,
            row.bytes_moved / ADAMW_BYTES,
            capture,
            1e3 * median,
            count * row.bytes_moved / median / 1e12,
            first,
            extra,
        )
        del step
        torch.cuda.empty_cache()
    return results


def main() -> None:
    """Measure, print a table, write JSON."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    device = torch.cuda.get_device_name()
    results = {}
    for name in args.sets:
        results[name] = measure(SETS[name], args.repetitions, args.only)
        print(f"\n{name}, {device}: ratio to torch.optim.AdamW(fused=True)")
        for candidate, r in results[name].items():
            print(
                f"  {candidate:<22}{r.ratio:>7.2f}   floor {r.floor:.2f}   capture {r.capture:.2f}"
                f"{r.milliseconds:>10.3f} ms{r.terabytes_per_second:>7.2f} TB/s"
                f"   first {r.first_seconds:.2f} s   extra {r.extra_bytes:.1f} B"
            )
        torch.cuda.empty_cache()
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gradtx": gx.__version__,
        "sets": {k: {n: asdict(r) for n, r in v.items()} for k, v in results.items()},
    }
    path = args.out / f"step_time_{device.lower().replace(' ', '_')}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
