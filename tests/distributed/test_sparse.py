"""Sparse training in two processes: the same masks everywhere, from parameters that are equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradtx as gx

from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

PHASES = gx.sparsity.phases(("dense", 2), ("sparse", 2), ("dense", 1), ("sparse", 2))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def backward(net: nn.Module, step: int, rank: int | None = None) -> None:
    """A backward pass on one half of the batch, or on all of it."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)
    if rank is not None:
        x, y = x.chunk(2)[rank], y.chunk(2)[rank]
    net.zero_grad()
    (net(x) - y).square().mean().backward()


def optimizers(net: nn.Module) -> dict[str, torch.optim.Optimizer]:
    named = list(net.named_parameters())
    tx = gx.acdc(gx.adamw(0.05), PHASES, 0.6)
    return {
        "class": gx.optim.ACDC(named, lr=0.1, schedule=PHASES, support=0.6),
        "chain": gx.optim.from_transform(tx, named),
    }


def alternating(rank: int) -> dict[str, Any]:
    """Masks and parameters after every step, and how far gradients were apart before averaging."""
    out: dict[str, Any] = {}
    for name in ("class", "chain"):
        net, alone = network(), network()
        wrapped = DistributedDataParallel(net)
        opt = optimizers(net)[name]
        steps = []
        for step in range(7):
            gx.optim.project(opt)
            alone.load_state_dict(net.state_dict())
            backward(alone, step, rank)
            own = [p.grad.clone() for p in alone.parameters()]
            backward(wrapped, step, rank)
            opt.step()
            steps.append((gx.optim.masks(opt), [p.detach().clone() for p in net.parameters()], own))
        out[name] = steps
    return out


def test_masks_are_equal_on_all_ranks() -> None:
    one, two = in_processes(alternating)
    for name in ("class", "chain"):
        net = network()
        opt = optimizers(net)[name]
        for step, (a, b) in enumerate(zip(one[name], two[name], strict=True)):
            assert not torch.equal(a[2][0], b[2][0])  # each rank had gradients of its own
            for leaf, mask in a[0].items():
                other = b[0][leaf]
                assert mask is other or torch.equal(mask, other), (step, leaf)
            for p, q in zip(a[1], b[1], strict=True):
                assert torch.equal(p, q)
            gx.optim.project(opt)
            backward(net, step)
            opt.step()
            for p, q in zip(a[1], net.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
                assert torch.equal(p == 0, q == 0)
            if PHASES.is_sparse(step):
                kept = sum(int(m.sum()) for m in a[0].values() if m is not None)
                assert kept == 39  # ceil(100 * 0.4) - 1
