"""What trains beside optimizers: workers of several ranks, stages, offload, compiled models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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


def against_a_twin(
    train: Callable[[int], None], net: nn.Module, whole: nn.Module, make: Any
) -> float:
    """How far a module in several processes is from one that has all gradients.

    Args:
        train: a backward pass of the first, at a step.
        net: the first, before it is wrapped.
        whole: the other.
        make: their optimizer.
    """
    named, twins = dict(net.named_parameters()), dict(whole.named_parameters())
    opt, alone = make(list(named.items())), make([(n, twins[n]) for n in named])
    for step in range(STEPS):
        opt.zero_grad()
        train(step)
        for n, p in named.items():
            assert p.grad is not None
            twins[n].grad = getattr(p.grad, "full_tensor", p.grad.clone)()
        opt.step()
        alone.step()
    return apart(full(net), {n: twins[n].detach() for n in named})


def wrapped(rank: int) -> dict[str, float]:
    """What wrappers and compilers do to a module, with whole gradients from all ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    mesh = init_device_mesh("cpu", (4,))
    out: dict[str, float] = {}

    def sharded(net: nn.Module, **options: Any) -> nn.Module:
        fully_shard(net, mesh=mesh, **options)
        return net

    kinds: dict[str, Callable[[nn.Module], Any]] = {
        "offload": lambda n: sharded(n, offload_policy=CPUOffloadPolicy(pin_memory=False)),
        "static graph": lambda n: DistributedDataParallel(n, static_graph=True),
        "compiled, ddp": lambda n: torch.compile(DistributedDataParallel(n), backend="eager"),
        "compiled, fsdp2": lambda n: torch.compile(sharded(n), backend="eager"),
    }
    for kind, wrap in kinds.items():
        for name, make in MAKERS.items():
            net, whole = module(), module()
            outside = wrap(net)

            def train(t: int, outside: Any = outside) -> None:
                gradients(outside, t, rank, 4)

            out[f"{kind}, {name}"] = against_a_twin(train, net, whole, make)
    return out


def stages(rank: int) -> dict[str, float]:
    """A pipeline of two stages, each with two ranks and an optimizer of its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "data"))
    out: dict[str, float] = {}
    index, data = mesh["stage"].get_local_rank(), mesh["data"].get_local_rank()
    for name, make in MAKERS.items():
        whole = module()
        net = nn.Sequential(*list(module().children())[2 * index : 2 * index + 2])
        if index:
            net = nn.Sequential(nn.Identity(), nn.Identity(), *net)  # names as in the whole
        fully_shard(net, mesh=mesh["data"])
        stage = PipelineStage(net, index, 2, torch.device("cpu"), group=mesh["stage"].get_group())
        schedule = ScheduleGPipe(stage, 2, loss_fn=nn.functional.mse_loss)

        def train(t: int, schedule: Any = schedule) -> None:
            g = torch.Generator().manual_seed(10 * t + data)
            x, y = torch.randn(8, 6, generator=g), torch.randn(8, 4, generator=g)
            if index:
                schedule.step(target=y)
            else:
                schedule.step(x)

        out[name] = against_a_twin(train, net, whole, make)
    return out


def everything(rank: int) -> dict[str, Any]:
    return {"workers": workers_of_shards(rank), "wrapped": wrapped(rank), "stages": stages(rank)}


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


@pytest.mark.parametrize("where", ["wrapped", "stages"])
def test_steps_equal_those_of_one_process(where: str, ranks: list[dict[str, Any]]) -> None:
    for out in (r[where] for r in ranks):
        assert len(out) == len(MAKERS) * (4 if where == "wrapped" else 1)
        for name, error in out.items():
            assert error <= 1e-6, name
