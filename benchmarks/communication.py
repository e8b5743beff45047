"""What optimizers send beyond the sharding of their model: counted on two ranks, priced for many.

    python benchmarks/communication.py [--classes Muon SOAP ...] [--overlap 0.5]

Two gloo processes shard a small model with ``fully_shard``; the collectives of one step of every
class of ``gx.optim`` are counted, with the bytes that a rank gives to them. What that is on W GPUs
follows from the kind of collective, S being the bytes that it moves of all ranks together:

    all-to-all      S (W - 1) / W^2     whole leaves at their owners: every rank sends its shards
    all-gather      S (W - 1) / W       everything everywhere
    all-reduce      2 S (W - 1) / W     sums; of a chain with one norm, a few bytes

The price of a step for the matrices of a Llama of 1B parameters is

    t = (1 - overlap) (calls (a + b log2 W) + bytes / bandwidth)

with a = 10 us a call and b = 2 us a doubling, 400 GB/s a GPU up to 8 of them and 50 GB/s beyond.
Beside it stand published systems by the volumes that follow from their code (per rank and step, N
bytes of all matrices in the dtype that is sent, float32 here as in the measurement; theirs is often
bfloat16, which halves it). Results go to benchmarks/results/communication.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import pathlib
import tempfile
import warnings
from collections import Counter
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradtx as gx
from gradtx.core.protocol import members

RESULTS = pathlib.Path(__file__).parent / "results" / "communication.json"
RANKS, STEPS = 2, 3
SIZES = (8, 64, 512, 4096)
CALL, DOUBLING = 10e-6, 2e-6  # seconds
NEAR, FAR, NODE = 400e9, 50e9, 8  # bytes a second within a node of so many GPUs, and between them
# Layers, and the matrices of one: attention with 8 of 32 heads for keys, and the three of its MLP.
LLAMA = 16, [(2048, 2048), (512, 2048), (512, 2048), (2048, 2048), *[(8192, 2048)] * 3]
KINDS = {"alltoall": "all-to-all", "allgather": "all-gather", "allreduce": "all-reduce"}


class Network(nn.Module):
    """Matrices and a few vectors; nothing is computed with them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        self.wide, self.norm = nn.Linear(32, 96), nn.LayerNorm(32)


class Recorder(TorchDispatchMode):
    """Counts collectives, and the bytes that this rank gives to them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any("DTensor" in kind.__name__ for kind in types):
            return NotImplemented  # first what it is made of
        name = func._schema.name.partition("::")[2].replace("_", "")
        if func.namespace in ("c10d", "_c10d_functional") and "wait" not in name:
            kind = next((k for start, k in KINDS.items() if start in name), name)
            given = args[1] if kind in ("all-to-all", "all-gather") and len(args) > 1 else args[0]
            given = args[0] if func.namespace == "_c10d_functional" else given
            self.calls[kind] += 1
            self.bytes[kind] += sum(x.nbytes for x in _tensors(given))
        return func(*args, **(kwargs or {}))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (list, tuple)):
        return [x for part in value for x in _tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def every_class() -> list[str]:
    """The names of all ready classes."""
    kinds = {name: getattr(gx.optim, name) for name in gx.optim.__all__}
    return sorted(name for name, kind in kinds.items() if vars(kind).get("signature"))


def make(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with options that do something on small matrices."""
    cls = getattr(gx.optim, name)
    options: dict[str, Any] = {"rank": 8} if "rank" in cls.signature else {}
    if name == "SNSM":
        options |= {"momentum": "sm", "update_proj_gap": 10}
    if "matrix" in cls.signature:
        return cls(gx.matrix_groups(model, {}, {"lr": 1e-3}, heads=()), **options)
    return cls(list(model.named_parameters()), **options)


def trees_wanted(optimizer: Any) -> dict[str, Any]:
    """What its members are to be given besides gradients, such as diagonals of Hessians."""
    chains = [optimizer.transform_of(group) for group in optimizer.param_groups]
    names = {n for tx in chains for _, m in members(tx) for n in getattr(m, "needs_extra", ())}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return {name: {p: p.detach().square() for p in params} for name in names}


def count(rank: int, names: list[str]) -> dict[str, Any]:
    """What the last of some steps of every class sends from this rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, out = init_device_mesh("cpu", (RANKS,)), {}
    for name in names:
        torch.manual_seed(0)
        model = fully_shard(Network(), mesh=mesh)
        try:
            optimizer = make(name, model)
            for _ in range(STEPS):
                for p in model.parameters():
                    p.grad = p.detach().clone()
                trees = trees_wanted(optimizer)
                with Recorder() as seen:
                    optimizer.step(lambda: torch.ones(()), **trees)
        except Exception as error:
            out[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        out[name] = {"calls": dict(seen.calls), "bytes": dict(seen.bytes)}
    return out


def _entry(rank: int, folder: str, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    result = count(rank, names)
    pathlib.Path(folder, str(rank)).write_text(json.dumps(result))
    dist.destroy_process_group()


def counted(names: list[str]) -> list[dict[str, Any]]:
    """What every rank has counted."""
    multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "gradtx"])
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_entry, (folder, names), nprocs=RANKS, start_method="forkserver")
        return [json.loads(pathlib.Path(folder, str(r)).read_text()) for r in range(RANKS)]


def matrices(model: nn.Module) -> int:
    """Bytes of all matrices."""
    kinds = (m.weight for m in model.modules() if isinstance(m, nn.Linear))
    return sum(weight.nbytes for weight in kinds)


def volume(moved: dict[str, float], ranks: int) -> float:
    """Bytes that a rank sends in a step, from those that collectives move of all ranks together."""
    share = {
        "all-to-all": (ranks - 1) / ranks**2,
        "all-gather": (ranks - 1) / ranks,
        "all-reduce": 2 * (ranks - 1) / ranks,
    }
    return sum(share[kind] * size for kind, size in moved.items())


def seconds(calls: float, size: float, ranks: int, overlap: float) -> float:
    """The price of a step that is stated above."""
    wire = size / (NEAR if ranks <= NODE else FAR)
    return (1 - overlap) * (calls * (CALL + DOUBLING * math.log2(ranks)) + wire)


def of_all(ranks: list[dict[str, Any]], name: str, whole: int, target: int) -> dict[str, float]:
    """What collectives move of all ranks for a model with ``target`` bytes of matrices.

    All-to-alls and gathers of more than a few numbers grow with the matrices, sums do not.
    """
    moved: dict[str, float] = {}
    for kind in ranks[0][name]["bytes"]:
        own = [rank[name]["bytes"].get(kind, 0) for rank in ranks]
        if kind == "all-to-all":  # what a rank keeps is not in its message
            moved[kind] = sum(own) * len(ranks) / (len(ranks) - 1) * target / whole
        elif kind == "all-gather":
            moved[kind] = sum(own) * target / whole
        else:
            moved["all-reduce"] = moved.get("all-reduce", 0) + own[0]
    return moved


def published(n: int, ranks: int, squares: int) -> dict[str, tuple[float, float]]:
    """Calls and bytes of published systems: their Muon or Shampoo on ``n`` bytes of matrices.

    Args:
        n: bytes of all matrices.
        ranks: that share a matrix.
        squares: bytes of one Gram matrix per matrix.
    """
    layers, per_layer = LLAMA
    leaves, shapes, w = layers * len(per_layer), len(set(per_layer)), ranks
    return {
        "dion, megabatches: two all-to-alls a shape": (2 * shapes, 2 * n * (w - 1) / w**2),
        "Megatron, layer-wise: nothing beyond ZeRO-1": (0, 0),
        "Megatron, tensor parallel, duplicated: all-gather": (leaves, n * (w - 1) / w),
        "Megatron, tensor parallel, distributed: a Gram matrix an iteration": (
            5 * leaves,
            5 * 2 * squares * (w - 1) / w,
        ),
        "Distributed Shampoo, DDP: all-gather of updates": (1, n / w + n * (w - 1) / w),
        "Distributed Shampoo, FSDP2, lossless: two all-to-alls": (2, 2 * n / w),
        "torch.optim.Muon on DTensors: every rank gathers": (leaves, n * (w - 1) / w),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", nargs="*", default=every_class())
    parser.add_argument("--overlap", type=float, default=0.0)
    args = parser.parse_args()
    ranks = counted(args.classes)
    layers, shapes = LLAMA
    n = 4 * layers * sum(math.prod(shape) for shape in shapes)
    squares = 4 * layers * sum(min(shape) ** 2 for shape in shapes)
    whole = matrices(Network())
    price = partial(seconds, overlap=args.overlap)
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "ranks": RANKS,
        "bytes of matrices": whole,
        "priced bytes of matrices": n,
        "overlap": args.overlap,
        "classes": {},
        "published": {},
    }
    print(f"{'':24}  calls    kB of {whole / 1e3:.0f}" + "".join(f"{w:>11}" for w in SIZES))
    for name in args.classes:
        failed = next((rank[name]["error"] for rank in ranks if "error" in rank[name]), None)
        if failed:
            report["classes"][name] = {"error": failed}
            print(f"{name:24}  {failed}")
            continue
        calls = sum(ranks[0][name]["calls"].values())
        given = max(sum(rank[name]["bytes"].values()) for rank in ranks)
        moved = of_all(ranks, name, whole, n)
        times = {str(w): 1e3 * price(calls, volume(moved, w), w) for w in SIZES}
        report["classes"][name] = {
            "calls": ranks[0][name]["calls"],
            "bytes": [rank[name]["bytes"] for rank in ranks],
            "milliseconds": times,
        }
        row = "".join(f"{t:>8.2f} ms" for t in times.values())
        print(f"{name:24}  {calls:>5}  {given / 1e3:>10.2f}{row}")
    for name in published(n, 8, squares):
        both = {w: published(n, w, squares)[name] for w in SIZES}
        times = {str(w): 1e3 * price(calls, size, w) for w, (calls, size) in both.items()}
        report["published"][name] = {
            "calls": both[8][0],
            "bytes": {str(w): size for w, (_, size) in both.items()},
            "milliseconds": times,
        }
        print(f"{name}\n{'':43}" + "".join(f"{t:>8.2f} ms" for t in times.values()))
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
