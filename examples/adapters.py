"""Fine-tune a small GPT with adapters that can be cut to any rank: LoRA, DyLoRA, MatryoshkaLoRA.

The model first learns Python source code. From there it continues with other text, the reference
manual of the language: by adapters of each kind, and as a whole with AdamW and MicroAdam. All runs
see the same batches. Afterwards the adapters are cut to lower ranks without further training, which
gives the share of bytes of unseen text that are predicted right at every rank. Writes the numbers,
one picture and what follows from them. ``python examples/adapters.py --help`` lists the options;
the defaults take some four minutes on two cores. Needs the extras ``pip install
'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import argparse
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

import gradtx as gx
from lm.comparison import new_model, parser, train_on
from lm.curves import save_rank_curves
from lm.data import Batch, Corpus, batches, reference_manual, standard_library
from lm.model import GPT
from lm.table import format_table

BETAS = (0.9, 0.95)
LAYERS = ("qkv", "out", "up", "down")  # last components of the names of the layers to adapt
KINDS = {
    "LoRA": {"kind": "lora"},
    "DyLoRA": {"kind": "dylora"},
    "MatryoshkaLoRA": {"kind": "matryoshka"},
    # What is trained is the sum or the mean of all nested adapters, what is used is one of them.
    "MatryoshkaLoRA, mean": {"kind": "matryoshka", "normalize": "mean"},
}
WHOLE = {
    "AdamW, all weights": lambda p: gx.optim.AdamW(p, lr=1e-3, betas=BETAS),
    "MicroAdam, all weights": lambda p: gx.optim.MicroAdam(p, lr=1e-3),
}
BEFORE = "before fine-tuning"


@dataclass
class Tuned:
    """Accuracies in percent; ``at`` maps ranks to them, where the model can be cut."""

    name: str
    trained: int = 0
    state_bytes: int = 0
    full: float = 0.0
    at: dict[int, float] = field(default_factory=dict)
    validation_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)

    def area(self, axis: str) -> float:
        """AURAC."""
        return gx.adapters.aurac(list(self.at), list(self.at.values()), axis)

    @property
    def mean(self) -> float:
        return sum(self.at.values()) / len(self.at)


@torch.no_grad()
def accuracy(model: GPT, data: list[Batch]) -> float:
    """Percent of bytes whose successor is predicted right."""
    model.eval()
    right = [(model(inputs).argmax(-1) == targets).float().mean() for inputs, targets in data]
    return 100 * torch.stack(right).mean().item()


def optimizer(model: GPT, make: partial) -> Optimizer:
    """For all parameters: those that are frozen get no state."""
    return make(model.parameters())


def tune(name: str, start: dict[str, Tensor], corpus: Corpus, args: argparse.Namespace) -> Tuned:
    """Continue from the first weights in one of the ways."""
    model = new_model(args)
    model.load_state_dict(start)
    draw, make = (lambda step: None), WHOLE.get(name)
    if name in KINDS:
        gx.adapters.wrap(model, args.rank, **KINDS[name], targets=LAYERS, seed=args.seed)
        make = partial(gx.optim.AdamW, lr=args.adapter_lr, betas=BETAS, weight_decay=0.0)
        if KINDS[name]["kind"] == "dylora":
            draw = partial(gx.adapters.draw_rank, model, seed=args.seed)
    run = train_on(corpus, name, model, partial(optimizer, make=make), args, args.steps, draw)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = Tuned(name, trained, run.state_bytes)
    found.validation_step, found.validation_loss = run.validation_step, run.validation_loss
    data = held_out(corpus, args)
    found.full = accuracy(model, data)
    if name in KINDS:
        for rank in gx.adapters.AdapterConfig(args.rank).ranks:
            gx.adapters.set_rank(model, rank)
            found.at[rank] = accuracy(model, data)
    return found


def held_out(corpus: Corpus, args: argparse.Namespace) -> list[Batch]:
    """What accuracies are measured on."""
    return batches(corpus.validation, args.batches, args.batch_size, args.context, args.seed + 1)


def table(runs: list[Tuned]) -> str:
    """One line a run."""
    ranks = sorted({rank for run in runs for rank in run.at})
    header = ("fine-tuning", "trained", "state bytes", *(f"rank {k}" for k in ranks))
    header = (*header, "all", "AURAC log2", "AURAC linear", "mean")
    rows = []
    for run in runs:
        cut = [f"{run.at[k]:.2f}" if k in run.at else "-" for k in ranks]
        areas = [run.area("log2"), run.area("linear"), run.mean] if run.at else []
        shown = [f"{x:.2f}" for x in areas] or ["-"] * 3
        rows.append(
            (run.name, f"{run.trained:,}", f"{run.state_bytes:,}", *cut, f"{run.full:.2f}", *shown)
        )
    return format_table(header, rows)


def findings(runs: list[Tuned], bytes_seen: int) -> list[str]:
    """What the table says. Differences within two standard errors of an accuracy are called so."""
    error = 100 * (0.25 / bytes_seen) ** 0.5  # of a share, at most

    def against(a: float, b: float) -> str:
        if abs(a - b) <= 2 * error:
            return "no different from"
        return "above" if a > b else "below"

    cut = sorted((run for run in runs if run.at), key=lambda run: -run.area("log2"))
    lines = [
        f"One seed; a standard error of an accuracy is at most {error:.2f}, and differences up to "
        f"{2 * error:.2f} count as none."
    ]
    if cut:
        order = ", ".join(f"{run.name} {run.area('log2'):.2f}" for run in cut)
        lines.append(f"Area under the rank-accuracy curve (log2): {order}.")
    by_name = {run.name: run for run in runs}
    best = cut[0] if cut else None
    for other in cut[1:]:
        words = [
            f"rank {k} {against(best.at[k], other.at[k])} ({best.at[k] - other.at[k]:+.2f})"
            for k in best.at
        ]
        lines.append(f"{best.name} against {other.name}: {', '.join(words)}.")
    for name in WHOLE:
        if best and name in by_name:
            full = by_name[name].full
            lines.append(
                f"{best.name} at its full rank is {against(best.full, full)} {name} "
                f"({best.full - full:+.2f})."
            )
    return lines


def main(argv: list[str] | None = None) -> None:
    """Train, fine-tune, print the table, write ``results.json`` and ``ranks.png``."""
    names = [*KINDS, *WHOLE]
    options = parser(__doc__, dict.fromkeys(names), "out/adapters")
    options.set_defaults(steps=150)
    options.add_argument("--first-steps", type=int, default=300, help="steps on source code")
    options.add_argument("--rank", type=int, default=16, help="rank of the adapters")
    options.add_argument("--adapter-lr", type=float, default=1e-2, help="their learning rate")
    options.add_argument("--batches", type=int, default=32, help="batches that accuracy is of")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    model, manual = new_model(args), reference_manual()
    first = partial(optimizer, make=partial(gx.optim.AdamW, lr=3e-3, betas=BETAS))
    train_on(standard_library(), "source code", model, first, args, args.first_steps)
    before = accuracy(model, held_out(manual, args))
    start = {name: p.clone() for name, p in model.state_dict().items()}
    runs = [tune(name, start, manual, args) for name in args.optimizers]
    print(f"\naccuracy {BEFORE}: {before:.2f}\n\n{table(runs)}\n")
    said = findings(runs, args.batches * args.batch_size * args.context)
    print("\n".join(said))
    write(args.out, runs, before, said, args)


def write(
    out: Path, runs: list[Tuned], before: float, said: list[str], args: argparse.Namespace
) -> None:
    """The numbers and the picture."""
    settings = {**vars(args), "out": str(args.out)}
    shown = [vars(run) for run in runs]
    found = {"settings": settings, "before": before, "runs": shown, "findings": said}
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "table.txt").write_text("\n".join([table(runs), "", *said]) + "\n")
    save_rank_curves(runs, before, BEFORE, out / "ranks.png")
    print(f"\nwrote results.json, table.txt and ranks.png in {out}")


if __name__ == "__main__":
    main()
