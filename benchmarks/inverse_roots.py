"""Inverse roots of stacks: time beside loops over matrices, and error, by method and size.

One loop calls ``gx.matrix_root`` for every matrix; the other, "plain", is what one writes with
torch alone: the same iterations in float32, or decomposition, of one matrix. All are run in turn;
printed are the medians of the times, the medians of the ratios, and the largest relative error
against float64 decompositions, after the best factor.

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
from gradtx.precondition.inverse_roots.chebyshev import coefficients

METHODS: dict[str, RootMethod] = {
    "evd": evd(),
    "evd, float32": evd(dtype=None),
    "coupled Newton, 10": coupled_newton(10, stop="never"),
    "coupled Newton, to 1e-6": coupled_newton(40),
    "coupled Newton, 10, halves": coupled_newton(10, stop="never", halves=True),
    "coupled Newton, 10, bf16": coupled_newton(10, stop="never", matmul_dtype=torch.bfloat16),
    "Newton-DB, 10": newton_db(10),
    "Chebyshev, 60": chebyshev(60),
}
SIZES = ((256, 32), (64, 128), (16, 256), (4, 512))
P = 4
CONDITION = 1e3


def plain(method: RootMethod, a: Tensor) -> Tensor:
    """The inverse fourth root of one matrix (n, n) by torch alone."""
    eye = torch.eye(len(a))
    if isinstance(method, evd):
        values, q = torch.linalg.eigh(a.to(method.dtype or a.dtype))
        return ((q * values ** (-1 / P)) @ q.mT).to(a.dtype)
    c = torch.linalg.matrix_norm(a)
    if isinstance(method, coupled_newton):
        z = (P + 1) / (2 * c)
        x, m = z ** (1 / P) * eye, z * a
        for _ in range(method.steps):
            if method.stop != "never" and (m - eye).abs().max() < method.tol:
                break
            w = (1 + 1 / P) * eye - m / P
            x, m = x @ w, torch.linalg.matrix_power(w, P) @ m
        return x
    if isinstance(method, newton_db):
        y = a
        for _ in range(2):
            y, z = y / c, eye
            for _ in range(method.steps):
                e = 1.5 * eye - 0.5 * z @ y
                y, z = y @ e, e @ z
            c = c.sqrt()
            y = y * c
        return z / c.sqrt()
    assert isinstance(method, chebyshev)
    numbers = coefficients(method.degree, method.resolution, float(P))
    s = 2 / c * a - eye
    after, b = torch.zeros_like(a), numbers[-1] * eye
    for number in reversed(numbers[1:-1]):
        after, b = b, 2 * s @ b - after + number * eye
    return (s @ b - after + numbers[0] * eye) * c ** (-1 / P)


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
    parser.add_argument("--only", default="", help="a size, 64x128")
    parser.add_argument("--methods", default="", help="parts of names, with commas between")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(
        f"{'stack':<10}{'method':<26}{'ms':>9}{'loop ms':>9}{'ratio':>7}"
        f"{'plain ms':>10}{'ratio':>7}{'error':>9}"
    )
    for batch, n in SIZES:
        if options.only not in ("", f"{batch}x{n}"):
            continue
        a = stack(batch, n)
        exact = gx.matrix_root(a.double(), P).root
        for name, method in METHODS.items():
            if not any(part in name for part in options.methods.split(",")):
                continue

            def together(a: Tensor = a, method: RootMethod = method) -> Tensor:
                return gx.matrix_root(a, P, method).root

            def alone(a: Tensor = a, method: RootMethod = method) -> list[Tensor]:
                return [gx.matrix_root(x, P, method).root for x in a.split(1)]

            def by_torch(a: Tensor = a, method: RootMethod = method) -> list[Tensor]:
                return [plain(method, x) for x in a]

            runs = (together, alone, by_torch)
            wrong = error(together(), exact)
            times = [tuple(map(seconds, runs)) for _ in range(options.repetitions + 1)][1:]
            ratios = (statistics.median(t[0] / t[k] for t in times) for k in (1, 2))
            mine, loop, simple = (1e3 * statistics.median(x) for x in zip(*times, strict=True))
            first, second = ratios
            print(
                f"{f'{batch}x{n}':<10}{name:<26}{mine:9.2f}{loop:9.2f}{first:7.2f}{simple:10.2f}"
                f"{second:7.2f}{wrong:9.1e}",
                flush=True,
            )
            row = {"milliseconds": mine, "loop, milliseconds": loop, "ratio": first}
            row |= {"plain loop, milliseconds": simple, "plain ratio": second, "error": wrong}
            results.setdefault(f"{batch}x{n}", {})[name] = row
    record.write(options.out, "inverse_roots", options.threads, results)


if __name__ == "__main__":
    main()
