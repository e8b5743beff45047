"""Functional training loops as ratios to what one would write instead.

The demo's language model; medians of the ratios within interleaved repetitions in one process:

* a train step (loss, gradients, update, new parameters) compiled as one function, to the compiled
  loss and gradients with a step of ``torch.optim.AdamW(fused=True)`` after them;
* a loop of ``torch.func.grad_and_value`` and ``gx.fuse``, which overwrites parameters and state, to
  the loop with the class ``gx.optim.AdamW``, and the step of the one alone to that of the other;
* the gradient of a loss after five steps of Adam by the parameters before them, to the same loop
  written by hand, and to TorchOpt's where that is installed; time and memory at the peak.

``python benchmarks/functional.py --help`` lists the options.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from record import processor
from step_time import resident
from torch import Tensor
from torch.func import functional_call, grad_and_value
from torch.nn.attention import SDPBackend, sdpa_kernel

import gradtx as gx

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from lm.data import batches, standard_library
from lm.model import GPT, GPTConfig, next_byte_loss
from lm.table import format_table

Params = dict[str, Tensor]
Data = tuple[Tensor, Tensor]
Run = Callable[[], object]
INNER = 5  # steps that are differentiated
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8


class Setup:
    """The model, its loss as a function, and one batch."""

    def __init__(self, layers: int, width: int, attention: SDPBackend) -> None:
        self.attention = attention
        config = GPTConfig(layers=layers, width=width)
        self.model = GPT(config)
        self.data: Data = batches(standard_library().train, 1, size=16, context=64, seed=0)[0]

    def params(self) -> Params:
        """Fresh copies of the parameters."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def loss(self, params: Params, data: Data) -> Tensor:
        """The loss of a batch."""
        with sdpa_kernel(self.attention):
            return next_byte_loss(functional_call(self.model, params, (data[0],)), data[1])


def compiled_steps(setup: Setup) -> dict[str, Run]:
    """One compiled function, and compiled gradients with a torch optimizer."""
    tx = gx.adamw(LR, *BETAS, EPS, weight_decay=0.01)

    @torch.compile(fullgraph=True)
    def step(params: Params, state: Any, data: Data) -> tuple[Params, Any, Tensor]:
        grads, loss = grad_and_value(setup.loss)(params, data)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, loss

    params = setup.params()
    now = [params, tx.init(params)]

    def ours() -> None:
        now[0], now[1], _ = step(now[0], now[1], setup.data)

    leaves = setup.params()
    optimizer = torch.optim.AdamW(leaves.values(), LR, BETAS, EPS, weight_decay=0.01, fused=True)
    derive = torch.compile(grad_and_value(setup.loss), fullgraph=True)

    def theirs() -> None:
        grads, _ = derive(leaves, setup.data)
        for name, p in leaves.items():
            p.grad = grads[name]
        optimizer.step()

    return {"torch.optim.AdamW(fused=True) after compiled gradients": theirs, "compiled step": ours}


def fused_loops(setup: Setup) -> dict[str, Run]:
    """``gx.fuse`` in a loop of torch.func, and the class in an ordinary loop."""
    tx = gx.adamw(LR, *BETAS, EPS, weight_decay=0.01)
    step, params = gx.fuse(tx), setup.params()
    now = [params, tx.init(params)]
    derive = grad_and_value(setup.loss)

    def ours() -> None:
        grads, _ = derive(now[0], setup.data)
        now[:] = step(now[0], grads, now[1])

    leaves = setup.params()
    optimizer = gx.optim.AdamW(leaves.values(), LR, BETAS, EPS, weight_decay=0.01)

    def theirs() -> None:
        grads, _ = derive(leaves, setup.data)
        for name, p in leaves.items():
            p.grad = grads[name]
        optimizer.step()

    return {"loop with gx.optim.AdamW": theirs, "loop with gx.fuse": ours}


def fused_steps(setup: Setup) -> dict[str, Run]:
    """The steps of both loops alone, on gradients that are there."""
    tx = gx.adamw(LR, *BETAS, EPS, weight_decay=0.01)
    step, params = gx.fuse(tx), setup.params()
    now = [params, tx.init(params)]
    grads, _ = grad_and_value(setup.loss)(params, setup.data)

    def ours() -> None:
        now[:] = step(now[0], grads, now[1])

    leaves = setup.params()
    for name, p in leaves.items():
        p.grad = grads[name].clone()
    optimizer = gx.optim.AdamW(leaves.values(), LR, BETAS, EPS, weight_decay=0.01)
    return {"step of gx.optim.AdamW": optimizer.step, "step of gx.fuse": ours}


def unrolled(setup: Setup) -> dict[str, Run]:
    """The gradient through steps of Adam by the initial parameters."""
    tx = gx.adam(LR, *BETAS, EPS)
    start = {name: p.requires_grad_() for name, p in setup.params().items()}

    def slopes(params: Params) -> tuple[Tensor, ...]:
        loss = setup.loss(params, setup.data)
        return torch.autograd.grad(loss, list(params.values()), create_graph=True)

    def outer(params: Params) -> None:
        torch.autograd.grad(setup.loss(params, setup.data), list(start.values()))

    def ours() -> None:
        params, state = start, tx.init(start)
        for _ in range(INNER):
            grads = dict(zip(params, slopes(params), strict=True))
            updates, state = tx.update(grads, state, params)
            params = gx.apply_updates(params, updates)
        outer(params)

    def by_hand() -> None:
        params = start
        mus = nus = [torch.zeros_like(p) for p in start.values()]
        b1, b2 = BETAS
        for t in range(1, INNER + 1):
            grads = slopes(params)
            mus = [b1 * m + (1 - b1) * g for m, g in zip(mus, grads, strict=True)]
            nus = [b2 * v + (1 - b2) * g * g for v, g in zip(nus, grads, strict=True)]
            new = {}
            for (name, p), m, v in zip(params.items(), mus, nus, strict=True):
                root = (v / (1 - b2**t) + 1e-16).sqrt()  # else its derivative is infinite
                new[name] = p - LR * (m / (1 - b1**t)) / (root + EPS)
            params = new
        outer(params)

    found: dict[str, Run] = {"by hand": by_hand, "gx.adam": ours}
    try:
        import torchopt
    except ModuleNotFoundError:
        return found
    theirs = torchopt.adam(LR, BETAS, EPS, eps_root=1e-16)

    def peer() -> None:
        params, state = start, theirs.init(start)
        for _ in range(INNER):
            grads = dict(zip(params, slopes(params), strict=True))
            updates, state = theirs.update(grads, state, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        outer(params)

    return found | {"torchopt.adam": peer}


PARTS: dict[str, Callable[[Setup], dict[str, Run]]] = {
    "compiled": compiled_steps,
    "fused loop": fused_loops,
    "fused step": fused_steps,
    "meta-gradient": unrolled,
}
CLOCKS = {"wall": perf_counter, "processor": process_time}
TWICE = ("meta-gradient",)  # differentiated twice, which the fast kernel of attention is not for


def extra_bytes(run: Run) -> int:
    """What a call needs at its peak beyond what there was before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have left
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def measure(
    runs: dict[str, Run], repetitions: int, memory: bool, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Milliseconds of each and medians of the ratios to the first."""
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    first = next(iter(times.values()))
    found = {}
    for name, seconds in times.items():
        ratio = median(s / f for s, f in zip(seconds, first, strict=True))
        found[name] = {"ratio": ratio, "milliseconds": 1e3 * median(seconds)}
    if memory:
        size = {name: median(extra_bytes(run) for _ in range(3)) for name, run in runs.items()}
        for name, entry in found.items():
            entry["bytes"] = size[name]
            entry["memory_ratio"] = size[name] / next(iter(size.values()))
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, print the ratios and write them down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: on busy machines"
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--out", type=Path, help="JSON file that the results are added to")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    results = {}
    for part in args.parts:
        memory = part in TWICE
        attention = SDPBackend.MATH if memory else SDPBackend.FLASH_ATTENTION
        setup = Setup(args.layers, args.width, attention)
        found = measure(PARTS[part](setup), args.repetitions, memory, CLOCKS[args.clock])
        results[part] = found
        rows = [
            (
                name,
                f"{entry['milliseconds']:.2f}",
                f"{entry['ratio']:.3f}",
                f"{entry['memory_ratio']:.3f}" if memory else "",
            )
            for name, entry in found.items()
        ]
        print(format_table((part, "ms", "ratio", "memory"), rows), flush=True)
    if args.out is not None:
        old = json.loads(args.out.read_text())["parts"] if args.out.exists() else {}
        about = {
            "date": date.today().isoformat(),
            "processor": processor(),
            "torch": metadata.version("torch"),
            "threads": args.threads,
            "repetitions": args.repetitions,
            "clock": args.clock,
            "layers": args.layers,
            "width": args.width,
        }
        args.out.write_text(json.dumps(about | {"parts": old | results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
