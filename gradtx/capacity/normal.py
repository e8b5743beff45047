"""Integrals over the standard normal distribution, in float64 numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

REACH = 9.0  # beyond it a normal number has a probability below 1e-18
_NORMAL = NormalDist()
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def density(x: float) -> float:
    """The density of the standard normal distribution; 0 at infinity."""
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def quantile(p: float) -> float:
    """The number below which a normal number is with probability ``p`` in (0, 1)."""
    return _NORMAL.inv_cdf(p)


def moments(a: float, b: float) -> tuple[float, float, float]:
    """Integrals of 1, x and x² times the density over [a, b], 0 <= a <= b <= inf."""
    # Differences of upper tails: for large a those of the distribution function cancel.
    zeroth = 0.5 * (math.erfc(a / math.sqrt(2.0)) - math.erfc(b / math.sqrt(2.0)))
    first = density(a) - density(b)
    at_b = 0.0 if math.isinf(b) else b * density(b)
    return zeroth, first, zeroth - (at_b - a * density(a))


def cell_error(a: float, b: float, level: float) -> float:
    """The integral of ``(x - level)²`` times the density over [a, b], 0 where ``b <= a``."""
    if b <= a:
        return 0.0
    zeroth, first, second = moments(a, b)
    return second - 2.0 * level * first + level * level * zeroth


def edges(levels: Sequence[float]) -> list[float]:
    """Where cells of nearest levels end: 0, the midpoints, infinity."""
    middles = [0.5 * (a + b) for a, b in itertools.pairwise(levels)]
    return [0.0, *middles, math.inf]


def quantizer_error(levels: Sequence[float], above: float = 0.0, below: float = math.inf) -> float:
    """Error of rounding |z| to the nearest level, where ``above <= |z| <= below``.

    Args:
        levels: ascending numbers >= 0; the quantizer has the same ones with a minus sign.
        above: magnitudes below it have no error here.
        below: nor have those above this one.
    """
    ends = edges(levels)
    return 2.0 * sum(
        cell_error(max(a, above), min(b, below), level)
        for a, b, level in zip(ends, ends[1:], levels, strict=False)
    )


def pruned_error(threshold: float) -> float:
    """What is lost where |z| below a threshold becomes zero."""
    return 2.0 * moments(0.0, threshold)[2]


def threshold_of(share: float) -> float:
    """The magnitude that a share in (0, 1] of normal numbers exceeds."""
    return 0.0 if share == 1.0 else quantile(1.0 - 0.5 * share)


def minimise(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum in [low, high] has it, by golden section."""
    c, d = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_c, at_d = f(c), f(d)
    while high - low > 1e-10 * (abs(low) + abs(high)):
        if at_c < at_d:
            high, d, at_d = d, c, at_c
            c = high - _GOLDEN * (high - low)
            at_c = f(c)
        else:
            low, c, at_c = c, d, at_d
            d = low + _GOLDEN * (high - low)
            at_d = f(d)
    return 0.5 * (low + high)


def integrate(f: Callable[[float], float], low: float, high: float, pieces: int = 32) -> float:
    """The integral of a smooth function, by Gauss-Legendre rules of 16 nodes on equal pieces."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    width = (high - low) / pieces
    return sum(
        0.5 * width * float(w) * f(low + width * (i + 0.5 + 0.5 * float(x)))
        for i in range(pieces)
        for x, w in zip(nodes, weights, strict=True)
    )


def magnitude_cdf(x: float) -> float:
    """The probability that |z| is below ``x >= 0``."""
    return math.erf(x / math.sqrt(2.0))
