"""Train a small GPT with AdamW and with optimizers that keep less: loss against state memory.

Every run starts from the same weights and sees the same batches. Writes the numbers and one
picture. ``python examples/low_memory.py --help`` lists the options; the defaults take about five
minutes on two cores. Needs the extras ``pip install 'gradtx[examples]'``.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

import gradtx as gx
from gradtx.schedules import warmup_cosine_decay
from lm.data import batches, standard_library
from lm.model import GPT, GPTConfig
from lm.training import Run, train
from train_lm import results, summary

try:
    from tqdm import tqdm

    from lm.figure import save_tradeoff
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

Make = Callable[[Iterable[Tensor]], Optimizer]
ADAM = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda params: gx.optim.AdamW(params, **ADAM),
    "AdamW, 8-bit": lambda params: gx.optim.AdamW8bit(params, **ADAM),
    "AdamW, 4-bit": lambda params: gx.optim.AdamW4bit(params, **ADAM),
    "factored Adam": lambda params: gx.optim.AdamAdv(params, **ADAM, factored=True),
    "factored + AdEMAMix": lambda params: gx.optim.AdamAdv(
        params, **ADAM, factored=True, ademamix=True, b3=0.999, alpha=2.0, t_alpha=500
    ),
    "factored Lion": lambda params: gx.optim.LionAdv(
        params, lr=5e-4, betas=(0.9, 0.98), weight_decay=0.6
    ),
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    names = list(OPTIMIZERS)
    add("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help=str(names))
    add("--steps", type=int, default=500, help="steps of each run")
    add("--batch-size", type=int, default=16, help="sequences in a batch")
    add("--context", type=int, default=64, help="bytes in a sequence")
    add("--layers", type=int, default=4, help="transformer blocks")
    add("--heads", type=int, default=4, help="attention heads")
    add("--width", type=int, default=160, help="channels of the residual stream")
    add("--seed", type=int, default=0, help="seed of the weights and the batches")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    add("--out", type=Path, default=Path("out/low_memory"), help="folder of the results")
    return parser.parse_args(argv)


def train_all(args: argparse.Namespace) -> list[Run]:
    """Train once per optimizer."""
    corpus = standard_library()
    shape = {"size": args.batch_size, "context": args.context}
    train_batches = batches(corpus.train, args.steps, seed=args.seed, **shape)
    validation_batches = batches(corpus.validation, 8, seed=args.seed, **shape)
    schedule = warmup_cosine_decay(0.1, 1.0, args.steps // 10, args.steps, 0.1)
    config = GPTConfig(layers=args.layers, heads=args.heads, width=args.width)
    runs = []
    for name in args.optimizers:
        model = GPT(config, seed=args.seed)
        run = train(
            name,
            model,
            OPTIMIZERS[name](model.parameters()),
            schedule,
            tqdm(train_batches, desc=name, unit="step", disable=None),
            validation_batches,
            validate_every=max(1, args.steps // 10),
        )
        print(f"{name}: validation loss {run.validation_loss[-1]:.3f}", flush=True)
        runs.append(run)
    return runs


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``results.json`` and ``tradeoff.png``."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    runs = train_all(args)
    print(f"\n{summary(runs)}\n")
    (args.out / "results.json").write_text(json.dumps(results(args, runs), indent=1) + "\n")
    save_tradeoff(runs, args.out / "tradeoff.png")
    print(f"wrote {args.out / 'results.json'} and {args.out / 'tradeoff.png'}")


if __name__ == "__main__":
    main()
