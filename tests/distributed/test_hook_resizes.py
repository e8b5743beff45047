"""What a communication hook remembers, saved by some processes and loaded by others."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.nn.parallel import DistributedDataParallel

import gradtx as gx
from gradtx import compressors

from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

KINDS: dict[str, tuple[Any, Any]] = {
    "top_k": (compressors.top_k(0.1), None),
    "sign, eight-bit floats": (compressors.sign(), torch.float8_e4m3fn),
    "random_k, codes": (compressors.random_k(0.1), gx.codecs.affine(8)),
    "low_rank": (compressors.low_rank(2), torch.bfloat16),
}


def make(kind: str) -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    net: nn.Module = nn.Linear(16, 12)
    hook = gx.distributed.comm_hook(*KINDS[kind])
    if not dist.is_initialized():
        return net, net, hook
    wrapped = DistributedDataParallel(net)
    wrapped.register_comm_hook(net, hook)
    return net, wrapped, hook


def gradients(net: nn.Module, wrapped: nn.Module, step: int, rank: int) -> list[Tensor]:
    net.zero_grad()
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(10 * step + rank))
    wrapped(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def decoded(hook: Any, net: nn.Module) -> dict[str, Tensor]:
    """The residuals as they are, whatever their codec."""
    hook.init_state(net)
    return {
        name: hook.codec.for_leaf(name).decode(hook._errors[name], torch.zeros_like(p))
        for name, p in net.named_parameters()
    }


def save(rank: int, folder: str) -> dict[str, Any]:
    """Three steps and a checkpoint of every kind; what is remembered then."""
    out = {}
    for kind in KINDS:
        net, wrapped, hook = make(kind)
        for step in range(3):
            gradients(net, wrapped, step, rank)
        dcp.save({"hook": hook.state_dict()}, checkpoint_id=f"{folder}/{kind}")
        out[kind] = decoded(hook, net), hook.state_dict()
    return out


def load(rank: int, folder: str) -> dict[str, Any]:
    """Everything that a checkpoint of another number of processes can be asked for."""
    out: dict[str, Any] = {}
    world = dist.get_world_size() if dist.is_initialized() else 1
    for kind in KINDS:
        where = f"{folder}/{kind}"
        size = {"hook": {"world_size": 0}}
        dcp.load(size, checkpoint_id=where)
        saved = size["hook"]["world_size"]
        out[kind] = {"saved": saved}
        for residuals in ("sum", "drop"):
            net, wrapped, hook = make(kind)
            hook.init_state(net)
            state = {"hook": hook.state_dict(world_size=saved)}
            dcp.load(state, checkpoint_id=where)
            try:
                hook.load_state_dict(state["hook"])
            except ValueError as error:
                out[kind]["refused"] = str(error)
            hook.load_state_dict(state["hook"], residuals)
            out[kind][residuals] = decoded(hook, net)
            out[kind][f"{residuals} compressors"] = hook.state_dict()[f"rank_{rank}_of_{world}"][
                "compressors"
            ]
            gradients(net, wrapped, 3, rank)
    return out


def quiet(rank: int, folder: str, fn: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own typed storages
        return fn(rank, folder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[Any]]]:
    """Folders with what 2 and 4 processes saved."""
    out = {}
    for world in (2, 4):
        folder = tmp_path_factory.mktemp(f"of_{world}")
        out[world] = folder, in_processes(partial(quiet, folder=str(folder), fn=save), world)
    return out


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (4, 2)])
def test_another_number_of_processes(
    before: int, after: int, checkpoints: dict[int, tuple[Path, list[Any]]]
) -> None:
    folder, saved = checkpoints[before]
    run = partial(quiet, folder=str(folder), fn=load)
    for everything in [run(0)] if after == 1 else in_processes(run, after):
        for kind, got in everything.items():
            assert got["saved"] == before
            for text in (f"_of_{before}'", f"_of_{after};", "='sum' shares", "world_size=..."):
                assert text in got["refused"]
            for name, mean in got["sum"].items():
                want = sum(one[kind][0][name] for one in saved) / before
                exact = KINDS[kind][1] is None
                atol = 1e-6 if exact else 0.1 * float(want.abs().max())
                torch.testing.assert_close(mean, want, rtol=0, atol=atol)
                assert want.abs().max() > 0 or kind == "low_rank"
                assert not got["drop"][name].any()
            # What compressors remember is the same everywhere, and goes on.
            first = gx.tree.leaves(saved[0][kind][1][f"rank_0_of_{before}"].get("compressors", {}))
            for which in ("sum", "drop"):
                again = gx.tree.leaves(got[f"{which} compressors"])
                assert len(again) == len(first)
                assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
