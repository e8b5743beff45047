"""Train a small GPT with workers that seldom talk: LoRDO, DiLoCo and others against low-rank DDP.

Every worker has batches of its own; all methods see the same ones and start from the same weights.
Counted is what one worker gives to collectives. Run it alone, with simulated workers, or with one
process for each: ``torchrun --nproc-per-node 2 examples/distributed/local_steps.py``; both give the
same table. The defaults take about two minutes on two free cores. Needs the extras
``pip install 'gradtx[examples]'``.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from lm.threads import free_cores

# isort: split

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import functional_call

import gradtx as gx
from gradtx.distributed import LocalSteps, Simulation, Worker
from gradtx.schedules import warmup_cosine_decay
from lm.data import Batch, batches, standard_library
from lm.model import GPT, GPTConfig, next_byte_loss
from lm.table import format_table

try:
    from lm.progress import progress
    from lm.traffic import save_traffic
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}: run pip install 'gradtx[examples]' first") from None

gd = gx.distributed
Weights = dict[str, Tensor]


@dataclass
class Run:
    """What a method reached, and what it sent for that."""

    method: str
    steps: list[int] = field(default_factory=list)
    sent_bytes: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: float = 0.0


def low_rank_ddp(lr: gx.Hyper, rank: int) -> LocalSteps:
    """LDAdam with the mean gradient at every step: updates wait for those of the others."""
    step = gx.ldadamw(lr, rank=rank, matricize=True)
    return LocalSteps(
        gx.chain(gx.clip_by_global_norm(1.0), gd.hold_updates()), (gd.exchange_held(step),)
    )


def methods(args: argparse.Namespace) -> dict[str, Callable[[], LocalSteps]]:
    """Every method by name, each with a learning rate that suits it."""
    every, rank = args.every, args.rank
    meet = gx.sgd(1.0, args.outer_momentum, nesterov=args.outer_momentum > 0)

    def rate(peak: float) -> gx.schedules.Schedule:
        return warmup_cosine_decay(0.1 * peak, peak, args.steps // 10, args.steps, 0.0)

    def inner(peak: float) -> gx.GradientTransformation:
        return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(rate(peak), b2=0.95))

    return {
        "low-rank DDP": lambda: low_rank_ddp(rate(args.lr_ddp), rank),
        "LoRDO": lambda: gd.lordo(
            rate(args.lr_lordo), rank, b2=0.99, omega=args.omega, every=every, outer=meet
        ),
        "DES-LOC": lambda: gd.desloc(rate(args.lr_adam), b2=0.95, every=every),
        "DiLoCo": lambda: gd.diloco(inner(args.lr_adam), every=every),
        "SparseLoCo": lambda: gd.sparse_loco(inner(args.lr_adam), every=every),
    }


class Alone:
    """All workers in this process."""

    def __init__(self, model: GPT, method: LocalSteps, workers: int) -> None:
        self.model, self.own = model, range(workers)
        self.workers = Simulation(method, dict(model.named_parameters()), workers)

    @property
    def sent_bytes(self) -> int:
        return self.workers.sent_bytes

    @property
    def params(self) -> Weights:
        return self.workers.params[0]

    def step(self, given: Sequence[Batch]) -> None:
        pairs = zip(self.workers.params, given, strict=True)
        self.workers.step([gradients(self.model, params, batch) for params, batch in pairs])


class Together:
    """One worker in this process, the others elsewhere."""

    def __init__(self, model: GPT, method: LocalSteps, workers: int) -> None:
        self.model, self.own = model, [dist.get_rank()]
        self.worker = Worker(model, method, timeout=60)

    @property
    def sent_bytes(self) -> int:
        return self.worker.sent_bytes

    @property
    def params(self) -> Weights:
        return self.worker.params

    def step(self, given: Sequence[Batch]) -> None:
        (batch,) = given
        self.worker.zero_grad()
        next_byte_loss(self.model(batch[0]), batch[1]).backward()
        self.worker.step()


def gradients(model: GPT, params: Weights, batch: Batch) -> Weights:
    """The gradient of the loss at other weights than the model's own."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss = next_byte_loss(functional_call(model, leaves, (batch[0],)), batch[1])
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@torch.no_grad()
def evaluate(model: GPT, params: Weights, data: list[Batch]) -> float:
    """Mean validation loss in nats per byte."""
    losses = [next_byte_loss(functional_call(model, params, (x,)), y) for x, y in data]
    return torch.stack(losses).mean().item()


def train(name: str, method: LocalSteps, args: argparse.Namespace, say: bool) -> Run:
    """Train with one method; validation happens after meetings, where all workers are equal."""
    corpus, shape = standard_library(), {"size": args.batch_size, "context": args.context}
    model = GPT(GPTConfig(layers=args.layers, heads=args.heads, width=args.width), seed=args.seed)
    workers = dist.get_world_size() if dist.is_initialized() else args.workers
    team = (Together if dist.is_initialized() else Alone)(model, method, workers)
    data = [batches(corpus.train, args.steps, seed=args.seed + m, **shape) for m in team.own]
    held_out = batches(corpus.validation, 16, seed=args.seed, **shape)
    steps: Sequence[tuple[Batch, ...]] = list(zip(*data, strict=True))
    run, started = Run(name), perf_counter()
    given: Iterator[tuple[Batch, ...]] = progress(steps, name) if say else iter(steps)
    for number, batch in enumerate(given, 1):
        team.step(batch)
        if number % args.every == 0:
            run.steps.append(number)
            run.sent_bytes.append(team.sent_bytes)
            run.validation_loss.append(evaluate(model, team.params, held_out))
    run.seconds = perf_counter() - started
    if say:
        print(
            f"{name}: {run.sent_bytes[-1] / 1e6:.2f} MB sent, "
            f"validation loss {run.validation_loss[-1]:.4f}, {run.seconds:.1f} s",
            flush=True,
        )
    return run


def table(runs: Sequence[Run]) -> str:
    """What every method sent and reached, against the first one."""
    first = runs[0]
    rows = [
        (
            run.method,
            f"{run.sent_bytes[-1] / 1e6:.2f}",
            f"{run.sent_bytes[-1] / first.sent_bytes[-1]:.4f}",
            f"{run.validation_loss[-1]:.4f}",
            f"{100 * (run.validation_loss[-1] / first.validation_loss[-1] - 1):+.2f} %",
        )
        for run in runs
    ]
    header = ("method", "MB sent", f"of {first.method}'s", "validation loss", "against it")
    return format_table(header, rows)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--methods", nargs="+", default=None, metavar="NAME", help="some of them; default all")
    add("--workers", type=int, default=2, help="simulated workers; torchrun gives processes")
    add("--steps", type=int, default=320, help="steps of every worker")
    add("--every", type=int, default=32, help="steps between meetings")
    add("--rank", type=int, default=64, help="of the subspaces")
    add("--lr-ddp", type=float, default=4e-3, help="peak learning rate of low-rank DDP")
    add("--lr-lordo", type=float, default=4e-3, help="peak learning rate of LoRDO")
    add("--omega", type=float, default=0.95, help="weight of LoRDO's moments against the gradient")
    add("--outer-momentum", type=float, default=0.0, help="Nesterov momentum of LoRDO's meetings")
    add("--lr-adam", type=float, default=3e-3, help="peak learning rate of inner AdamW")
    add("--batch-size", type=int, default=8, help="sequences in a worker's batch")
    add("--context", type=int, default=64, help="bytes in a sequence")
    add("--layers", type=int, default=1, help="transformer blocks")
    add("--heads", type=int, default=4, help="attention heads")
    add("--width", type=int, default=128, help="channels of the residual stream")
    add("--seed", type=int, default=0, help="seed of the weights and the batches")
    add("--threads", type=int, default=None, help="CPU threads; default what is free")
    add("--out", type=Path, default=Path("out/local_steps"), help="folder of the results")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``results.json``, ``table.txt`` and ``traffic.png``."""
    args = parse_arguments(argv)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    torch.set_num_threads(args.threads or (1 if several else free_cores()))
    if several:
        dist.init_process_group("gloo")
    say = not several or dist.get_rank() == 0
    known = methods(args)
    unknown = set(args.methods or ()) - set(known)
    if unknown:
        raise SystemExit(f"unknown methods {sorted(unknown)}; there are {', '.join(known)}")
    runs = [train(name, known[name](), args, say) for name in args.methods or known]
    if say:
        args.out.mkdir(parents=True, exist_ok=True)
        print(f"\n{table(runs)}\n")
        (args.out / "table.txt").write_text(table(runs) + "\n")
        settings = {**vars(args), "out": args.out.name}
        found = {"settings": settings, "runs": [asdict(run) for run in runs]}
        (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        save_traffic(runs, args.out / "traffic.png")
        print(f"wrote table.txt, results.json and traffic.png to {args.out}")
    if several:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
