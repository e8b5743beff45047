"""The levels of the best scalar quantizer for normal numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .normal import density, edges, moments, quantile

_TOLERANCE = 1e-13
_MOST_STEPS = 200


@lru_cache(maxsize=64)
def best_levels(count: int, above: float = 0.0) -> tuple[float, ...]:
    """The positive levels: each the mean of its cell, cells end half way between levels.

    The density is log-concave, so that there is one solution. Newton's method finds it in some
    ten steps where alternating the two conditions takes ten thousand.

    Args:
        count: how many levels, >= 1.
        above: of the magnitudes above this number, >= 0.
    """
    levels = _start(count, above)
    for _ in range(_MOST_STEPS):
        residual, slope = _condition(levels, above)
        move = np.linalg.solve(slope, residual)
        factor = 1.0
        while not _ascending(levels - factor * move, above):
            factor *= 0.5
        levels = levels - factor * move
        if np.abs(move).max() < _TOLERANCE * max(1.0, above):
            break
    return tuple(map(float, levels))


def _start(count: int, above: float) -> np.ndarray:
    """Quantiles of the density to the power 1/3, to which the best levels tend for many bits."""
    width = np.sqrt(3.0)
    low = 0.5 if above == 0.0 else 1.0 - moments(above / width, np.inf)[0]
    share = low + (1.0 - low) * (np.arange(count) + 0.5) / count
    return width * np.array([quantile(float(p)) for p in share])


def _ascending(levels: np.ndarray, above: float) -> bool:
    return bool(levels[0] > above and (np.diff(levels) > 0).all())


def _condition(levels: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Level minus mean of its cell, and its derivative by the levels, which is tridiagonal."""
    ends = edges([float(x) for x in levels])
    ends[0] = above
    n = len(levels)
    residual, slope = np.zeros(n), np.eye(n)
    for j in range(n):
        a, b = ends[j], ends[j + 1]
        zeroth, first, _ = moments(a, b)
        mean = first / zeroth
        residual[j] = levels[j] - mean
        if j > 0:  # the lower end moves half as far as each of the two levels
            by_a = 0.5 * density(a) * (mean - a) / zeroth
            slope[j, j - 1] -= by_a
            slope[j, j] -= by_a
        if j < n - 1:
            by_b = 0.5 * density(b) * (b - mean) / zeroth
            slope[j, j] -= by_b
            slope[j, j + 1] -= by_b
    return residual, slope
