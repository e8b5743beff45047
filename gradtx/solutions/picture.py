"""A panel for every measure, a point for every seed."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from .table import Report

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_COLUMNS = 4


def save_picture(found: Report, path: str | Path) -> None:
    """Draw a report: one small panel a measure, solutions side by side, seeds as points.

    Args:
        found: what ``report`` returns.
        path: of a PNG, PDF or SVG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    >>> import tempfile, gradtx as gx
    >>> found = gx.solutions.Report({"zeros": {"sgd": (0.1, 0.2), "prox": (0.5, 0.7)}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gx.solutions.save_picture(found, folder + "/report.png")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(1, math.ceil(len(found.values) / _COLUMNS))
    figure = Figure(figsize=(3.1 * _COLUMNS, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes, (measure, solutions) in zip(panels, found.values.items(), strict=False):
        for i, (name, values) in enumerate(solutions.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            axes.plot([i] * len(values), values, "o", color=colour, alpha=0.7, markersize=5)
            mean = statistics.fmean(values)
            axes.plot([i - 0.25, i + 0.25], [mean, mean], color=colour, linewidth=2, label=name)
        axes.set_title(measure, fontsize=9)
        axes.set_xticks(range(len(solutions)), list(solutions), rotation=30, fontsize=7, ha="right")
        axes.tick_params(axis="y", labelsize=7)
        axes.set_xlim(-0.6, len(solutions) - 0.4)
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        numbers = [v for values in solutions.values() for v in values if math.isfinite(v)]
        if numbers and min(numbers) > 0 and max(numbers) > 30 * min(numbers):
            axes.set_yscale("log")
    for axes in panels[len(found.values) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=130)
