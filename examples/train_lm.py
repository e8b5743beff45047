"""Train a small GPT on the Python standard library's source with several optimizers.

Every run starts from the same weights and sees the same batches, so the curves differ by the
optimizer alone. ``python examples/train_lm.py --help`` lists the options; the defaults take
about five minutes on two cores. Needs the extras ``pip install 'gradtx[examples]'``.
"""

from lm.threads import free_cores

# isort: split

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.optim import Optimizer

import gradtx as gx
from gradtx.schedules import Schedule, warmup_cosine_decay
from lm.data import batches, standard_library
from lm.model import GPT, GPTConfig
from lm.report import results, summary
from lm.training import Run, train

try:
    from lm.figure import save_figure
    from lm.progress import progress
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

B1, B2, WEIGHT_DECAY = 0.9, 0.95, 0.1
PEAK_LR, MUON_LR = 3e-3, 2e-2  # Muon's matrices take larger steps than its embeddings and vectors
DEFAULT_OPTIMIZERS = ("torch-adamw", "gx-adamw", "composed", "factored", "muon")


def composed(schedule: Schedule) -> gx.GradientTransformation:
    """A recipe of one's own: cautious AdamW with clipping and its own schedule."""
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b1=B1, b2=B2),
        gx.cautious_mask(),
        gx.add_decayed_weights(WEIGHT_DECAY),
        gx.scale_by_schedule(schedule),
    )


def make_optimizer(
    name: str, model: GPT, lr: float, schedule: Schedule
) -> tuple[Optimizer, Callable[[int], float]]:
    """Return the named optimizer and what its learning rate is multiplied by at each step."""
    parameters = model.parameters()
    if name == "composed":
        # The schedule is part of the chain, so the learning rate outside stays constant.
        return gx.optim.from_transform(composed(schedule), parameters, lr=lr), lambda step: 1.0
    if name == "muon":
        groups = gx.matrix_groups(
            model,
            {"lr": MUON_LR / PEAK_LR * lr, "weight_decay": WEIGHT_DECAY},
            {"lr": lr, "weight_decay": WEIGHT_DECAY},
        )
        return gx.optim.Muon(groups), schedule
    if name == "torch-adamw":
        make = partial(torch.optim.AdamW, betas=(B1, B2), weight_decay=WEIGHT_DECAY, fused=True)
    elif name == "gx-adamw":
        make = partial(gx.optim.AdamW, betas=(B1, B2), weight_decay=WEIGHT_DECAY)
    elif name == "factored":
        make = partial(gx.optim.AdamAdv, betas=(B1, B2), weight_decay=WEIGHT_DECAY, factored=True)
    else:
        make = getattr(gx.optim, name.removeprefix("gx:"))
    return make(parameters, lr=lr), schedule


def optimizer_name(name: str) -> str:
    """Refuse an unknown optimizer while the command line is read, before any training."""
    found = getattr(gx.optim, name.removeprefix("gx:"), None) if name.startswith("gx:") else None
    is_class = isinstance(found, type) and issubclass(found, Optimizer)
    if name not in DEFAULT_OPTIMIZERS and not is_class:
        raise argparse.ArgumentTypeError(
            f"{name!r} is none of {', '.join(DEFAULT_OPTIMIZERS)} and gx:CLASS, "
            f"where CLASS is an optimizer of gradtx.optim, such as gx:AdamW"
        )
    return name


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--optimizers",
        nargs="+",
        type=optimizer_name,
        default=DEFAULT_OPTIMIZERS,
        metavar="NAME",
        help=f"{', '.join(DEFAULT_OPTIMIZERS)}, or gx:CLASS for any class of gradtx.optim",
    )
    add("--lr", type=float, default=PEAK_LR, help="peak learning rate")
    add("--steps", type=int, default=500, help="steps of each run")
    add("--batch-size", type=int, default=16, help="sequences in a batch")
    add("--context", type=int, default=64, help="bytes in a sequence")
    add("--layers", type=int, default=4, help="transformer blocks")
    add("--heads", type=int, default=4, help="attention heads")
    add("--width", type=int, default=160, help="channels of the residual stream")
    add("--seed", type=int, default=0, help="seed of the weights and the batches")
    add("--threads", type=int, default=free_cores(), help="CPU threads")
    add("--out", type=Path, default=Path("out/lm"), help="folder of the results")
    return parser.parse_args(argv)


def train_all(args: argparse.Namespace) -> list[Run]:
    """Train once per optimizer."""
    corpus = standard_library()
    shape = {"size": args.batch_size, "context": args.context}
    train_batches = batches(corpus.train, args.steps, seed=args.seed, **shape)
    validation_batches = batches(corpus.validation, 8, seed=args.seed, **shape)
    schedule = warmup_cosine_decay(
        init_value=0.1,
        peak_value=1.0,
        warmup_steps=args.steps // 10,
        decay_steps=args.steps,
        end_value=0.1,
    )
    config = GPTConfig(layers=args.layers, heads=args.heads, width=args.width)
    runs = []
    for name in args.optimizers:
        model = GPT(config, seed=args.seed)
        optimizer, lr_scale = make_optimizer(name, model, args.lr, schedule)
        run = train(
            name,
            model,
            optimizer,
            lr_scale,
            progress(train_batches, name),
            validation_batches,
            validate_every=max(1, args.steps // 10),
        )
        print(
            f"{name}: {args.steps} steps in {run.total_seconds:.1f} s, validation loss "
            f"{run.validation_loss[0]:.3f} -> {run.validation_loss[-1]:.3f}",
            flush=True,
        )
        runs.append(run)
    return runs


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``results.json`` and ``curves.png``."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    runs = train_all(args)
    print(f"\n{summary(runs)}\n")
    (args.out / "results.json").write_text(json.dumps(results(vars(args), runs), indent=1) + "\n")
    save_figure(runs, args.out / "curves.png")
    print(f"wrote {args.out / 'results.json'} and {args.out / 'curves.png'}")


if __name__ == "__main__":
    main()
