"""A bar chart of a result file of ``step_time.py``: measured ratios beside the floors by bytes.

python benchmarks/chart.py benchmarks/results/step_time_cpu_2_threads.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def save_chart(record: dict, path: Path) -> None:
    """One panel per parameter set, without torch's own loops, which would dwarf the rest."""
    sets = record["sets"]
    figure, panels = plt.subplots(
        1, len(sets), figsize=(5 * len(sets), 4.2), squeeze=False, sharey=True, layout="constrained"
    )
    for axes, (name, rows) in zip(panels[0], sets.items(), strict=True):
        names = [n for n in rows if not n.startswith("torch")]
        where = range(len(names))
        axes.barh(where, [rows[n]["ratio"] for n in names], color="#0072b2", label="measured")
        floors = [rows[n]["floor"] for n in names]
        axes.scatter(
            floors, where, marker="|", s=220, color="#d55e00", zorder=3, label="bytes moved"
        )
        axes.axvline(1.0, color="0.4", linewidth=1, linestyle=":")
        axes.set_yticks(where, names)
        axes.set_xlabel("step time / torch fused AdamW")
        axes.set_title(f"{name}, {record['threads']} threads")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="upper right", frameon=True, framealpha=1.0)
    figure.savefig(path, dpi=130)
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
