"""What trains beside optimizers: workers of several ranks, stages, offload, compiled models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradtx as gx
from gradtx.distributed import Simulation, Worker

from .test_wrappers import gradients, message_of, module
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

gd = gx.distributed
STEPS = 3
MAKERS: dict[str, Callable[[Any], gx.optim.Optimizer]] = {
    "AdamW": lambda ps: gx.optim.AdamW(ps, lr=0.01),
    "Muon": lambda ps: gx.optim.Muon(ps, lr=0.01),
}
METHODS: dict[str, Callable[[], gd.LocalSteps]] = {
    "diloco": lambda: gd.diloco(gx.adamw(0.01), every=2),
    "desloc": lambda: gd.desloc(0.01, max_norm=None, every=2, every_first=1, every_second=3),
}


def full(net: nn.Module) -> dict[str, Tensor]:
    wholes = {
        n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in net.named_parameters()
    }
    return {n: p.detach().clone() for n, p in wholes.items()}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[n].cpu() - b[n]).abs().max().item() for n in b)


def workers_of_shards(rank: int) -> dict[Any, Any]:
    """Two workers of two ranks each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("worker", "shard"))
    own = mesh["worker"].get_local_rank()
    out: dict[Any, Any] = {}

    def sharded() -> nn.Module:
        net = module()
        fully_shard(net, mesh=mesh["shard"])
        return net

    for name, make in METHODS.items():
        net = sharded()
        worker = Worker(net, make(), mesh["worker"].get_group(), timeout=30)
        twin = Simulation(make(), dict(module().named_parameters()), 2)
        halves = [module(), module()]
        for step in range(STEPS):
            for half, params, part in zip(halves, twin.params, range(2), strict=True):
                half.load_state_dict(params)
                gradients(half, step, part, 2)
            twin.step([{n: p.grad for n, p in half.named_parameters()} for half in halves])
            gradients(net, step, own, 2)
            worker.step()
        out[name] = apart(full(net), twin.params[own])
        saved = worker.state_dict()
        again = Worker(sharded(), make(), mesh["worker"].get_group(), timeout=30)
        again.load_state_dict(saved)
        out[name, "keys"] = [*saved, *saved[f"rank_{own}_of_2"]]
        for one in (worker, again):
            for p in one._leaves.values():
                p.grad = torch.ones_like(p)
            one.step()
        assert all(torch.equal(again.params[n], p) for n, p in worker.params.items())
    # One rank of a worker is late: no shard is averaged.
    worker = Worker(sharded(), METHODS["diloco"](), mesh["worker"].get_group(), timeout=1.0)
    for p in worker._leaves.values():
        p.grad = torch.full_like(p, 1.0 + own)
    worker.step()
    time.sleep(2.5 * (rank == 3))
    out["missing"] = message_of(worker.step)
    kept = {n: p.clone() for n, p in worker.params.items()}
    out["kept"] = all(torch.equal(kept[n], p) for n, p in worker.state.syncs[0].anchor.items())
    dist.barrier()
    worker.meet()
    out["met"] = [worker.params[n] - p for n, p in kept.items()]
    for name, method in {
        "lordo": gd.lordo(0.01, rank=2),
        "clipped": gd.desloc(0.01),
        "top_k": gd.diloco(gx.sgd(0.1), feedback=gd.Feedback(gx.compressors.top_k(0.1))),
    }.items():
        with pytest.raises(TypeError) as error:
            Worker(sharded(), method, mesh["worker"].get_group())
        out[name] = str(error.value)
    with pytest.raises(TypeError) as error:
        Worker(sharded(), METHODS["diloco"]())
    out["world"] = str(error.value)
    return out


def everything(rank: int) -> dict[str, Any]:
    return {"workers": workers_of_shards(rank)}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return in_processes(everything, 4)


def test_workers_train_their_shards(ranks: list[dict[str, Any]]) -> None:
    for rank, out in enumerate(r["workers"] for r in ranks):
        for name in METHODS:
            assert out[name] <= 2e-6, name
            assert out[name, "keys"] == [f"rank_{rank // 2}_of_2", f"shard_{rank % 2}_of_2"]


def test_who_is_late_with_a_shard_is_late_for_all(ranks: list[dict[str, Any]]) -> None:
    for rank, out in enumerate(r["workers"] for r in ranks):
        if rank == 3:
            assert "rank 3 came too late" in out["missing"]
        else:
            assert "rank 3 missed the meeting after step 2" in out["missing"], out["missing"]
        assert not out["kept"]
        assert any(bool(moved.abs().max() > 1e-3) for moved in out["met"])


def test_workers_of_shards_that_are_refused(ranks: list[dict[str, Any]]) -> None:
    for rank, out in enumerate(r["workers"] for r in ranks):
        leaf = "Worker: leaf '0.weight' is a DTensor with placements"
        for name, part in (
            ("lordo", "clip"),
            ("clipped", "clip"),
            ("top_k", "outer"),
        ):
            assert out[name].startswith(leaf), out[name]
            assert part in out[name], out[name]
            assert "Leave that part out" in out[name]
        other = rank ^ 1
        assert f"of which [{other}] would be other workers" in out["world"], out["world"]
