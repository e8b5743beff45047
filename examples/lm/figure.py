"""The figures: loss curves beside the memory of the state, and one against the other."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from lm.training import Run

# Okabe-Ito: distinguishable with colour-vision deficiency.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RADIUS = 8  # pixels around a point that no label may cover
LABEL_PLACES = (  # offset in points and alignment, the best first
    *((0, 9, "center", "bottom"), (0, -9, "center", "top")),
    *((9, 0, "left", "center"), (-9, 0, "right", "center")),
    *((9, 9, "left", "bottom"), (-9, 9, "right", "bottom")),
    *((9, -9, "left", "top"), (-9, -9, "right", "top")),
    *((0, side * far, "center", "center") for far in range(30, 120, 15) for side in (1, -1)),
)
LINE_STYLES = ("-", "--", ":", "-.")


def smoothed(values: list[float], radius: int) -> list[float]:
    """The mean over a window centred on each value, narrower at the start, where losses plunge."""
    averages = []
    for index in range(len(values)):
        reach = min(radius, index)
        window = values[index - reach : index + reach + 1]
        averages.append(sum(window) / len(window))
    return averages


def plot_losses(axes: Axes, runs: list[Run]) -> None:
    """Smoothed training loss as lines, validation loss as circles."""
    for index, run in enumerate(runs):
        colour = COLOURS[index % len(COLOURS)]
        # Curves may coincide: the first is drawn widest and the later ones dashed on top.
        axes.plot(
            range(1, len(run.train_loss) + 1),
            smoothed(run.train_loss, radius=len(run.train_loss) // 100),
            color=colour,
            linestyle=LINE_STYLES[index % len(LINE_STYLES)],
            linewidth=max(1.6, 3.2 - 0.8 * index),
            label=run.optimizer,
        )
        axes.plot(
            run.validation_step,
            run.validation_loss,
            "o",
            markersize=max(3, 7 - 2 * index),
            markerfacecolor="white",
            markeredgecolor=colour,
            zorder=3,
        )
    axes.set(
        title="Training loss (lines) and validation loss (circles)",
        xlabel="step",
        ylabel="loss, nats per byte",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)


def plot_state_sizes(axes: Axes, runs: list[Run]) -> None:
    """One horizontal bar per optimizer, in the order of the legend."""
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(runs))]
    bars = axes.barh(
        range(len(runs)), [run.bytes_per_parameter for run in runs], height=0.55, color=colours
    )
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set_yticks(range(len(runs)), [run.optimizer for run in runs])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set(title="Optimizer state", xlabel="bytes per parameter")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def save_figure(runs: list[Run], path: Path) -> None:
    """Draw both panels and write them to ``path``."""
    figure, (losses, sizes) = plt.subplots(
        1, 2, figsize=(11, 4.4), width_ratios=(5, 3), layout="constrained"
    )
    plot_losses(losses, runs)
    plot_state_sizes(sizes, runs)
    for axes in (losses, sizes):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_tradeoff(axes: Axes, runs: list[Run]) -> None:
    """Validation loss at the end against bytes of state, one point per optimizer."""
    points = [(run.bytes_per_parameter, run.validation_loss[-1]) for run in runs]
    for index, point in enumerate(points):
        axes.plot(*point, "o", markersize=9, color=COLOURS[index % len(COLOURS)])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.margins(x=0.25, y=0.2)
    axes.set(
        title="Less memory, what loss?",
        xlabel="state, bytes per parameter",
        ylabel="final validation loss, nats per byte",
    )
    axes.grid(alpha=0.25)


def label_points(axes: Axes, runs: list[Run]) -> None:
    """Write names beside the points of ``plot_tradeoff``, where they cover nothing."""
    axes.figure.canvas.draw()  # places are known now
    points = [(run.bytes_per_parameter, run.validation_loss[-1]) for run in runs]
    taken = [
        Bbox.from_bounds(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS)
        for x, y in axes.transData.transform(points)
    ]
    for run, point in zip(runs, points, strict=True):
        for x, y, horizontal, vertical in LABEL_PLACES:
            label = axes.annotate(
                run.optimizer,
                point,
                xytext=(x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
            )
            label.set_in_layout(False)
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            label.remove()
        else:
            axes.add_artist(label)
        taken.append(box)


def save_tradeoff(runs: list[Run], path: Path) -> None:
    """Draw the curves beside loss against memory and write them to ``path``."""
    figure, (losses, tradeoff) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    plot_losses(losses, runs)
    plot_tradeoff(tradeoff, runs)
    for axes in (losses, tradeoff):
        axes.spines[["top", "right"]].set_visible(False)
    label_points(tradeoff, runs)
    figure.savefig(path, dpi=150)
    plt.close(figure)
