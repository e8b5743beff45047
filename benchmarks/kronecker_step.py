"""Step time of SOAP, KL-SOAP and DASH beside what is published, in one process.

    python benchmarks/kronecker_step.py --width 512 --layers 6

Every candidate alternates with the others on copies of the same parameters; what is printed are
medians, over whole periods of the refreshes, and ratios of them. pytorch_optimizer and HeavyBall
are measured where they can be imported. Distributed Shampoo cannot be installed from a registry: a
loop over blocks, each with its own coupled Newton iterations as that package has them, stands in
for it, and is called so.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
from step_time import gpt_shapes
from torch import Tensor

import gradtx as gx

Step = Callable[[], object]
DASH: dict[str, dict[str, Any]] = {
    "gradtx DASH": {},
    "gradtx DASH, halves": {"halves": True},
    "gradtx DASH, bfloat16 products": {"matmul_dtype": torch.bfloat16},
    "gradtx DASH, bfloat16, halves": {"matmul_dtype": torch.bfloat16, "halves": True},
}


def parameters(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Random parameters that have gradients."""
    generator = torch.Generator().manual_seed(0)
    params = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02)
        p.grad = torch.randn(shape, generator=generator)
        params.append(p)
    return params


class LoopShampoo:
    """Shampoo block by block, with Adam grafting: what a package without stacks does."""

    def __init__(self, params: list[Tensor], block: int, steps: int = 10) -> None:
        self.params, self.steps, self.count = params, steps, 0
        plan = gx.blocks(block, view="matrix")
        self.plans = [plan.plan(p.shape) for p in params]
        self.states = [
            [
                [self._state(b) for b in stack]
                for stack in (plan.gather(p.detach()) if p.squeeze().ndim > 1 else ())
            ]
            for p, plan in zip(params, self.plans, strict=True)
        ]

    def _state(self, b: Tensor) -> dict[str, Tensor]:
        rows, columns = b.shape
        return {
            "L": torch.zeros(rows, rows),
            "R": torch.zeros(columns, columns),
            "m": torch.zeros_like(b),
            "v": torch.zeros_like(b),
        }

    def _root(self, a: Tensor) -> Tensor:
        """Coupled Newton iterations for the inverse fourth root, one matrix."""
        eye = torch.eye(len(a))
        r = a + 1e-10 * eye
        z = 5 / (2 * torch.linalg.matrix_norm(r))
        x, m = z**0.25 * eye, z * r
        for _ in range(self.steps):
            if (m - eye).abs().max().item() < 1e-6:
                break
            w = 1.25 * eye - 0.25 * m
            x, m = x @ w, torch.linalg.matrix_power(w, 4) @ m
        return x

    def step(self) -> None:
        """One step of all matrices."""
        self.count += 1
        with torch.no_grad():
            for p, plan, stacks in zip(self.params, self.plans, self.states, strict=True):
                if not stacks:
                    continue
                out = []
                for grads, states in zip(plan.gather(p.grad), stacks, strict=True):
                    out.append(torch.stack(list(map(self._block, grads, states))))
                p.sub_(plan.scatter(out), alpha=1e-3)

    def _block(self, g: Tensor, s: dict[str, Tensor]) -> Tensor:
        s["L"].lerp_(g @ g.T, 0.05)
        s["R"].lerp_(g.T @ g, 0.05)
        s["v"].mul_(0.95).addcmul_(g, g, value=0.05)
        s["m"].lerp_(g, 0.1)
        size = (s["m"] / (s["v"].sqrt() + 1e-8)).norm()
        u = self._root(s["L"]) @ s["m"] @ self._root(s["R"])
        return u * (size / (u.norm() + 1e-16))


def candidates(shapes: list[tuple[int, ...]], args: argparse.Namespace) -> dict[str, Step]:
    """Steps by name."""
    found: dict[str, Step] = {}
    most, every = args.max_dim, args.every

    def add(name: str, make: Callable[[list[Tensor]], torch.optim.Optimizer | LoopShampoo]) -> None:
        if not args.only or any(part in name for part in args.only.split(",")):
            params = parameters(shapes)
            found[name] = step_with(make(params).step, params)

    add(
        "gradtx SOAP",
        lambda ps: gx.optim.SOAP(ps, precondition_frequency=every, max_precond_dim=most),
    )
    add(
        "gradtx SOAP, bfloat16 products",
        lambda ps: gx.optim.SOAP(
            ps,
            precondition_frequency=every,
            max_precond_dim=most,
            matmul_dtype=torch.bfloat16,
        ),
    )
    add(
        "gradtx KL-SOAP",
        lambda ps: gx.optim.KLSOAP(ps, precondition_frequency=every, max_precond_dim=most),
    )
    for name, options in DASH.items():
        newton = gx.inverse_roots.coupled_newton(10, **options)
        add(
            name,
            lambda ps, newton=newton: gx.optim.DASH(
                ps, block_size=args.block, inv_root_freq=1, inv_root_method=newton
            ),
        )
    add("loop over blocks", lambda ps: LoopShampoo(ps, args.block))
    peer = _module("pytorch_optimizer")
    if peer is not None:
        add(
            "pytorch_optimizer SOAP",
            lambda ps: peer.SOAP(ps, precondition_frequency=every, max_precondition_dim=most),
        )
    ball = _module("heavyball")
    if ball is not None:
        add(
            "HeavyBall SOAP",
            lambda ps: ball.SOAP(ps, precondition_frequency=every, max_precond_dim=most),
        )
    return found


def step_with(step: Step, params: list[Tensor]) -> Step:
    """A step whose parameters have their gradients, of which some optimizers let go."""
    grads = [p.grad for p in params]

    def run() -> None:
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        step()

    return run


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def measure(steps: dict[str, Step], periods: int, every: int) -> dict[str, float]:
    """Median over periods of the mean seconds of a step of a period, candidates alternating."""
    for step in steps.values():
        for _ in range(2):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(periods):
        spent = dict.fromkeys(steps, 0.0)
        for _ in range(every):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                spent[name] += time.perf_counter() - start
        for name, seconds in spent.items():
            times[name].append(seconds / every)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--max-dim", type=int, default=2048)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--periods", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="parts of names, with commas between")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shapes = gpt_shapes(args.width, args.layers, args.vocabulary)
    count = sum(torch.Size(shape).numel() for shape in shapes)
    print(f"{count / 1e6:.1f}M parameters, refresh every {args.every}, {args.threads} threads")
    found = measure(candidates(shapes, args), args.periods, args.every)
    for name, seconds in found.items():
        print(f"{name:<32}{1e3 * seconds:>10.1f} ms")
    peers = [found[name] for name in found if name.endswith("SOAP") and "gradtx" not in name]
    ours, loop = found.get("gradtx SOAP"), found.get("loop over blocks")
    ratios = {}
    for name, seconds in found.items():
        if name.startswith("gradtx SOAP") and peers:
            ratios[f"{name} against the faster peer"] = seconds / min(peers)
        if name.startswith("gradtx DASH") and loop:
            ratios[f"{name} against the loop over blocks"] = seconds / loop
        if name == "gradtx KL-SOAP" and ours:
            ratios[f"{name} against gradtx SOAP"] = seconds / ours
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "threads")}
    results = {"seconds": found, "ratios": ratios}
    record.write(args.out, "kronecker_step", args.threads, results, settings=settings)


if __name__ == "__main__":
    main()
