"""Checkpoints of sharded optimizers, saved by 4, 2 and 1 processes and loaded by as many others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import gradtx as gx

from .test_sharded import apart, full, mesh_of, shard
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

# Uneven, empty on all ranks but the first, and one that has no gradient before it is loaded.
SHAPES = {"w": (9, 5), "b": (5,), "one": (1,), "square": (6, 6), "late": (4, 3), "frozen": (3, 2)}
BEFORE, AFTER = range(2), range(2, 4)
COUNTED = gx.scale_by_schedule(lambda count: 1.0 / (1 + count))
# Of matrices nothing is kept, whether their owner updates them or not.
SOME = gx.partition(
    {"matrix": gx.orthogonalize(), "vector": gx.trace(0.9)},
    by=lambda info: "matrix" if info.ndim > 1 else "vector",
)
Make = Callable[[Any], gx.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda ps: gx.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    # Six rows of six: whole blocks on two ranks, cut by four.
    "AdamW8bit": lambda ps: gx.optim.AdamW8bit(ps, lr=0.01, min_size=8, block_size=6, fused=False),
    "ScheduleFreeAdamW": lambda ps: gx.optim.ScheduleFreeAdamW(ps, lr=0.01),
    # not in full: gloo does not send it, which torch's function asks of it
    "float8": lambda ps: gx.optim.from_transform(
        gx.scale_by_adam(mu_codec=torch.float8_e4m3fn), ps, lr=0.01, fused=False
    ),
    "Muon": lambda ps: gx.optim.Muon([{"params": ps[:4]}, {"params": ps[4:], "lr": 0.02}]),
    "SOAP": lambda ps: gx.optim.SOAP(ps, lr=0.01, fused=False),
    # Two blocks: whole on each of two ranks, cut by four.
    "heads": lambda ps: gx.optim.NorMuon(
        [{"params": ps[3:4], "num_heads": 2}, {"params": [*ps[:3], *ps[4:]]}]
    ),
    "factored": lambda ps: gx.optim.AdamAdv(ps, lr=0.01, factored=True),
    "Prodigy": lambda ps: gx.optim.Prodigy(ps, d0=1e-2, d_coef=20.0, fused=False),
    "NoisySGD": lambda ps: gx.optim.NoisySGD(ps, lr=0.1),
    "rounded": lambda ps: gx.optim.AdamAdv(ps, lr=0.01),
    "Fromage": lambda ps: gx.optim.Fromage(ps, lr=0.1),
    "scheduled": lambda ps: gx.optim.from_transform(COUNTED, ps, lr=0.1),
    "some": lambda ps: gx.optim.from_transform(SOME, ps, lr=0.1),
}
EXACT = ("AdamW", "float8", "ScheduleFreeAdamW", "NoisySGD", "rounded", "scheduled")
DTYPES = {"rounded": torch.bfloat16}
# Of nothing but numbers torch's function does not find a device where a state dict is to be full.
NO_TENSORS = ("Fromage", "scheduled")
ROUTES = ("nested", "flat", "full", "plain", "names")


class Run:
    """Parameters, whole or sharded over all processes, and their optimizer."""

    def __init__(self, name: str) -> None:
        self.mesh = mesh_of("one axis") if dist.is_initialized() else None
        g = torch.Generator().manual_seed(0)
        dtype = self.dtype = DTYPES.get(name, torch.float32)
        whole = {n: torch.randn(s, generator=g).to(dtype) for n, s in SHAPES.items()}
        self.params = nn.ParameterDict(
            {n: nn.Parameter(self.part(x), requires_grad=n != "frozen") for n, x in whole.items()}
        )
        self.opt = OPTIMIZERS[name](list(self.params.items()))
        if hasattr(self.opt, "train"):
            self.opt.train()

    def part(self, x: Tensor) -> Tensor:
        return x if self.mesh is None else shard(x, self.mesh)

    def steps(self, which: range) -> dict[str, Tensor]:
        for t in which:
            g = torch.Generator().manual_seed(10 + t)
            for n, p in self.params.items():
                x = torch.randn(SHAPES[n], generator=g).to(self.dtype)
                without = n == "frozen" or (n == "late" and t in BEFORE)
                p.grad = None if without else self.part(x)
            self.opt.step()
        return full(dict(self.params.items()))

    def optim(self, route: str) -> dict[str, Any]:
        """The optimizer's state for a checkpoint."""
        if route == "plain":
            return self.opt.state_dict()
        if route == "names":
            return gx.optim.flat_state_dict(self.opt)
        return get_optimizer_state_dict(self.params, self.opt, options=OPTIONS[route])


OPTIONS = {
    "nested": StateDictOptions(),
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": StateDictOptions(full_state_dict=True, cpu_offload=True),
}


def alone() -> bool:
    return not dist.is_initialized()


def routes(name: str, world: int) -> tuple[str, ...]:
    """All ways for some optimizers and four processes, else one."""
    if name in NO_TENSORS:
        return ("nested", "flat") if world == 4 else ("nested",)
    if name in ("AdamW", "Muon", "some") and world == 4:
        return ROUTES
    return (ROUTES[list(OPTIMIZERS).index(name) % len(ROUTES)],)


def save(rank: int, folder: str) -> None:
    """Some steps of every optimizer, and checkpoints."""
    world = 1 if alone() else dist.get_world_size()
    for name in OPTIMIZERS:
        run = Run(name)
        run.steps(BEFORE)
        # Where there are several processes, they do so by themselves.
        if alone() and name not in NO_TENSORS:
            run.opt.init_state()
        for route in routes(name, world):
            where = f"{folder}/{name} {world} {route}"
            state = {"model": run.params.state_dict(), "optim": run.optim(route)}
            if route == "full":  # all of it, in the first process
                whole = {
                    **state,
                    "model": {n: p.detach() for n, p in full(dict(run.params)).items()},
                }
                if rank == 0:
                    torch.save(whole, where)
            else:
                dcp.save(state, checkpoint_id=where, no_dist=alone())


def load(rank: int, folder: str) -> dict[Any, dict[str, Tensor]]:
    """Parameters after more steps from the checkpoints of other numbers of processes."""
    own = 1 if alone() else dist.get_world_size()
    out = {}
    for name in OPTIMIZERS:
        run = Run(name)  # new once, then with what it had before
        for world in (w for w in (4, 2, 1) if w != own):
            for route in routes(name, world):
                where = f"{folder}/{name} {world} {route}"
                if route == "full":
                    state = torch.load(where, weights_only=True)
                    model = {n: run.part(x) for n, x in state["model"].items()}
                else:
                    model = {n: p.detach().clone() for n, p in run.params.state_dict().items()}
                    state = {"model": model}
                    if route != "names":
                        state["optim"] = run.optim(route)
                        if alone() and route == "plain":
                            run.opt.init_state()
                            state["optim"] = run.optim(route)
                    dcp.load(state, checkpoint_id=where, no_dist=alone())
                run.params.load_state_dict(model)
                if route == "names":
                    gx.optim.load_checkpoint(run.opt, where)
                elif route == "plain":
                    run.opt.load_state_dict(state["optim"])
                else:
                    options = OPTIONS[route]
                    set_optimizer_state_dict(
                        run.params, run.opt, optim_state_dict=state["optim"], options=options
                    )
                out[name, world, route] = run.steps(AFTER)
    return out


def quiet(rank: int, folder: str, fn: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own typed storages
        return fn(rank, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoints of 4, 2 and 1 processes."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    for world in (4, 2):
        in_processes(partial(quiet, folder=folder, fn=save), world)
    quiet(0, folder, save)
    return folder


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Tensor]]:
    out = {}
    for name in OPTIMIZERS:
        run = Run(name)
        run.steps(BEFORE)
        out[name] = run.steps(AFTER)
    return out


@pytest.mark.parametrize("world", [4, 2, 1])
def test_goes_on_in_any_number_of_processes(
    world: int, folder: str, uninterrupted: dict[str, dict[str, Tensor]]
) -> None:
    run = partial(quiet, folder=folder, fn=load)
    for got in [run(0)] if world == 1 else in_processes(run, world):
        wrong = {
            key: error
            for key, params in got.items()
            if (error := apart(params, uninterrupted[key[0]])) > (0 if key[0] in EXACT else 2e-6)
        }
        assert not wrong
