"""Step time of gradtx chains as ratios to ``torch.optim.AdamW(fused=True)``.

One process; repetitions of all candidates are interleaved and the median of the ratios within a
repetition is reported, so that a noisy machine moves numerator and denominator together. ``floor``
is the ratio of bytes that must move per parameter and step. ``first`` is the time of the first
step, tracing and compilation included, and ``extra`` the memory that a later step needs at its
peak, per parameter.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

import gradtx as gx

ADAMW_BYTES = 28  # read gradient, parameter, two moments; write parameter, two moments (float32)
Step = Callable[[], object]


@dataclass
class Result:
    """What was measured for one candidate on one parameter set."""

    ratio: float
    floor: float
    milliseconds: float
    first_seconds: float
    extra_bytes: float


def cautious() -> gx.GradientTransformation:
    """AdamW with the cautious mask and its rescaling."""
    return gx.chain(
        gx.scale_by_adam(),
        gx.cautious_mask(),
        gx.add_decayed_weights(1e-2),
        gx.scale_by_learning_rate(1e-3),
    )


def low_moments() -> gx.GradientTransformation:
    """AdamW with moments in bfloat16."""
    return gx.chain(
        gx.scale_by_adam(mu_dtype=torch.bfloat16, nu_dtype=torch.bfloat16),
        gx.add_decayed_weights(1e-2),
        gx.scale_by_learning_rate(1e-3),
    )


# name -> (chain, bytes per parameter and step that must move)
CHAINS: dict[str, tuple[Callable[[], gx.GradientTransformation], int]] = {
    "adamw": (lambda: gx.adamw(1e-3), 28),
    "adamw, bf16 moments": (low_moments, 20),
    "lion": (lambda: gx.lion(1e-4), 20),
    "signum": (lambda: gx.signum(1e-3), 20),
    "sgd with momentum": (lambda: gx.sgd(1e-3, 0.9), 20),
    "clip + adamw": (lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)), 32),
    "cautious adamw": (cautious, 40),
    "adabelief": (lambda: gx.adabelief(1e-3), 28),
    "nadam": (lambda: gx.nadam(1e-3), 28),
    "radam": (lambda: gx.radam(1e-3), 28),
    "adan": (lambda: gx.adan(1e-3), 44),
}
TORCH: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "torch adamw foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "torch adamw loop": lambda p: torch.optim.AdamW(p, foreach=False),
}


def gpt_shapes(width: int, layers: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Shapes of a GPT's parameters."""
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width)] + layers * [*block, (width,), (width,)]


SETS: dict[str, list[tuple[int, ...]]] = {
    "gpt-23M": gpt_shapes(512, 6, 8000),
    "gpt-124M": gpt_shapes(768, 12, 50257),
    "400x256": [(256,)] * 400,
}


def parameters(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Random parameters that have gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return params


def fused_step(tx: gx.GradientTransformation, params: list[Tensor]) -> Step:
    """A step of ``gx.fuse`` on these parameters."""
    step = gx.fuse(tx)
    state = tx.init([p.detach() for p in params])
    return lambda: step(params, [p.grad for p in params], state)


def seconds(step: Step) -> float:
    """Wall time of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def resident(what: str) -> int:
    """Memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak since the reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(what)).split()[1])


def extra_bytes(step: Step) -> int:
    """What one step needs at its peak beyond what there was before it."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def measure(shapes: list[tuple[int, ...]], repetitions: int, names: list[str]) -> dict[str, Result]:
    """All candidates on one parameter set, each beside fused AdamW on the same parameters."""
    params = parameters(shapes)
    count = sum(p.numel() for p in params)
    reference = torch.optim.AdamW(params, fused=True).step
    reference()
    results = {}
    for name in names:
        if name in CHAINS:
            make, bytes_moved = CHAINS[name]
            step = fused_step(make(), params)
        else:
            step, bytes_moved = TORCH[name](params).step, ADAMW_BYTES
        first = seconds(step)
        extra = extra_bytes(step) / count
        pairs = [(seconds(reference), seconds(step)) for _ in range(repetitions)]
        results[name] = Result(
            statistics.median(ours / base for base, ours in pairs),
            bytes_moved / ADAMW_BYTES,
            1e3 * statistics.median(ours for _, ours in pairs),
            first,
            extra,
        )
    return results


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--only", nargs="*", default=[*CHAINS, *TORCH])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    for name in args.sets:
        results[name] = measure(SETS[name], args.repetitions, args.only)
        print(f"\n{name}, {args.threads} threads: ratio to torch.optim.AdamW(fused=True)")
        for candidate, r in results[name].items():
            print(
                f"  {candidate:<22}{r.ratio:>7.2f}   floor {r.floor:.2f}"
                f"{r.milliseconds:>10.2f} ms   first {r.first_seconds:.2f} s"
                f"   extra {r.extra_bytes:.1f} B"
            )
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "device": "cpu",
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "gradtx": gx.__version__,
        "threads": args.threads,
        "sets": {k: {n: asdict(r) for n, r in v.items()} for k, v in results.items()},
    }
    path = args.out / f"step_time_cpu_{args.threads}_threads.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
