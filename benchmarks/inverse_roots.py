"""Inverse roots of stacks: time beside a loop over matrices, and error, by method and size.

Both are run in turn; printed are the medians of the times, the median of the ratios, and the
largest relative error against float64 decompositions, after the best factor.

    python benchmarks/inverse_roots.py [--threads 2] [--only 64x128] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import record
import torch
from torch import Tensor

import gradtx as gx
from gradtx.precondition.inverse_roots import RootMethod, chebyshev, coupled_newton, evd, newton_db

METHODS: dict[str, RootMethod] = {
    "evd": evd(),
    "evd, float32": evd(dtype=None),
    "coupled Newton, 10": coupled_newton(10, stop="never"),
    "coupled Newton, to 1e-6": coupled_newton(40),
    "coupled Newton, 10, bf16": coupled_newton(10, stop="never", matmul_dtype=torch.bfloat16),
    "Newton-DB, 10": newton_db(10),
    "Chebyshev, 60": chebyshev(60),
}
SIZES = ((256, 32), (64, 128), (16, 256), (4, 512))
P = 4
CONDITION = 1e3


def stack(batch: int, n: int) -> Tensor:
    """Matrices (batch, n, n) with eigenvalues from 1 to 1 / CONDITION."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(batch, n, n, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.tensor(CONDITION).log10().item(), n, dtype=torch.float64)
    return ((q * values) @ q.mT).float()


def error(got: Tensor, exact: Tensor) -> float:
    """The largest relative error, after the best factor of every matrix."""
    got = got.double()
    factor = (got * exact).sum((-2, -1), keepdim=True) / got.square().sum((-2, -1), keepdim=True)
    off = torch.linalg.matrix_norm(factor * got - exact) / torch.linalg.matrix_norm(exact)
    return float(off.max())


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'stack':<10}{'method':<26}{'ms':>9}{'loop ms':>9}{'ratio':>7}{'error':>9}")
    for batch, n in SIZES:
        if options.only not in ("", f"{batch}x{n}"):
            continue
        a = stack(batch, n)
        exact = gx.matrix_root(a.double(), P).root
        for name, method in METHODS.items():

            def together(a: Tensor = a, method: RootMethod = method) -> Tensor:
                return gx.matrix_root(a, P, method).root

            def alone(a: Tensor = a, method: RootMethod = method) -> list[Tensor]:
                return [gx.matrix_root(x, P, method).root for x in a.split(1)]

            wrong = error(together(), exact)
            alone()
            pairs = [(seconds(together), seconds(alone)) for _ in range(options.repetitions)]
            ratio = statistics.median(x / y for x, y in pairs)
            mine, loop = (1e3 * statistics.median(x) for x in zip(*pairs, strict=True))
            print(f"{f'{batch}x{n}':<10}{name:<26}{mine:9.2f}{loop:9.2f}{ratio:7.2f}{wrong:9.1e}")
            row = {"milliseconds": mine, "loop, milliseconds": loop, "ratio": ratio, "error": wrong}
            results.setdefault(f"{batch}x{n}", {})[name] = row
    record.write(options.out, "inverse_roots", options.threads, results)


if __name__ == "__main__":
    main()
