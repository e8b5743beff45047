"""Step time of gradtx chains as ratios to ``torch.optim.AdamW(fused=True)``.

One process; repetitions of a candidate and of AdamW are interleaved and the median of the ratios
within a repetition is reported, so that a noisy machine moves numerator and denominator together.
The table is gone through several times, each time in new memory, since minutes differ and so do the
places where arrays happen to lie; other libraries are measured once. Medians are also given by
setting (``settings.py``): cores that share a cache, cores that do not, one core kept busy.
``floor`` is the ratio of bytes that must move per parameter and step. ``first`` is the time of the
first step, tracing and compilation included, and ``extra`` the memory that a later step needs at
its peak, per parameter. Indented lines are other implementations of the row above, as far as they
are installed; ``rows.py`` lists them.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from peers import Peer, Step, set_threads
from record import processor
from rows import ROWS, Ours, Row
from settings import Pair, Setting, busy_core, by_setting
from torch import Tensor

import gradtx as gx

TURNS = 3  # how often the table is gone through
ADAMW_BYTES = 28  # read gradient, parameter, two moments; write parameter, two moments (float32)


@dataclass
class Result:
    """What was measured for one candidate on one parameter set; peers by name, or why not."""

    ratio: float
    floor: float
    milliseconds: float
    first_seconds: float
    extra_bytes: float
    settings: dict[str, Setting]
    peers: dict[str, Result | str] = field(default_factory=dict)


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


def step_of(ours: Ours, params: list[Tensor]) -> Step:
    """A step of a chain through ``gx.fuse``, or of a torch optimizer, on these parameters."""
    if not isinstance(ours, gx.GradientTransformation):
        return ours(params).step
    step = gx.fuse(ours)
    state = ours.init([p.detach() for p in params])
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


@dataclass
class Sample:
    """Some steps of a candidate, quiet and beside a busy process, and seconds of its first one."""

    pairs: list[Pair]
    busy: list[Pair]
    first_seconds: float
    extra_bytes: float


class Course:
    """A parameter set on which every candidate runs beside fused AdamW.

    Args:
        shapes: of the parameters.
    """

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self.params = parameters(shapes)
        self._start = [p.detach().clone() for p in self.params]
        self._grads = [p.grad.clone() for p in self.params if p.grad is not None]
        self.count = sum(p.numel() for p in self.params)

    def sample(
        self, make: Callable[[], Step], repetitions: int, settles: int = 0, busy: int = 0
    ) -> Sample:
        """Measure one candidate, all tensors in new memory. Gradients are given anew."""
        grads = [g.clone() for g in self._grads]
        for p, x, g in zip(self.params, self._start, grads, strict=True):
            p.data, p.grad = x.clone(), g
        step, reference = make(), torch.optim.AdamW(self.params, fused=True).step
        reference()
        with torch.no_grad():
            torch._foreach_copy_(self.params, self._start)

        def timed(step: Step) -> float:
            for p, g in zip(self.params, grads, strict=True):
                p.grad = g  # some steps take it away
            return seconds(step)

        first = timed(step)
        for _ in range(1 + settles):
            timed(step)
        extra = extra_bytes(step) / self.count
        pairs = [(timed(reference), timed(step)) for _ in range(repetitions)]
        beside: list[Pair] = []
        if busy:
            with busy_core():
                beside = [(timed(reference), timed(step)) for _ in range(busy)]
        return Sample(pairs, beside, first, extra)

    def peer(self, peer: Peer, bytes_moved: float, repetitions: int) -> Result | str:
        """Measure another library's optimizer, or say why that is not possible."""
        try:
            sample = self.sample(lambda: peer.step(self.params), repetitions)
            return result([sample], bytes_moved, self.count)
        except ModuleNotFoundError as error:
            return f"not installed: {error.name}"
        except Exception as error:  # other people's code, on a device it may not be made for
            return f"{type(error).__name__}: {error}".splitlines()[0][:100]

    def run(
        self, rows: list[Row], repetitions: int, busy: int, with_peers: bool
    ) -> dict[str, Result]:
        """Measure rows and print them."""
        samples: dict[str, list[Sample]] = {row.name: [] for row in rows}
        for turn in range(TURNS):
            count, beside = (len(range(turn, n, TURNS)) for n in (repetitions, busy))
            for row in rows:
                made = partial(step_of, row.ours, self.params)
                samples[row.name].append(self.sample(made, count, row.settles, beside))
                gc.collect()
        found = {}
        for row in rows:
            found[row.name] = ours = result(samples[row.name], row.bytes_moved, self.count)
            show(row.name, ours)
            for peer in row.peers if with_peers else ():
                ours.peers[peer.name] = self.peer(peer, row.bytes_moved, repetitions)
                show(f"  {peer.name}", ours.peers[peer.name])
                gc.collect()
        return found


def result(samples: list[Sample], bytes_moved: float, count: int) -> Result:
    """What all samples of a candidate say."""
    pairs = [pair for sample in samples for pair in sample.pairs]
    every = Setting.of(pairs)
    return Result(
        every.ratio,
        bytes_moved / ADAMW_BYTES,
        every.milliseconds,
        samples[0].first_seconds,
        samples[0].extra_bytes,
        by_setting(pairs, [pair for sample in samples for pair in sample.busy], count),
    )


def show(name: str, result: Result | str) -> None:
    """Print one line of the table."""
    if isinstance(result, str):
        print(f"  {name:<58}   {result}", flush=True)
        return
    print(
        f"  {name:<58}{result.ratio:>7.2f}   floor {result.floor:.2f}"
        f"{result.milliseconds:>10.2f} ms   first {result.first_seconds:.2f} s"
        f"   extra {result.extra_bytes:.1f} B",
        flush=True,
    )
    if "one core busy" in result.settings or len(result.settings) > 1:
        for setting, x in result.settings.items():
            print(
                f"    {setting:<56}{x.ratio:>7.2f}   {x.milliseconds:.1f} ms beside "
                f"{x.adamw_milliseconds:.1f} ms of AdamW ({x.samples})",
                flush=True,
            )


def versions() -> dict[str, str]:
    """Versions of the installed peers."""
    out = {}
    for package in sorted({peer.package for row in ROWS for peer in row.peers}):
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return out


def main() -> None:
    """Measure, print a table, write JSON."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--busy", type=int, default=3, help="repetitions beside a busy process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--no-peers", action="store_true", help="our implementations only")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    set_threads(args.threads)
    results: dict[str, dict[str, Result]] = {}
    for name in args.sets:
        print(f"\n{name}, {args.threads} threads: ratio to torch.optim.AdamW(fused=True)")
        rows = [row for row in ROWS if row.name in args.only]
        rows = [row for row in rows if name == "gpt-23M" or not row.matrices]
        results[name] = Course(SETS[name]).run(rows, args.repetitions, args.busy, not args.no_peers)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "device": "cpu",
        "processor": processor(),
        "torch": torch.__version__,
        "gradtx": gx.__version__,
        "peers": versions(),
        "threads": args.threads,
        "sets": {k: {n: asdict(r) for n, r in v.items()} for k, v in results.items()},
    }
    path = args.out / f"step_time_cpu_{args.threads}_threads.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
