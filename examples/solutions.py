"""What different optimizers leave behind: the same network, trained to the same loss.

A small GPT learns Python source code with SGD, AdamW, Muon, SOAP and a chain that makes weights
sparse, from three seeds each, until a validation loss is reached. Then all of them go on with other
text, the reference manual of the language, to see what of the first task they forget. Prints one
table of the solutions and what follows from it, and writes the numbers and one picture.
``python examples/solutions.py --help`` lists the options; the defaults take about five minutes on
two cores. Needs the extras ``pip install 'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer

import gradtx as gx
from lm.data import Corpus, batches, reference_manual, standard_library
from lm.model import GPT, GPTConfig, next_byte_loss
from lm.training import evaluate

try:
    from lm.progress import progress
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

Params = dict[str, Tensor]


@dataclass(frozen=True)
class shrink_weights(gx.LeafTransform):
    """Move matrices towards zero by a constant, and those that get there stay: sparse weights.

    The proximal step of an l1 penalty: w <- sign(w + u) max(|w + u| - amount, 0).
    """

    amount: gx.Hyper = gx.dynamic(1e-4, within="[0, inf)")
    requires_params: ClassVar[bool] = True

    def update_leaf(self, u: Tensor, s: Any, p: Tensor, h: Any) -> tuple[Tensor, Any]:
        if p.ndim < 2:
            return u, s
        moved = p + u
        return torch.where(moved.abs() > h.amount, moved - h.amount * moved.sign(), 0.0) - p, s


def sparse_chain() -> gx.GradientTransformation:
    """Adam, and the proximal step behind the learning rate."""
    return gx.chain(
        gx.scale_by_adam(b1=0.9, b2=0.95),
        gx.scale_by_learning_rate(3e-3),
        shrink_weights(3e-4),
    )


OPTIMIZERS: dict[str, Callable[[GPT], Optimizer]] = {
    "SGD": lambda model: gx.optim.from_transform(
        gx.chain(gx.clip_by_global_norm(1.0), gx.trace(0.9), gx.scale_by_learning_rate(0.3)),
        model.named_parameters(),
    ),
    "AdamW": lambda model: gx.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95)),
    "Muon": lambda model: gx.optim.Muon(
        gx.matrix_groups(model, {"lr": 0.02, "weight_decay": 0.01}, {"lr": 3e-3})
    ),
    "SOAP": lambda model: gx.optim.SOAP(model.parameters(), lr=3e-3, precondition_frequency=10),
    "sparse": lambda model: gx.optim.from_transform(sparse_chain(), model.named_parameters()),
}


def parameters(model: GPT) -> Params:
    """A copy of what has been learned."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train_to(
    model: GPT, optimizer: Optimizer, corpus: Corpus, name: str, seed: int, args: argparse.Namespace
) -> tuple[int, float]:
    """Train until the validation loss is reached; return the steps and that loss."""
    shape = {"size": args.batch_size, "context": args.context}
    data = batches(corpus.train, args.steps, seed=seed, **shape)
    held_out = batches(corpus.validation, 8, seed=0, **shape)
    done, loss = 0, evaluate(model, held_out)
    steps = progress(data, name)
    for done, (inputs, targets) in enumerate(steps, start=1):
        next_byte_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        if done % args.check_every == 0:
            loss = evaluate(model, held_out)
            if loss <= args.loss:
                break
    return done, loss


def second_task(model: GPT, seed: int, corpus: Corpus, args: argparse.Namespace) -> None:
    """A fixed number of steps on other text, with AdamW for all."""
    optimizer = gx.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    shape = {"size": args.batch_size, "context": args.context}
    for inputs, targets in batches(corpus.train, args.second_steps, seed=seed, **shape):
        next_byte_loss(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


QUESTIONS = {  # measure -> what the smallest and the largest value mean
    "exact zeros": ("fewest zeros", "sparser"),
    "below 0.01 of the rms": ("fewest near zero", "most near zero"),
    "stable rank": ("of lowest stable rank", "of highest stable rank"),
    "effective rank": ("of lowest effective rank", "of highest effective rank"),
    "sharpness": ("flattest (sharpness)", "sharpest"),
    "Hessian trace": ("flattest (trace)", "largest trace"),
    "activation max / median": ("smallest outliers", "largest outliers"),
    "4-bit error": ("smallest error at 4 bits", "largest error at 4 bits"),
    "loss added by 4 bits": ("lose least at 4 bits", "lose most at 4 bits"),
    "forgetting": ("forget least", "forget most"),
    "barrier between seeds": ("lowest barriers", "highest barriers"),
}


def findings(report: gx.solutions.Report) -> list[str]:
    """What the table says: the order of means, and which neighbours' seeds do not overlap."""
    lines = ["'<' where all seeds of one are below all of the next, '~' where seeds overlap:"]
    for measure, (low, high) in QUESTIONS.items():
        if measure not in report.values:
            continue
        order = report.order(measure)
        signs = [
            "<" if report.separated(measure, a, b) else "~" for a, b in itertools.pairwise(order)
        ]
        chain = " ".join(x for pair in zip(order, [*signs, ""], strict=True) for x in pair).strip()
        lines.append(f"  {low} ... {high}: {chain}")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Train, measure, print the report, write ``results.json``, ``report.txt``, ``report.png``."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add, names = options.add_argument, list(OPTIMIZERS)
    add("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help=str(names))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--loss", type=float, default=2.0, help="validation loss to reach, nats per byte")
    add("--steps", type=int, default=1500, help="most steps on the first task")
    add("--check-every", type=int, default=10, help="steps between two validations")
    add("--second-steps", type=int, default=50, help="steps on the second task")
    add("--batch-size", type=int, default=16, help="sequences in a batch")
    add("--context", type=int, default=64, help="bytes in a sequence")
    add("--layers", type=int, default=2, help="transformer blocks")
    add("--heads", type=int, default=2, help="attention heads")
    add("--width", type=int, default=64, help="channels of the residual stream")
    add("--out", type=Path, default=Path("out/solutions"), help="folder of the results")
    args = options.parse_args(argv)
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    args.out.mkdir(parents=True, exist_ok=True)
    code, manual = standard_library(), reference_manual()
    config = GPTConfig(layers=args.layers, heads=args.heads, width=args.width)
    model = GPT(config)
    shape = {"size": args.batch_size, "context": args.context}
    measured = batches(code.validation, 2, seed=1, **shape)
    inputs, targets = map(torch.cat, zip(*measured, strict=True))

    def loss_fn(params: Params) -> Tensor:
        return next_byte_loss(functional_call(model, params, (inputs,)), targets)

    starts, solutions, after = [], {}, {}
    taken: dict[str, list[int]] = {}
    for seed in args.seeds:
        starts.append(parameters(GPT(config, seed)))
    for name in args.optimizers:
        solutions[name], after[name], taken[name] = [], [], []
        for seed in args.seeds:
            net = GPT(config, seed)
            optimizer = OPTIMIZERS[name](net)
            steps, loss = train_to(net, optimizer, code, f"{name}, seed {seed}", seed, args)
            print(f"{name}, seed {seed}: {steps} steps, validation loss {loss:.3f}", flush=True)
            solutions[name].append(parameters(net))
            taken[name].append(steps)
            second_task(net, seed, manual, args)
            after[name].append(parameters(net))
    print("\nmeasuring ...\n", flush=True)
    report = gx.solutions.report(
        solutions,
        loss_fn=loss_fn,
        start=starts,
        activations=lambda p: gx.solutions.layer_inputs(model, p, inputs),
        after=after,
        picture=args.out / "report.png",
    )
    said = findings(report)
    print("\n".join(["", *said]))
    settings = {**vars(args), "out": str(args.out)}
    found = {"settings": settings, "steps": taken, "values": report.values, "findings": said}
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "report.txt").write_text("\n".join([str(report), "", *said]) + "\n")
    print(f"\nwrote results.json, report.txt and report.png in {args.out}")


if __name__ == "__main__":
    main()
