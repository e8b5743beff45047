"""M-FAC's step against its window and density, as a ratio to torch's fused AdamW.

Repetitions of both are interleaved; printed are the median of the ratios, the median times, the
bytes of state a parameter, and for small damping the error of the direction against float64.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from step_time import SETS, parameters

import gradtx as gx

REPETITIONS = 5
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


def compare(label: str, shapes: Any, make: Callable[..., torch.optim.Optimizer]) -> None:
    ours = make(parameters(shapes))
    theirs = torch.optim.AdamW(parameters(shapes), fused=True)
    pairs = [(timed(ours.step), timed(theirs.step)) for _ in range(REPETITIONS + 1)][1:]
    ratio = statistics.median(a / b for a, b in pairs)
    mine, other = (1e3 * statistics.median(x) for x in zip(*pairs, strict=True))
    size = bytes_a_parameter(ours)
    print(f"{label:<34}{ratio:6.2f}  {mine:7.1f} ms, AdamW {other:6.1f} ms  {size:6.1f} B")


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
    for window in (8, 32):
        error = direction_error(window, 4000)
        print(f"error of the direction, damping {DAMPING:g}, window {window}: {error:.1e}")
    shapes = SETS["gpt-23M"]
    for window, density in SPARSE:
        compare(
            f"sparse M-FAC, m {window}, density {density:g}",
            shapes,
            lambda ps, m=window, d=density: gx.optim.SparseMFAC(
                ps, lr=1e-3, window=m, density=d, damping=1e-3
            ),
        )
    small = SETS["400x256"]
    for window in (8, 16):
        compare(
            f"dense M-FAC, m {window}, 400 x 256",
            small,
            lambda ps, m=window: gx.optim.MFAC(ps, lr=1e-3, window=m, damping=1e-3),
        )


if __name__ == "__main__":
    main()
