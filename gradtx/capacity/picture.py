"""Effective bits against stored bits, with the bound that no code can pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .table import Row

_MARKERS = {"format": "o", "codec": "s", "compressor": "^", "function": "D"}
_COLOURS = {"format": "#0072B2", "codec": "#D55E00", "compressor": "#009E73", "function": "#CC79A7"}
_APART = 0.13  # bits between two labels
_MOST = 10.0  # bits that are shown: identities have more


def save_picture(rows: Sequence[Row], path: str | Path) -> None:
    """Draw the rows of ``table`` as points under the rate-distortion bound.

    Args:
        rows: those with at most 10 bits are shown.
        path: of a PNG, PDF or SVG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    >>> import tempfile, gradtx as gx
    >>> row = gx.capacity.Row("four bits", "format", 4.0, 0.01, 0.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gx.capacity.save_picture([row], folder + "/bits.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.bits <= _MOST and math.isfinite(row.effective_bits)]
    figure = Figure(figsize=(11.5, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    most = max([1.0, *(row.bits for row in shown)])
    axes.plot([0, most], [0, most], color="black", linewidth=1, label="rate-distortion bound")
    for kind, marker in _MARKERS.items():
        points = [(row.bits, row.effective_bits) for row in shown if row.kind == kind]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker, color=_COLOURS[kind], alpha=0.8, label=f"{kind}s")
    for label, place in _labels(shown):
        axes.annotate(
            label, place, xytext=(6, -1), textcoords="offset points", fontsize=7, va="center"
        )
    names = "\n".join(f"{number}  {row.name}" for number, row in enumerate(shown, start=1))
    axes.text(1.02, 1.0, names, transform=axes.transAxes, fontsize=7, va="top")
    axes.set(
        title="What compressed numbers hold",
        xlabel="bits stored a value, side data included",
        ylabel="effective bits a value",
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)


def _labels(shown: Sequence[Row]) -> list[tuple[str, tuple[float, float]]]:
    """Numbers of rows and where they stand; rows whose labels would overlap share one."""
    groups: list[list[int]] = []
    for i, row in enumerate(shown):
        for group in groups:
            first = shown[group[0]]
            apart = abs(first.effective_bits - row.effective_bits)
            if apart < _APART and abs(first.bits - row.bits) < 3 * _APART:
                group.append(i)
                break
        else:
            groups.append([i])
    labels = []
    for group in groups:
        x = max(shown[i].bits for i in group)
        y = sum(shown[i].effective_bits for i in group) / len(group)
        labels.append((", ".join(str(i + 1) for i in group), (x, y)))
    placed: list[tuple[str, tuple[float, float]]] = []
    for label, (x, y) in sorted(labels, key=lambda at: at[1][1]):
        while any(abs(x - u) < 8 * _APART and abs(y - v) < _APART for _, (u, v) in placed):
            y += 0.1 * _APART
        placed.append((label, (x, y)))
    return placed
