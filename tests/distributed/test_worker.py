"""Workers in processes of their own: against simulated ones, and when one is missing."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradtx as gx
from gradtx.distributed import Simulation, Worker

from .test_wrappers import message_of
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

gd = gx.distributed
STEPS = 6


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 10))


def loss_of(model: nn.Module, rank: int, step: int) -> Tensor:
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(100 * rank + step))
    return (model(x) - x[:, :10]).square().mean()


METHODS = {
    "lordo": lambda: gd.lordo(0.01, rank=3, every=2, every_second=4),
    "lordo power": lambda: gd.lordo(0.01, rank=3, every=3, projection_type="power"),
    "desloc": lambda: gd.desloc(0.01, every=2, every_first=3, every_second=4),
    "diloco": lambda: gd.diloco(gx.adamw(0.01), every=3),
    "top_k": lambda: gd.diloco(
        gx.sgd(0.1), gx.sgd(1.0), 2, gd.Feedback(gx.compressors.top_k(0.1), 0.9)
    ),
    "sparse_loco": lambda: gd.sparse_loco(gx.adamw(0.01), 0.1, every=2, block_size=64),
    "demo": lambda: gd.demo(0.01, 0.9, k=3, block=8),
    "low_rank": lambda: gd.diloco(
        gx.sgd(0.1), gx.sgd(1.0), 2, gd.Feedback(gx.compressors.low_rank(2))
    ),
}


def named(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: p.clone() for k, p in tree.items()}


def everything(rank: int) -> dict[str, Any]:
    """All that is tried in one pair of processes."""
    out: dict[str, Any] = {"params": {}, "sent": {}, "errors": {}}
    for name, make in METHODS.items():
        for kind in ("plain", "ddp", "fused"):
            model = module()
            method = make()
            run = gx.fuse(method.transform) if kind == "fused" else None
            outside = DistributedDataParallel(model) if kind == "ddp" else model
            worker = Worker(outside, method, timeout=30, run=run)
            for step in range(STEPS):
                worker.zero_grad()
                loss_of(outside, rank, step).backward()
                worker.step()
            out["params"][name, kind] = named(worker.params)
            out["sent"][name] = worker.sent_bytes
    out["errors"] = missing(rank) | different(rank)
    out["loop"] = loop(rank)
    out["late"] = late(rank)
    out["saved"] = saved(rank)
    return out


def missing(rank: int) -> dict[str, Any]:
    """Rank 1 comes too late to a meeting, then both meet."""
    worker = Worker(module(), gd.diloco(gx.sgd(0.1), gx.sgd(1.0), every=2), timeout=0.5)
    for step in range(2):
        worker.zero_grad()
        for p in worker._leaves.values():
            p.grad = torch.full_like(p, 1.0 + rank)
        if step == 1 and rank == 1:
            time.sleep(1.2)
        before = named(worker.params)
        try:
            worker.step()
            text = ""
        except RuntimeError as error:
            text = str(error)
    moved = {k: before[k] - p for k, p in worker.params.items()}
    dist.barrier()
    worker.meet()
    return {"missing": text, "moved": moved, "met": named(worker.params)}


def loop(rank: int) -> dict[str, Any]:
    """The same in a loop of one's own, with a method that gathers; nothing is changed in place."""
    team = gd.Team(timeout=0.5)
    method = gd.diloco(gx.sgd(0.1), gx.sgd(1.0), 1, gd.Feedback(gx.compressors.top_k(0.5)))
    params = {"w": torch.arange(6.0).view(2, 3)}
    params, state = team.join(method, params, method.init(params))
    grads = {"w": torch.full((2, 3), 1.0 + rank)}
    state = team.begin(method, grads, params, state)
    updates, state = method.update(grads, state, params)
    params = gx.apply_updates(params, updates)
    kept = gx.tree.map(lambda x: x.clone(), (params, state))
    if rank == 1:
        time.sleep(1.2)
    text = message_of(lambda: team.sync(method, params, state))
    both = zip(gx.tree.leaves(kept), gx.tree.leaves((params, state)), strict=True)
    same = all(torch.equal(a, b) for a, b in both)
    dist.barrier()
    met, _ = team.sync(method, params, state)
    return {"text": text, "same": same, "met": met["w"], "sent": team.sent_bytes}


def different(rank: int) -> dict[str, str]:
    worker = Worker(module(seed=rank), gd.desloc(0.1), timeout=30)
    try:
        worker.step()
        return {"different": ""}
    except ValueError as error:
        return {"different": str(error)}


def late(rank: int) -> dict[str, Any]:
    """Rank 0 goes on from a checkpoint, rank 1 is new."""
    method = gd.lordo(0.01, rank=3, every=2)
    model = module()
    worker = Worker(model, method, timeout=30)
    if rank == 0:
        alone = Simulation(method, dict(module().named_parameters()), 1)
        for step in range(2):
            copy = module()
            copy.load_state_dict(alone.params[0])
            loss_of(copy, 0, step).backward()
            alone.step([{k: p.grad for k, p in copy.named_parameters()}])
        one = {"params": alone.params[0], "state": gx.tree.to_dict(alone.states[0])}
        worker.load_state_dict({"rank_0_of_1": one}, residuals="drop")
    worker.join()
    errors = [e.abs().max().item() for e in gx.tree.get_all(worker.state.local, "error").values()]
    return {
        "step": int(worker.state.step),
        "params": named(worker.params),
        "errors": errors,
    }


def saved(rank: int) -> Any:
    method = gd.lordo(0.01, rank=3, every=2)
    model = module()
    worker = Worker(model, method, timeout=30)
    for step in range(3):
        worker.zero_grad()
        loss_of(model, rank, step).backward()
        worker.step()
    kept = gx.tree.map(lambda x: x.clone(), worker.state_dict())
    again = module()
    other = Worker(again, method, timeout=30)
    other.load_state_dict(kept)
    for run, net in ((worker, model), (other, again)):
        for step in (3, 4):
            run.zero_grad()
            loss_of(net, rank, step).backward()
            run.step()
    same = all(torch.equal(p, other.params[k]) for k, p in worker.params.items())
    worker.zero_grad()
    loss_of(model, rank, 5).backward()
    worker.step()
    return same, kept, gx.tree.map(lambda x: x.clone(), worker.state_dict())


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return in_processes(everything)


def simulated(name: str) -> Simulation:
    nets = [module(), module()]
    workers = Simulation(METHODS[name](), dict(nets[0].named_parameters()), 2)
    for step in range(STEPS):
        grads = []
        for rank, (net, params) in enumerate(zip(nets, workers.params, strict=True)):
            net.load_state_dict(params)
            net.zero_grad()
            loss_of(net, rank, step).backward()
            grads.append({k: p.grad.clone() for k, p in net.named_parameters()})
        workers.step(grads)
    return workers


@pytest.mark.parametrize("name", METHODS)
def test_processes_do_what_simulated_workers_do(name: str, ranks: list[dict[str, Any]]) -> None:
    workers = simulated(name)
    for rank, want in enumerate(workers.params):
        for kind in ("plain", "ddp", "fused"):
            for leaf, got in ranks[rank]["params"][name, kind].items():
                torch.testing.assert_close(got, want[leaf], rtol=2e-5, atol=2e-6)
        assert ranks[rank]["sent"][name] == workers.sent_bytes


def test_who_misses_a_meeting_is_named_and_nothing_is_averaged(ranks: list[dict[str, Any]]) -> None:
    first, second = (r["errors"] for r in ranks)
    assert "rank 1 missed the meeting after step 2: rank 0 waited 0.5 s" in first["missing"]
    assert "rank 0 has given up the meeting after step 2; rank 1 came too late" in second["missing"]
    for rank, one in enumerate((first, second)):  # only the worker's own step has happened
        for moved in one["moved"].values():
            torch.testing.assert_close(moved, torch.full_like(moved, 0.1 * (1 + rank)))
    for leaf, p in first["met"].items():
        assert torch.equal(p, second["met"][leaf])
        torch.testing.assert_close(p, dict(module().named_parameters())[leaf].detach() - 0.3)


def test_who_misses_a_meeting_of_a_loop_is_named(ranks: list[dict[str, Any]]) -> None:
    first, second = (r["loop"] for r in ranks)
    assert "Team: rank 1 missed the meeting after step 1: rank 0 waited 0.5 s" in first["text"]
    assert "Call sync() again" in first["text"]
    assert "Team: rank 0 has given up the meeting after step 1" in second["text"]
    assert first["same"]
    assert second["same"]
    assert torch.equal(first["met"], second["met"])
    assert first["sent"] == second["sent"] > 0


def test_workers_that_start_differently_are_named(ranks: list[dict[str, Any]]) -> None:
    for one in ranks:
        assert "ranks [1] start with other parameters than rank 0" in one["errors"]["different"]


def test_who_comes_later_takes_over_from_rank_0(ranks: list[dict[str, Any]]) -> None:
    first, second = (r["late"] for r in ranks)
    assert first["step"] == second["step"] == 2
    for leaf, p in first["params"].items():
        assert torch.equal(p, second["params"][leaf])
    assert second["errors"]
    assert not any(second["errors"])


def test_checkpoints(ranks: list[dict[str, Any]]) -> None:
    """Each goes on bit for bit; another number of workers is told what to do."""
    assert all(r["saved"][0] for r in ranks)
    between = ranks[0]["saved"][1] | ranks[1]["saved"][1]
    met = ranks[0]["saved"][2] | ranks[1]["saved"][2]
    method, model = gd.lordo(0.01, rank=3, every=2), module()
    worker = Worker(model, method)
    with pytest.raises(ValueError, match=r"this worker is rank_0_of_1.*residuals='sum' or 'drop'"):
        worker.load_state_dict(met)
    with pytest.raises(ValueError, match=r"saved after steps \[3\].*go on only from a meeting"):
        worker.load_state_dict(between, residuals="drop")
    with pytest.raises(ValueError, match="needs the entries of all 2 workers, got 1"):
        worker.load_state_dict({"rank_0_of_2": met["rank_0_of_2"]}, residuals="sum")
    with pytest.raises(ValueError, match="must be None, 'sum' or 'drop'"):
        worker.load_state_dict(met, residuals="mean")

    def errors(state: Any) -> list[Tensor]:
        return list(gx.tree.get_all(state, "error").values())

    both = [errors(one["state"]) for one in met.values()]
    worker.load_state_dict(met, residuals="sum")
    for got, a, b in zip(errors(worker.state), *both, strict=True):
        torch.testing.assert_close(got, (a + b) / 2)
    worker.load_state_dict(met, residuals="drop")
    assert not any(e.any() for e in errors(worker.state))
    assert int(worker.state.step) == 6
    for leaf, p in worker.params.items():
        assert torch.equal(p, met["rank_1_of_2"]["params"][leaf])


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got a dict"):
        Worker({}, gd.desloc())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="method must be LocalSteps"):
        Worker(module(), gx.adam())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be > 0"):
        Worker(module(), gd.desloc(), timeout=0)
