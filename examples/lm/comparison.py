"""Train the same model with several optimizers and compare what they reach and what they keep."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor
from torch.optim import Optimizer

from gradtx.schedules import warmup_cosine_decay
from lm.data import Corpus, batches
from lm.model import GPT, GPTConfig
from lm.report import results, summary
from lm.threads import free_cores
from lm.training import Run, train

try:
    from lm.figure import save_tradeoff
    from lm.progress import progress
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

Make = Callable[[GPT], Optimizer]
Weights = dict[str, Tensor]


def parser(doc: str | None, optimizers: Iterable[str], out: str) -> argparse.ArgumentParser:
    """The options that all comparisons have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, names = made.add_argument, list(optimizers)
    add("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help=str(names))
    add("--steps", type=int, default=500, help="steps of each run")
    add("--batch-size", type=int, default=16, help="sequences in a batch")
    add("--context", type=int, default=64, help="bytes in a sequence")
    add("--layers", type=int, default=4, help="transformer blocks")
    add("--heads", type=int, default=4, help="attention heads")
    add("--width", type=int, default=160, help="channels of the residual stream")
    add("--seed", type=int, default=0, help="seed of the weights and the batches")
    add("--threads", type=int, default=free_cores(), help="CPU threads")
    add("--out", type=Path, default=Path(out), help="folder of the results")
    return made


def new_model(args: argparse.Namespace) -> GPT:
    """The model with its first weights."""
    return GPT(GPTConfig(layers=args.layers, heads=args.heads, width=args.width), seed=args.seed)


def train_on(
    corpus: Corpus,
    name: str,
    model: GPT,
    make: Make,
    args: argparse.Namespace,
    steps: int,
    before_step: Callable[[int], object] = lambda step: None,
) -> Run:
    """Train a model with warm-up and cosine decay."""
    shape = {"size": args.batch_size, "context": args.context}
    run = train(
        name,
        model,
        make(model),
        warmup_cosine_decay(0.1, 1.0, max(1, steps // 10), max(2, steps), 0.1),
        progress(batches(corpus.train, steps, seed=args.seed, **shape), name),
        batches(corpus.validation, 8, seed=args.seed, **shape),
        validate_every=max(1, steps // 10),
        before_step=before_step,
    )
    first, last = run.validation_loss[0], run.validation_loss[-1]
    print(f"{name}: validation loss {first:.3f} -> {last:.3f}", flush=True)
    return run


def compare(
    args: argparse.Namespace,
    optimizers: Mapping[str, Make],
    corpus: Corpus,
    start: Weights | None = None,
) -> list[Run]:
    """Train once per optimizer, print the table, write ``results.json`` and ``tradeoff.png``."""
    args.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for name in args.optimizers:
        model = new_model(args)
        if start is not None:
            model.load_state_dict(start)
        runs.append(train_on(corpus, name, model, optimizers[name], args, args.steps))
    print(f"\n{summary(runs)}\n")
    (args.out / "results.json").write_text(json.dumps(results(vars(args), runs), indent=1) + "\n")
    save_tradeoff(runs, args.out / "tradeoff.png")
    print(f"wrote {args.out / 'results.json'} and {args.out / 'tradeoff.png'}")
    return runs
