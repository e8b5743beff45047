"""ZeRO and FSDP2 in a process group of one: what they ask of an optimizer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist

import gradtx as gx

from ..contract.cases import assert_close, assert_same_state, leaves, snapshot

CLASSES = ["AdamW", "SGD", "Lion"]


@pytest.fixture(scope="module", autouse=True)
def _process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def loss_of(model: torch.nn.Module, t: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(t)
    return model(torch.randn(5, 3, generator=generator)).square().mean()


@pytest.mark.parametrize("name", CLASSES)
def test_zero_redundancy(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.distributed.optim uses torch.jit.script
        from torch.distributed.optim import ZeroRedundancyOptimizer
    cls = getattr(gx.optim, name)
    sharded, plain = network(), network()
    zero = ZeroRedundancyOptimizer(sharded.parameters(), optimizer_class=cls, lr=0.05)
    opt = cls(plain.parameters(), lr=0.05)
    for t in range(3):
        for model, o in ((sharded, zero), (plain, opt)):
            o.zero_grad()
            loss_of(model, t).backward()
            o.step()
        if t == 1:
            for o in (zero, opt):
                o.param_groups[0]["lr"] = 0.01
    zero.consolidate_state_dict()
    restored = cls(network().parameters(), lr=0.05)
    restored.load_state_dict(zero.state_dict())
    assert_close(sharded.parameters(), plain.parameters())
    assert_same_state(snapshot(opt), snapshot(restored))


def full(model: torch.nn.Module) -> list[Any]:
    return [p.full_tensor() for p in model.parameters()]


@pytest.mark.parametrize("name", CLASSES)
def test_fully_shard(name):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    cls = getattr(gx.optim, name)
    mesh = init_device_mesh("cpu", (1,))
    sharded, plain = fully_shard(network(), mesh=mesh), network()
    one, two = cls(sharded.parameters(), lr=0.05), cls(plain.parameters(), lr=0.05)
    for t in range(3):
        for model, o in ((sharded, one), (plain, two)):
            o.zero_grad()
            loss_of(model, t).backward()
            o.step()
    assert_close(full(sharded), plain.parameters())
    for p in sharded.parameters():
        for key, value in snapshot_of(one.state[p]).items():
            if value.shape == p.shape and value.ndim:
                assert isinstance(value, DTensor), key
                assert value.placements == p.placements, key
    saved = get_optimizer_state_dict(sharded, one)
    other = fully_shard(network(), mesh=mesh)
    fresh = cls(other.parameters(), lr=0.05)
    set_optimizer_state_dict(other, fresh, optim_state_dict=saved)
    for p, q in zip(sharded.parameters(), other.parameters(), strict=True):
        a, b = snapshot_of(one.state[p]), snapshot_of(fresh.state[q])
        assert a.keys() == b.keys()
        for key, value in a.items():
            x, y = (v.full_tensor() if isinstance(v, DTensor) else v for v in (value, b[key]))
            assert torch.equal(x, y), key


def snapshot_of(nested: dict[str, Any]) -> dict[str, Any]:
    return dict(leaves(nested))
