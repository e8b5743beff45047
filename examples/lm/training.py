"""Train one model with one optimizer and measure what it costs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

import optree
import torch
from torch import Tensor, nn

from lm.data import Batch
from lm.model import next_byte_loss


@dataclass
class Run:
    """Curves in nats per byte; times are medians over steps, in milliseconds."""

    optimizer: str
    train_loss: list[float] = field(default_factory=list)
    validation_step: list[int] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    model_ms: float = 0.0
    optimizer_ms: float = 0.0
    total_seconds: float = 0.0
    state_bytes: int = 0
    bytes_per_parameter: float = 0.0

    @property
    def final_train_loss(self) -> float:
        """The mean over the last tenth of the steps: single batches are noisy."""
        tail = self.train_loss[-max(1, len(self.train_loss) // 10) :]
        return sum(tail) / len(tail)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The memory of every tensor in the optimizer's state, however deeply nested."""
    leaves = optree.tree_leaves(optimizer.state_dict()["state"])
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))


@torch.no_grad()
def evaluate(model: nn.Module, batches: list[Batch]) -> float:
    """Mean loss over the batches, in evaluation mode."""
    was_training = model.training
    model.eval()
    losses = [next_byte_loss(model(inputs), targets) for inputs, targets in batches]
    model.train(was_training)
    return torch.stack(losses).mean().item()


def train(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scale: Callable[[int], float],
    train_batches: Iterable[Batch],
    validation_batches: list[Batch],
    validate_every: int,
    before_step: Callable[[int], object] = lambda step: None,
) -> Run:
    """Take one step per batch, with the learning rate multiplied by ``lr_scale(step)``."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_scale)
    run = Run(name)
    model_seconds, optimizer_seconds = [], []
    started = perf_counter()
    for step, (inputs, targets) in enumerate(train_batches):
        if step % validate_every == 0:
            run.validation_step.append(step)
            run.validation_loss.append(evaluate(model, validation_batches))
        before_step(step)
        begin = perf_counter()
        loss = next_byte_loss(model(inputs), targets)
        loss.backward()
        middle = perf_counter()
        optimizer.step()
        end = perf_counter()
        optimizer.zero_grad()
        scheduler.step()
        run.train_loss.append(loss.item())
        model_seconds.append(middle - begin)
        optimizer_seconds.append(end - middle)
    run.validation_step.append(len(run.train_loss))
    run.validation_loss.append(evaluate(model, validation_batches))
    run.total_seconds = perf_counter() - started
    run.model_ms = 1e3 * median(model_seconds)
    run.optimizer_ms = 1e3 * median(optimizer_seconds)
    run.state_bytes = state_bytes(optimizer)
    run.bytes_per_parameter = run.state_bytes / sum(p.numel() for p in model.parameters())
    return run
