"""Steps under fully_shard as ratios to torch's multi-tensor AdamW there.

    python benchmarks/sharded_step.py [--set gpt-23M] [--ranks 2] [--repetitions 15]

Gloo processes with one thread each hold their shards of the leaves of a small GPT. Host, kernels
and messages of a step count, between two barriers; repetitions are interleaved, and
printed are medians of rank 0. Results go to benchmarks/results/sharded_step_cpu_1_threads.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from record import write
from step_time import SETS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradtx as gx

RESULTS = Path(__file__).parent / "results"
BASE = "torch AdamW, foreach"
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    BASE: lambda p: torch.optim.AdamW(p, foreach=True),
    "torch AdamW, fused": lambda p: torch.optim.AdamW(p, fused=True),
    "AdamW": gx.optim.AdamW,
    "Lion": gx.optim.Lion,
    "factored AdamAdv": lambda p: gx.optim.AdamAdv(p, factored=True),
    "clip + AdamW": lambda p: gx.optim.from_transform(
        gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)), p
    ),
    "AdamW8bit": gx.optim.AdamW8bit,
}


def sharded(shapes: Sequence[tuple[int, ...]]) -> list[nn.Parameter]:
    """Leaves of a sharded module, with gradients."""
    module = nn.Module()
    for i, shape in enumerate(shapes):
        module.register_parameter(f"p{i}", nn.Parameter(torch.randn(shape)))
    fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    params = list(module.parameters())
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def timed(step: Callable[[], Any]) -> float:
    dist.barrier()
    start = time.perf_counter()
    step()
    dist.barrier()
    return time.perf_counter() - start


def rank_main(rank: int, ranks: int, store: str, args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "DTensor random operators")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    steps = {name: make(sharded(SETS[args.set])).step for name, make in OPTIMIZERS.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    rounds = [{k: timed(step) for k, step in steps.items()} for _ in range(args.repetitions)]
    if rank == 0:
        found = {}
        for name in steps:
            ratio = statistics.median(r[name] / r[BASE] for r in rounds)
            milliseconds = 1e3 * statistics.median(r[name] for r in rounds)
            found[name] = {"ratio": round(ratio, 3), "milliseconds": round(milliseconds, 2)}
            print(f"{name:<22}{ratio:6.2f}  {milliseconds:8.2f} ms", flush=True)
        write(RESULTS, "sharded_step", 1, {args.set: found}, ranks=ranks)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="gpt-23M", choices=sorted(SETS))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_main, (args.ranks, f"{folder}/store", args), nprocs=args.ranks)


if __name__ == "__main__":
    main()
