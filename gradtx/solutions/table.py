"""The measures of several solutions side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """The measures of several solutions.

    Attributes:
        values: measure -> solution -> one number a seed.

    >>> import gradtx as gx
    >>> found = gx.solutions.Report({"zeros": {"sgd": (0.1, 0.2), "prox": (0.5, 0.7)}})
    >>> print(found)
    measure              sgd            prox
    zeros    0.15 [0.1, 0.2]  0.6 [0.5, 0.7]
    >>> found.order("zeros"), found.separated("zeros", "sgd", "prox")
    (['sgd', 'prox'], True)
    """

    values: Mapping[str, Mapping[str, tuple[float, ...]]]

    def order(self, measure: str) -> list[str]:
        """The solutions by their mean over seeds, the smallest first."""
        found = self.values[measure]
        return sorted(found, key=lambda name: statistics.fmean(found[name]))

    def separated(self, measure: str, low: str, high: str) -> bool:
        """Whether all seeds of one solution are below all of another."""
        found = self.values[measure]
        return max(found[low]) < min(found[high])

    def __str__(self) -> str:
        """One row a measure, one column a solution: the mean, and the range over seeds."""
        names = list(dict.fromkeys(name for found in self.values.values() for name in found))
        lines = [("measure", *names)]
        for measure, found in self.values.items():
            lines.append((measure, *(_cell(found.get(name, ())) for name in names)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.fmean(values):.3g}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.3g}, {max(values):.3g}]"
