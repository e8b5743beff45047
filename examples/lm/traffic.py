"""The figure of workers that seldom talk: validation loss against what was sent for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from lm.figure import COLOURS


def save_traffic(runs: Sequence[Any], path: Path) -> None:
    """Draw loss over bytes and loss over steps. Runs have a method, bytes, steps and losses."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", sharey=True)
    for index, run in enumerate(runs):
        style = {"color": COLOURS[index % len(COLOURS)], "marker": "o", "ms": 3, "lw": 1.6}
        megabytes = [n / 1e6 for n in run.sent_bytes]
        panels[0].plot(megabytes, run.validation_loss, label=run.method, **style)
        panels[1].plot(run.steps, run.validation_loss, label=run.method, **style)
    panels[0].set_xscale("log")
    panels[0].set(
        title="Loss against communication",
        xlabel="megabytes that a worker has sent",
        ylabel="validation loss, nats per byte",
    )
    panels[1].set(title="Loss against steps", xlabel="steps of every worker")
    panels[1].legend(frameon=False)
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
