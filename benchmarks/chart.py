"""A bar chart of a result file of ``step_time.py``: measured ratios beside the floors by bytes.

python benchmarks/chart.py benchmarks/results/step_time_cpu_2_threads.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator


def draw(axes: Axes, rows: dict[str, Any]) -> None:
    """Bars for our chains, marks for what they must move, circles for other implementations."""
    for at, result in enumerate(rows.values()):
        measured = [p["ratio"] for p in result["peers"].values() if isinstance(p, dict)]
        axes.barh(at, result["ratio"], color="#0072b2", label="gradtx" if at == 0 else None)
        axes.plot(
            *(result["floor"], at, "|"),
            **{"markersize": 11, "markeredgewidth": 2, "color": "#e69f00", "zorder": 3},
            label="bytes moved" if at == 0 else None,
        )
        axes.plot(
            *(measured, [at] * len(measured), "o"),
            **{"markersize": 4, "markerfacecolor": "white", "color": "#d55e00", "zorder": 4},
            label="other implementations" if at == 0 else None,
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(left=0.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1.0, color="0.4", linewidth=1, linestyle=":")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel("step time / torch's fused AdamW")
    axes.spines[["top", "right"]].set_visible(False)


def save_chart(record: dict[str, Any], path: Path) -> None:
    """One panel per parameter set."""
    sets = record["sets"]
    most = max(len(rows) for rows in sets.values())
    figure, _ = plt.subplots(
        1, len(sets), figsize=(5.5 * len(sets), 1.2 + 0.27 * most), layout="constrained"
    )
    for axes, (name, rows) in zip(figure.axes, sets.items(), strict=True):
        draw(axes, rows)
        axes.set_title(f"{name}, {record['threads']} threads")
    handles = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw the chart beside its result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    for path in parser.parse_args().results:
        save_chart(json.loads(path.read_text()), path.with_suffix(".png"))
        print(f"wrote {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
