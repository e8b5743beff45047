"""Fit the constants of scaling laws and capacities to measured losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .law import Capacity, ScalingLaw

_HUBER = 1e-3
_CONSTANTS = 5


def fit_capacity(points: Iterable[tuple[float, float]]) -> Capacity:
    """The constants of ``capacity`` from measured pairs, by least squares.

    Args:
        points: (effective bits, capacity) of three formats or more, both > 0 and finite.

    Returns:
        ``(ceiling, slope, power)``, to be given to ``capacity``.

    Raises:
        ValueError: fewer than three points, or numbers that are not positive and finite.

    Source: arXiv 2506.01863.

    >>> import math, gradtx as gx
    >>> points = [(b, 0.98 * math.tanh(0.6 * b**0.8)) for b in (0.5, 1.0, 2.0, 4.0)]
    >>> [round(x, 4) for x in gx.capacity.fit_capacity(points)]
    [0.98, 0.6, 0.8]
    """
    pairs = [(float(b), float(rho)) for b, rho in points]
    if len(pairs) < len(Capacity._fields):
        raise ValueError(
            f"fit_capacity: needs at least {len(Capacity._fields)} points, got {len(pairs)}"
        )
    if not all(0 < x < math.inf for pair in pairs for x in pair):
        raise ValueError("fit_capacity: points must be positive and finite numbers")
    bits, rho = _float64(pairs).unbind(1)

    def error(log: Tensor) -> Tensor:
        ceiling, slope, power = log.exp()
        return (ceiling * torch.tanh(slope * bits**power) - rho).square().sum()

    starts = itertools.product((max(p[1] for p in pairs), 1.0), (0.1, 0.3, 1.0), (0.5, 1.0, 2.0))
    best = _minimise(error, [[math.log(x) for x in start] for start in starts])
    return Capacity(*best.exp().tolist())


def fit_scaling_law(
    runs: Sequence[tuple[str, float, float, float]], baseline: str = "dense"
) -> tuple[ScalingLaw, Mapping[str, float]]:
    """The constants of ``scaling_law``, and the capacity of every format, from measured losses.

    Minimises the Huber loss (threshold 1e-3) between logarithms of losses by L-BFGS from a grid of
    starts.

    Args:
        runs: (format, parameters, data, loss) of each run; more runs than unknowns.
        baseline: the format whose capacity is 1.

    Returns:
        The constants, and the capacity of every format, the baseline's being 1.

    Raises:
        ValueError: the baseline has no runs, there are too few, or a number is not positive.

    Source: arXiv 2502.16440, arXiv 2203.15556.

    >>> import gradtx as gx
    >>> gx.capacity.fit_scaling_law([("dense", 1e6, 1e8, 3.0)])
    Traceback (most recent call last):
    ValueError: fit_scaling_law: 5 unknowns need at least 5 runs, got 1
    """
    formats = list(dict.fromkeys([baseline, *(run[0] for run in runs)]))
    unknowns = _CONSTANTS + len(formats) - 1
    if len(runs) < unknowns:
        raise ValueError(
            f"fit_scaling_law: {unknowns} unknowns need at least {unknowns} runs, got {len(runs)}"
        )
    if all(run[0] != baseline for run in runs):
        raise ValueError(f"fit_scaling_law: no run has the baseline's format {baseline!r}")
    if not all(0 < x < math.inf for run in runs for x in run[1:]):
        raise ValueError("fit_scaling_law: parameters, data and losses must be positive numbers")
    n, d, loss = _float64([run[1:] for run in runs]).log().unbind(1)
    which = torch.tensor(
        [formats.index(run[0]) for run in runs], dtype=torch.int64, device=loss.device
    )

    def error(v: Tensor) -> Tensor:
        a, b, e = v[:3]
        alpha, beta = v[3:5].exp()
        log_rho = torch.cat([torch.zeros_like(v[:1]), v[5:]])[which]
        parts = [a - alpha * (n + log_rho), b - beta * d, e.expand_as(n)]
        return torch.nn.functional.huber_loss(
            torch.logsumexp(torch.stack(parts), 0), loss, delta=_HUBER, reduction="sum"
        )

    others = [-0.1] * (len(formats) - 1)
    lowest = float(loss.min())
    starts = [
        [a, b, lowest + e, math.log(alpha), math.log(beta), *others]
        for a, b, e, alpha, beta in itertools.product(
            (3.0, 9.0), (3.0, 9.0), (-1.0,), (0.2, 0.6), (0.2, 0.6)
        )
    ]
    best = _minimise(error, starts)
    a, b, e, alpha, beta = (*best[:3].exp().tolist(), *best[3:5].exp().tolist())
    rho = [1.0, *best[5:].exp().tolist()]
    return ScalingLaw(a, alpha, b, beta, e), dict(zip(formats, rho, strict=True))


def _float64(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device=torch.device("cpu"))


def _minimise(f: Callable[[Tensor], Tensor], starts: Sequence[Sequence[float]]) -> Tensor:
    """The best end of L-BFGS from all starts."""
    ends = []
    for start in starts:
        x = _float64([start])[0].requires_grad_()
        search = torch.optim.LBFGS(
            [x], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-16, history_size=20,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure(x: Tensor = x, search: torch.optim.LBFGS = search) -> Tensor:
            search.zero_grad()
            value = f(x)
            value.backward()
            return value

        search.step(closure)
        value = float(f(x.detach()))
        if math.isfinite(value):
            ends.append((value, x.detach()))
    if not ends:
        raise ValueError("fit: no start led to finite numbers")
    return min(ends, key=lambda end: end[0])[1]
