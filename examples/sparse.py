"""Sparse training on handwritten digits: alternate, prune gradually, or prune by second order.

A small convolutional network learns scikit-learn's 8 x 8 digits with AdamW, always for the same
number of epochs: dense; with AC/DC at two sparsities; pruned gradually by magnitude; pruned by OBS,
at once and gradually; with iterative OBS. Every method may try the same number of settings, a
learning rate and one number of its own, on a seed that is not reported; the one with the best
accuracy on a validation set is trained with three seeds, and the test set is looked at once for
each. Prints one table, means with the lowest and the highest, and writes it with the numbers and
one picture. Seeds overlap, so the table ranks nothing that lies close together.
``python examples/sparse.py --help`` lists the options; the defaults take about five minutes on one
core. Needs the extras ``pip install 'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gradtx as gx
from lm.table import format_table

try:
    import matplotlib
    from sklearn.datasets import load_digits

    from lm.progress import progress
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

matplotlib.use("Agg")

import matplotlib.pyplot as plt

Params = dict[str, Tensor]
# sparsity, parameters, masks, the task, the method's own number -> parameters, masks
Event = Callable[[float, Params, Params, "Task", float], tuple[Params, Params]]
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#E69F00", "#CC79A7", "#D55E00", "#009E73")
FIRST = 0.2  # of all epochs, after which sparsity begins
LAST = 0.6  # of all epochs, from which on it is the final one
TRIAL_SEED = 100  # of the runs that choose settings


@dataclass(frozen=True)
class Task:
    """The digits, split the same way for all, and a network for them."""

    inputs: Tensor  # (n, 1, 8, 8)
    labels: Tensor  # (n,)
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    model: nn.Module

    def loss(self, params: Params, inputs: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy in nats."""
        outputs = functional_call(self.model, params, (inputs,))
        return nn.functional.cross_entropy(outputs, labels)

    def accuracy(self, params: Params, part: tuple[Tensor, Tensor] | None = None) -> float:
        """Per cent of the validation set, or of another part."""
        inputs, labels = part or self.validation
        with torch.no_grad():
            outputs = functional_call(self.model, params, (inputs,))
        return 100 * (outputs.argmax(1) == labels).float().mean().item()

    def gradients(self, params: Params, count: int = 128) -> Params:
        """Gradients of single examples, (count, *shape) of every leaf."""
        each = vmap(grad(lambda p, x, y: self.loss(p, x[None], y[None])), in_dims=(None, 0, 0))
        return each(params, self.inputs[:count], self.labels[:count])


def digits() -> Task:
    """Three fifths of the images for training, a quarter for the test, the rest to validate."""
    data = load_digits()
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(data.target), generator=generator)
    images = torch.as_tensor(data.images, dtype=torch.float32)[order, None] / 16 - 0.3
    labels = torch.as_tensor(data.target, dtype=torch.int64)[order]
    first, second = len(labels) * 3 // 5, len(labels) * 3 // 4
    validation = images[first:second], labels[first:second]
    test = images[second:], labels[second:]
    return Task(images[:first], labels[:first], validation, test, network())


def network() -> nn.Sequential:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def by_magnitude(
    sparsity: float, params: Params, masks: Params, task: Task, own: float
) -> tuple[Params, Params]:
    """Drop the smallest weights."""
    prune = gx.sparsity.obs_prune(sparsity, score="magnitude", update="none")
    new = prune(params, masks)
    return new.params, new.masks


def by_obs(
    sparsity: float, params: Params, masks: Params, task: Task, own: float
) -> tuple[Params, Params]:
    """Drop what a quadratic model with some damping misses least, and correct the others."""
    prune = gx.sparsity.obs_prune(sparsity, damping=own, block=128)
    new = prune(params, masks, task.gradients(params))
    return new.params, new.masks


def by_iterative_obs(
    sparsity: float, params: Params, masks: Params, task: Task, own: float
) -> tuple[Params, Params]:
    """Three Newton steps of some length on the best support; what was dropped may come back."""
    names = [name for name, mask in masks.items() if mask is not None]
    size = sum(params[name].numel() for name in names)
    tx = gx.sparsity.iobs(round(size * (1 - sparsity)), damping=0.1, lr=own)
    for _ in range(3):
        each = task.gradients(params)
        fisher = torch.cat([each[name].flatten(1) for name in names], dim=1)  # (m, size)
        grads = grad(task.loss)(params, task.inputs, task.labels)
        chosen = {name: params[name] for name in names}
        updates, _ = tx.update(
            {name: grads[name] for name in names}, tx.init(chosen), chosen, fisher=fisher
        )
        params = params | gx.apply_updates(chosen, updates)
    return params, masks | {name: params[name] != 0 for name in names}


def ramp(final: float, epoch: int, epochs: int, last: float = LAST) -> float | None:
    """The sparsity after an epoch of a gradual method; None where nothing is pruned."""
    first, end = round(FIRST * epochs), round(last * epochs)
    inside = first < epoch <= end
    return gx.sparsity.cubic_sparsity(0.0, final, epoch, first, end) if inside else None


def phases(epochs: int, steps: int, turn: float = 0.1) -> gx.sparsity.PhaseSchedule:
    """Dense and sparse in turns of a share of the epochs, then sparse."""
    length = max(round(turn * epochs), 1)
    lengths = [("dense", round(FIRST * epochs))]
    while sum(n for _, n in lengths) + 2 * length <= round(LAST * epochs):
        lengths += [("sparse", length), ("dense", length)]
    lengths.append(("sparse", epochs - sum(n for _, n in lengths)))
    return gx.sparsity.phases(*((kind, n * steps) for kind, n in lengths))


@dataclass(frozen=True)
class Method:
    """How a network becomes sparse: in phases of its optimizer, or at events between epochs.

    Attributes:
        name: what it is called.
        own: what its own number is, and the values that it may try.
        sparsity: share of zeros at the end.
        when: "never", in "phases", at "once" or "gradually".
        event: what happens then.
    """

    name: str
    own: tuple[str, tuple[float, float]]
    sparsity: float = 0.0
    when: str = "never"
    event: Event = by_magnitude

    def target(self, epoch: int, epochs: int, own: float) -> float | None:
        """The sparsity after an epoch; None where nothing is pruned."""
        if self.when == "gradually":
            last = own if self.event is by_magnitude else LAST
            return ramp(self.sparsity, epoch, epochs, last)
        return self.sparsity if self.when == "once" and epoch == round(LAST * epochs) else None


_TURN = ("turn, of all epochs", (0.05, 0.1))
_DAMPING = ("damping", (1e-4, 1e-2))
METHODS = [
    Method("dense", ("weight decay", (1e-2, 1e-1))),
    Method("AC/DC, 90 %", _TURN, 0.9, "phases"),
    Method("AC/DC, 95 %", _TURN, 0.95, "phases"),
    Method("magnitude, gradual, 90 %", ("end of pruning", (0.6, 0.8)), 0.9, "gradually"),
    Method("OBS, at once, 90 %", _DAMPING, 0.9, "once", by_obs),
    Method("OBS, gradual, 90 %", _DAMPING, 0.9, "gradually", by_obs),
    Method("iterative OBS, 90 %", ("step", (0.1, 0.3)), 0.9, "gradually", by_iterative_obs),
]


@dataclass
class Run:
    """What one seed of a method shows.

    Attributes:
        method, seed: which.
        rate, own: the settings.
        accuracy: per cent of the validation set after every epoch.
        sparsity: per cent of the prunable weights after every epoch.
        pruned: accuracy on the validation set right after every event.
        test: per cent of the test set at the end.
    """

    method: str
    seed: int
    rate: float
    own: float
    accuracy: list[float] = field(default_factory=list)
    sparsity: list[float] = field(default_factory=list)
    pruned: list[float] = field(default_factory=list)
    test: float = float("nan")


def transform_of(method: Method, run: Run, epochs: int, steps: int) -> gx.GradientTransformation:
    """AdamW with a falling learning rate, and what keeps weights at zero."""
    rate = gx.schedules.cosine_decay(run.rate, epochs * steps)
    adamw = gx.adamw(rate, weight_decay=run.own if method.when == "never" else 1e-2)
    if method.when == "phases":
        return gx.acdc(adamw, phases(epochs, steps, run.own), method.sparsity)
    return gx.chain(adamw, gx.keep_params_sparse())


def train(method: Method, task: Task, run: Run, args: argparse.Namespace) -> Params:
    """Train one network, note what it shows, and return its parameters."""
    torch.manual_seed(run.seed)
    params = {name: p.detach().clone() for name, p in network().named_parameters()}
    steps = len(task.labels) // args.batch_size
    tx = transform_of(method, run, args.epochs, steps)
    state = tx.init(params)
    generator = torch.Generator().manual_seed(run.seed)
    gradient = grad(task.loss)
    for epoch in progress(range(1, args.epochs + 1), f"{method.name}, seed {run.seed}"):
        order = torch.randperm(len(task.labels), generator=generator)
        for batch in order[: steps * args.batch_size].split(args.batch_size):
            seen = tx.project(params, state) if isinstance(tx, gx.sparsity.Acdc) else params
            grads = gradient(seen, task.inputs[batch], task.labels[batch])
            updates, state = tx.update(grads, state, params)
            params = gx.apply_updates(params, updates)
        if (sparsity := method.target(epoch, args.epochs, run.own)) is not None:
            masks = gx.sparsity.masks_of(state, params)
            params, masks = method.event(sparsity, params, masks, task, run.own)
            state = gx.sparsity.replace_masks(state, masks)
            run.pruned.append(task.accuracy(params))
        weights = torch.cat([p.flatten() for p in params.values() if p.ndim > 1])
        run.accuracy.append(task.accuracy(params))
        run.sparsity.append(100 * (weights == 0).float().mean().item())
    return params


def chosen(method: Method, task: Task, args: argparse.Namespace) -> tuple[list[Run], Run]:
    """All trials of a method, and the first of those that are best on the validation set."""
    trials = []
    for rate, own in product(args.rates, method.own[1]):
        run = Run(method.name, TRIAL_SEED, rate, own)
        train(method, task, run, args)
        trials.append(run)
    return trials, max(trials, key=lambda run: run.accuracy[-1])


def spread(values: list[float]) -> str:
    """The mean, the lowest and the highest."""
    return f"{mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]" if values else "-"


def table(runs: list[Run]) -> str:
    """One row a method."""
    names = {method.name: method.own[0] for method in METHODS}
    rows = []
    for name in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == name]
        rows.append(
            [
                name,
                f"{mean(run.sparsity[-1] for run in own):.2f}",
                spread([run.test for run in own]),
                spread([run.accuracy[-1] for run in own]),
                spread([run.pruned[-1] for run in own if run.pruned]),
                f"lr {own[0].rate:g}, {names[name]} {own[0].own:g}",
            ]
        )
    parts = ("test accuracy, %", "on validation, %", "after pruning, %", "settings")
    return format_table(["method", "zeros, %", *parts], rows)


def save_picture(runs: list[Run], path: Path) -> None:
    """Accuracy and sparsity over epochs: means as lines, all seeds as bands."""
    figure, both = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for colour, name in zip(COLOURS, dict.fromkeys(run.method for run in runs), strict=False):
        own = [run for run in runs if run.method == name]
        for axes, of in zip(both, ("accuracy", "sparsity"), strict=True):
            values = torch.tensor([getattr(run, of) for run in own], dtype=torch.float64)
            epochs = range(1, values.shape[1] + 1)
            axes.plot(epochs, values.mean(0), color=colour, label=name)
            axes.fill_between(epochs, values.amin(0), values.amax(0), color=colour, alpha=0.15)
    both[0].set(title="Accuracy on the validation set", xlabel="epoch", ylabel="per cent")
    last = min(min(run.accuracy[len(run.accuracy) // 3 :]) for run in runs)
    both[0].set_ylim(bottom=max(last - 1, 80 if last > 80 else 0), top=100)
    both[1].set(title="Zeros among the prunable weights", xlabel="epoch", ylabel="per cent")
    both[1].legend(frameon=False, fontsize=8)
    for axes in both:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``results.json``, ``table.txt`` and ``epochs.png``."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = options.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=30)
    add(
        "--rates", type=float, nargs="+", default=[3e-3, 1e-2], help="learning rates to choose from"
    )
    add("--batch-size", type=int, default=64)
    add("--out", type=Path, default=Path("out/sparse"), help="folder of the results")
    args = options.parse_args(argv)
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    args.out.mkdir(parents=True, exist_ok=True)
    task = digits()
    runs: list[Run] = []
    trials: list[Run] = []
    for method in METHODS:
        tried, best = chosen(method, task, args)
        trials += tried
        for seed in args.seeds:
            run = Run(method.name, seed, best.rate, best.own)
            params = train(method, task, run, args)
            run.test = task.accuracy(params, task.test)
            runs.append(run)
        print(f"{method.name}: {spread([r.test for r in runs[-len(args.seeds) :]])} %")
    print(f"\n{gx.sparsity.report(params)}\n\n{table(runs)}")
    dense, sparse = (mean(r.test for r in runs if r.method == m.name) for m in METHODS[:2])
    print(f"\nAC/DC at 90 % loses {dense - sparse:.2f} points of test accuracy against dense")
    (args.out / "table.txt").write_text(table(runs) + "\n")
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    last = [{**asdict(t), "accuracy": t.accuracy[-1:], "sparsity": t.sparsity[-1:]} for t in trials]
    found = {"settings": settings, "trials": last, "runs": [asdict(run) for run in runs]}
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    save_picture(runs, args.out / "epochs.png")
    print(f"\nwrote results.json, table.txt and epochs.png in {args.out}")


if __name__ == "__main__":
    main()
