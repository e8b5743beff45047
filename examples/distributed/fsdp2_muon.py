"""Muon on a model that ``fully_shard`` has split, saved by some processes and resumed by others.

    torchrun --nproc-per-node 2 examples/distributed/fsdp2_muon.py --save DIR
    torchrun --nproc-per-node 1 examples/distributed/fsdp2_muon.py --resume DIR
    torchrun --nproc-per-node 4 examples/distributed/fsdp2_muon.py --resume DIR

A small network predicts the next byte of this file. The first run saves half-way and goes on; the
others begin there, on as many processes as they are given, and their losses are the same.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradtx as gx

CONTEXT, WIDTH, BATCH = 8, 64, 32
TEXT = torch.tensor(list(Path(__file__).read_bytes()), dtype=torch.int64)


class Network(nn.Module):
    """Bytes that went before to logits of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 16)
        self.hidden = nn.Sequential(
            nn.Linear(16 * CONTEXT, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()
        )
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, context: Tensor) -> Tensor:
        return self.head(self.hidden(self.embedding(context).flatten(1)))


def share_of(step: int) -> tuple[Tensor, Tensor]:
    """This process's share of a step's batch, which is the same for any number of them."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, len(TEXT) - CONTEXT, (BATCH,), generator=generator)
    rows = torch.stack([TEXT[i : i + CONTEXT + 1] for i in start])
    own = rows.chunk(dist.get_world_size())[dist.get_rank()]
    return own[:, :-1], own[:, -1]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """The losses of some steps, averaged over processes."""
    losses = []
    for step in steps:
        context, following = share_of(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(context), following)
        loss.backward()
        optimizer.step()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        losses.append(mean.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", metavar="DIR", help="save half-way")
    parser.add_argument("--resume", metavar="DIR", help="begin half-way")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = fully_shard(Network(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    # Muon for the hidden matrices, AdamW for the embedding, the head and the vectors.
    groups = gx.matrix_groups(model, {"lr": 0.02}, {"lr": 0.01})
    optimizer = gx.optim.Muon(groups)
    half = args.steps // 2
    losses: dict[int, float] = {}
    if args.resume:
        state = {"model": model.state_dict()}
        checkpoint.load(state, checkpoint_id=args.resume)
        model.load_state_dict(state["model"])
        gx.optim.load_checkpoint(optimizer, args.resume)
    else:
        losses |= enumerate(train(model, optimizer, range(half)))
        if args.save:
            state = {"model": model.state_dict(), "optim": gx.optim.flat_state_dict(optimizer)}
            checkpoint.save(state, checkpoint_id=args.save)
    losses |= enumerate(train(model, optimizer, range(half, args.steps)), start=half)
    if dist.get_rank() == 0:
        begin = "resumed" if args.resume else "from the start"
        print(f"{dist.get_world_size()} processes, {begin}")
        for step in range(0, args.steps, max(1, args.steps // 8)):
            if step in losses:
                print(f"step {step:3}  loss {losses[step]:.6f}")
        if args.save:
            Path(args.save, "losses.json").write_text(json.dumps(losses))
        elif args.resume:
            before = json.loads(Path(args.resume, "losses.json").read_text())
            apart = max(abs(loss - before[str(step)]) for step, loss in losses.items())
            print(f"losses differ from the uninterrupted run's by at most {apart:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
