"""Train a small GPT with AdamW, Muon, SOAP, KL-SOAP, DASH and sparse M-FAC.

Every optimizer gets its learning rate from the same four values, by the validation loss of short
runs. Then it trains for as many steps as the others, and once more for as long as AdamW took: for
fewer steps, with a schedule of its own that ends there. Time is that of the processors, which does
not depend on what else a machine does. All runs start from the same weights and see the same
batches. Writes the table, the numbers and one picture.
``python examples/preconditioners.py --help`` lists the options; the defaults take about four
minutes on two cores. One seed: differences of a few hundredths of a nat say nothing. Needs the
extras ``pip install 'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch.optim import Optimizer

import gradtx as gx
from lm.comparison import new_model, parser, train_on
from lm.data import Corpus, standard_library
from lm.model import GPT
from lm.report import results
from lm.table import format_table
from lm.training import Run

try:
    import matplotlib
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from lm.figure import COLOURS, LINE_STYLES

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
DECAY: dict[str, Any] = {"weight_decay": 0.1}
ADAM: dict[str, Any] = {"betas": (0.9, 0.95), **DECAY}
OTHERS: dict[str, Any] = {"lr": 3e-3, **DECAY}  # Muon's embeddings and vectors, which get AdamW


def muon(model: GPT, lr: float) -> Optimizer:
    """Muon on the weight matrices, AdamW on the rest."""
    return gx.optim.Muon(gx.matrix_groups(model, {"lr": lr, **DECAY}, OTHERS))


def soap(model: GPT, lr: float) -> Optimizer:
    """SOAP with the published defaults but for the decay."""
    return gx.optim.SOAP(model.parameters(), lr=lr, betas=(0.95, 0.95), **DECAY)


def dash(model: GPT, lr: float) -> Optimizer:
    """DASH with blocks of one size for all matrices, new roots every tenth step."""
    root = gx.inverse_roots.coupled_newton(10)
    return gx.optim.DASH(model.parameters(), lr=lr, block_size=128, inv_root_method=root, **DECAY)


def sparse_mfac(model: GPT, lr: float) -> Optimizer:
    """M-FAC over the largest tenth of the last 64 gradients."""
    options: dict[str, Any] = {"window": 64, "density": 0.1, "damping": 1e-5, "momentum": 0.9}
    return gx.optim.SparseMFAC(model.parameters(), lr=lr, **options, **DECAY)


OPTIMIZERS: dict[str, Callable[[GPT, float], Optimizer]] = {
    "AdamW": lambda model, lr: gx.optim.AdamW(model.parameters(), lr=lr, **ADAM),
    "Muon": muon,
    "SOAP": soap,
    "KL-SOAP": lambda model, lr: gx.optim.KLSOAP(model.parameters(), lr=lr, **ADAM),
    "DASH": dash,
    "sparse M-FAC": sparse_mfac,
}


@dataclass
class Race:
    """What one optimizer did.

    Attributes:
        sweep: validation loss at the end of the short run of every learning rate.
        steps: the run of as many steps as all have.
        time: the run of as long as AdamW's; AdamW's own.
        step_ms: milliseconds of a step, the model's part and validation included.
    """

    name: str
    sweep: dict[float, float]
    steps: Run
    time: Run
    step_ms: float

    @property
    def rate(self) -> float:
        """The learning rate that was chosen."""
        return min(self.sweep, key=self.sweep.__getitem__)


def race(name: str, corpus: Corpus, args: argparse.Namespace, limit: float | None) -> Race:
    """Choose a learning rate, then train for equal steps and for equal time.

    Args:
        name: of the optimizer.
        corpus: text.
        args: options.
        limit: milliseconds of the second run, None for the first one's.
    """

    def run(label: str, lr: float, steps: int) -> Run:
        def make(model: GPT) -> Optimizer:
            return OPTIMIZERS[name](model, lr)

        return train_on(corpus, f"{name}, {label}", new_model(args), make, args, steps)

    sweep = {}
    for lr in args.rates:
        loss = run(f"lr {lr:g}", lr, args.sweep_steps).validation_loss[-1]
        sweep[lr] = loss if loss == loss else float("inf")
    best = min(sweep, key=sweep.__getitem__)
    started = process_time()
    whole = run("equal steps", best, args.steps)
    step_ms = 1e3 * (process_time() - started) / args.steps / args.threads
    within = args.steps if limit is None else min(args.steps, max(1, int(limit / step_ms)))
    timed = whole if within == args.steps else run("equal time", best, within)
    return Race(name, sweep, whole, timed, step_ms)


def table(races: list[Race]) -> str:
    """One line an optimizer."""
    header = (
        *("optimizer", *(f"lr {lr:g}" for lr in races[0].sweep), "chosen"),
        *("equal steps", "ms/step", "steps in equal time", "equal time", "bytes/parameter"),
    )
    rows = [
        (
            race.name,
            *(f"{loss:.3f}" for loss in race.sweep.values()),
            f"{race.rate:g}",
            f"{race.steps.validation_loss[-1]:.3f}",
            f"{race.step_ms:.1f}",
            str(len(race.time.train_loss)),
            f"{race.time.validation_loss[-1]:.3f}",
            f"{race.steps.bytes_per_parameter:.1f}",
        )
        for race in races
    ]
    return format_table(header, rows)


def save_picture(races: list[Race], path: Path) -> None:
    """Validation loss over steps, and over the time of AdamW's run."""
    figure, (steps, time) = plt.subplots(1, 2, figsize=(12, 4.8), sharey=True, layout="constrained")
    for index, race in enumerate(races):
        style = {"color": COLOURS[index % len(COLOURS)], "label": race.name, "marker": "o", "ms": 4}
        line = LINE_STYLES[index % len(LINE_STYLES)]
        steps.plot(race.steps.validation_step, race.steps.validation_loss, line, **style)
        seconds = [1e-3 * race.step_ms * step for step in race.time.validation_step]
        time.plot(seconds, race.time.validation_loss, line, **style)
    last = max(race.steps.validation_loss[1] for race in races)
    steps.set(title="Equal steps", xlabel="step", ylabel="validation loss, nats per byte")
    steps.set_ylim(top=min(last, races[0].steps.validation_loss[1] * 1.1))
    time.set(title="Equal time", xlabel="seconds of the processors")
    steps.legend(frameon=False)
    for axes in (steps, time):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``table.txt``, ``results.json`` and ``races.png``."""
    options = parser(__doc__, OPTIMIZERS, "out/preconditioners")
    options.set_defaults(layers=2, width=96, batch_size=8, steps=300)
    add = options.add_argument
    add("--rates", nargs="+", type=float, default=RATES, help="learning rates of the sweep")
    add("--sweep-steps", type=int, default=60, help="steps of each run of the sweep")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    corpus, races, limit = standard_library(), [], None
    for name in args.optimizers:
        races.append(race(name, corpus, args, limit))
        limit = limit or args.steps * races[0].step_ms
        print(f"\n{table(races)}\n", flush=True)
    settings = results(vars(args), [r.steps for r in races])
    numbers = settings | {"races": [asdict(r) | {"rate": r.rate} for r in races]}
    (args.out / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (args.out / "table.txt").write_text(table(races) + "\n")
    save_picture(races, args.out / "races.png")
    print(f"wrote {args.out / 'table.txt'}, results.json and races.png beside it")


if __name__ == "__main__":
    main()
