"""The figure of adapters: loss while fine-tuning, and accuracy over rank afterwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from lm.figure import COLOURS, LINE_STYLES


def save_rank_curves(runs: Sequence[Any], before: float, label: str, path: Path) -> None:
    """Draw both panels. Runs that cannot be cut are horizontal lines in the second."""
    figure, (losses, ranks) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for index, run in enumerate(runs):
        colour = COLOURS[index % len(COLOURS)]
        losses.plot(run.validation_step, run.validation_loss, "-o", ms=4, color=colour)
        if run.at:
            ranks.plot(list(run.at), list(run.at.values()), "-o", color=colour, label=run.name)
        else:
            style = LINE_STYLES[index % len(LINE_STYLES)]
            ranks.axhline(run.full, color=colour, linestyle=style, label=run.name)
    ranks.axhline(before, color="0.5", linewidth=1, label=label)
    losses.set(title="Fine-tuning", xlabel="step", ylabel="validation loss, nats per byte")
    ranks.set_xscale("log", base=2)
    cut = sorted({k for run in runs for k in run.at})
    ranks.set_xticks(cut, [str(k) for k in cut])
    ranks.set(title="Cut to a rank", xlabel="rank", ylabel="bytes predicted right, %")
    ranks.legend(frameon=False, fontsize=8)
    for axes in (losses, ranks):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
