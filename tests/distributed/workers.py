"""Running a function in several gloo processes."""

from __future__ import annotations

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Imported once, in the process that all others are forked from.
PRELOADED = [
    *("torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict", "torch._dynamo"),
    "gradtx",
]


def _entry(rank: int, world: int, store: str, out: str, fn: Callable[[int], Any]) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, world),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(fn(rank), Path(out) / str(rank))
    finally:
        dist.destroy_process_group()


def in_processes(fn: Callable[[int], Any], world: int = 2) -> list[Any]:
    """What ``fn(rank)`` returns in every process; its exceptions are raised here."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        args = (world, f"{folder}/store", folder, fn)
        mp.start_processes(_entry, args, nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world)]
