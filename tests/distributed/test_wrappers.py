"""What torch's wrappers do to parameters and gradients, against one process that has them all."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradtx as gx

from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def gradients(net: nn.Module, step: int, part: int = 0, parts: int = 1) -> None:
    """A backward pass on a share of the batch."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)
    net.zero_grad()
    x, y = x.chunk(parts)[part], y.chunk(parts)[part]
    (net(x) - y).square().mean().backward()


def message_of(fn: Any) -> str:
    """What an error says."""
    try:
        fn()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def stepping_in_backward(rank: int) -> dict[str, Any]:
    """Errors of both orders of wrapping, and a plain step once the hooks are gone."""
    out: dict[str, Any] = {}
    net = module()
    wrapped = DistributedDataParallel(net)
    opt = gx.optim.AdamW(net.named_parameters(), lr=0.1)
    out["wrapped before"] = message_of(lambda: gx.optim.step_in_backward(opt))
    net = module()
    opt = gx.optim.AdamW(net.named_parameters(), lr=0.1)
    handle = gx.optim.step_in_backward(opt)
    out["wrapped after"] = message_of(lambda: DistributedDataParallel(net))
    other = DistributedDataParallel(module())  # has none of its parameters
    gradients(other, 0, rank, 2)
    handle.remove()
    wrapped = DistributedDataParallel(net)
    gradients(wrapped, 0, rank, 2)
    opt.step()
    out["params"] = [p.detach() for p in net.parameters()]
    alone = module()
    opt = gx.optim.AdamW(alone.named_parameters(), lr=0.1)
    with gx.optim.step_in_backward(opt):
        gradients(alone, 0)
    out["alone"] = [p.detach() for p in alone.parameters()]
    return out


def test_steps_in_backward_are_refused_where_gradients_are_averaged_later() -> None:
    for out in in_processes(stepping_in_backward):
        for order in ("wrapped before", "wrapped after"):
            assert out[order].startswith("ValueError: step_in_backward: parameter '0.weight'")
            assert "AdamW is in a DistributedDataParallel module" in out[order]
            assert "call optimizer.step() after backward()" in out[order]
        for p, q in zip(out["params"], out["alone"], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


class Sometimes(nn.Module):
    """A layer that no process uses at odd steps, and one that one process uses then."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.never, self.one = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor, step: int, rank: int) -> Tensor:
        h = self.first(x)
        if step % 2 == 0:
            h = h + self.never(x)
        if step % 2 == 0 or rank == 0:
            h = h + self.one(x)
        return h


def sometimes(rank: int) -> dict[str, dict[str, Tensor]]:
    """What was given, received and is remembered of every leaf."""
    net = Sometimes()
    wrapped = DistributedDataParallel(net, find_unused_parameters=True)
    hook = gx.distributed.comm_hook(gx.compressors.top_k(0.3))
    wrapped.register_comm_hook(net, hook)
    given = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    got = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for step in range(6):
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(10 * step + rank))
        net.zero_grad()
        net(x, step, rank).square().sum().backward()
        for name, p in net.named_parameters():
            given[name] += 0 if p.grad is None else p.grad
        net.zero_grad()
        wrapped(x, step, rank).square().sum().backward()
        for name, p in net.named_parameters():
            got[name] += 0 if p.grad is None else p.grad
    return {"given": given, "got": got, "kept": hook.state_dict()[f"rank_{rank}_of_2"]["errors"]}


def test_a_leaf_that_no_process_uses_keeps_what_is_remembered() -> None:
    one, two = in_processes(sometimes)
    for name, got in one["got"].items():
        mean = (one["given"][name] + two["given"][name]) / 2
        kept = (one["kept"][name] + two["kept"][name]) / 2
        torch.testing.assert_close(got + kept, mean, rtol=1e-4, atol=1e-5)


NOT_ZERO: dict[str, Any] = {
    "clip": lambda ps: gx.optim.from_transform(
        gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam()), ps
    ),
    "Prodigy": lambda ps: gx.optim.Prodigy(ps),
}
# One of every kind that looks at single leaves.
IN_ZERO: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.1},
    "APOLLO": {"lr": 0.1, "rank": 2},  # seeds come from names
    "NoisySGD": {"lr": 0.1},
    "MicroAdam": {"density": 0.3},
    "AdamW8bit": {"lr": 0.1, "min_size": 1, "block_size": 16},
    "Shampoo": {"lr": 0.1},
    "ScheduleFreeAdamW": {"lr": 0.1},
}
SCHEDULED = gx.chain(gx.scale_by_schedule(lambda count: 1.0 / (1 + count)), gx.trace(0.9))


def in_zero(rank: int) -> dict[str, Any]:
    """Errors of chains that see all leaves, and the others' parameters with those of a twin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.distributed.optim uses torch.jit.script
        from torch.distributed.optim import ZeroRedundancyOptimizer
    out: dict[str, Any] = {}

    for name, make in NOT_ZERO.items():
        net = module()
        zero = ZeroRedundancyOptimizer(net.parameters(), make)
        gradients(net, 0)
        before = [p.detach().clone() for p in net.parameters()]
        out[name] = message_of(zero.step)
        same = (torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))
        assert all(same)
        assert not zero.optim.state
    for name, options in IN_ZERO.items():
        cls = getattr(gx.optim, name)
        net, twin, alone_too = module(), module(), module()
        zero = ZeroRedundancyOptimizer(net.parameters(), cls, **options)
        one = cls(twin.parameters(), **options)
        for step in range(4):
            if step == 2:  # goes on from a checkpoint, in several processes and in one
                zero.consolidate_state_dict()
                saved = [zero.state_dict() if rank == 0 else None]
                dist.broadcast_object_list(saved)
                zero = ZeroRedundancyOptimizer(net.parameters(), cls, **options)
                zero.load_state_dict(copy.deepcopy(saved[0]))
                alone_too.load_state_dict(net.state_dict())
                loaded = cls(alone_too.parameters(), **options)
                loaded.load_state_dict(saved[0])
            for some, opt in ((net, zero), (twin, one)):
                gradients(some, step)
                opt.step()
            if step > 1:
                gradients(alone_too, step)
                loaded.step()
        out[name] = [
            (p.detach(), q.detach(), r.detach())
            for p, q, r in zip(*(x.parameters() for x in (net, twin, alone_too)), strict=True)
        ]
    # Leaves of one process have a gradient, and all count the step.
    for name in ("zero", "zero1"):
        net, twin = module(), module()
        zero, one = (
            gx.optim.from_transform(SCHEDULED, x.parameters(), lr=0.1) for x in (net, twin)
        )
        if name == "zero1":
            gx.optim.zero1(zero)
        else:
            zero = ZeroRedundancyOptimizer(
                net.parameters(), lambda ps: gx.optim.from_transform(SCHEDULED, ps, lr=0.1)
            )
        for step in range(4):
            for some, opt in ((net, zero), (twin, one)):
                gradients(some, step)
                for i, p in enumerate(some.parameters()):
                    p.grad = p.grad if step > 1 or i == step else None
                opt.step()
        out[name] = [
            (p.detach(), q.detach())
            for p, q in zip(net.parameters(), twin.parameters(), strict=True)
        ]
    return out


def test_zero_redundancy() -> None:
    for out in in_processes(in_zero):
        for name, member in (("clip", "clip_by_global_norm"), ("Prodigy", "scale_by_prodigy")):
            assert out[name].startswith("ValueError: ")
            assert f"{member} looks at all leaves together" in out[name]
        for name in (*IN_ZERO, "zero", "zero1"):
            for p, *others in out[name]:
                assert all(torch.equal(p, q) for q in others), name


SLICED = {
    "Muon": "Muon: leaf '.*' is a flat slice of FullyShardedDataParallel.*as_matrices",
    "LAMB": "LAMB: leaf '.*' is a flat slice of .*scale_by_trust_ratio.*fully_shard",
}


def in_slices(rank: int) -> dict[str, Any]:
    """Errors of chains that are not pointwise, and the outputs of an AdamW beside its twin's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.fsdp import FullyShardedDataParallel

        out: dict[str, Any] = {}
        for original in (True, False):

            def wrapped(original: bool = original) -> nn.Module:
                return FullyShardedDataParallel(
                    module(), use_orig_params=original, device_id=torch.device("cpu")
                )

            for name in SLICED:
                net = wrapped()
                opt = getattr(gx.optim, name)(net.parameters(), lr=0.1)
                gradients(net, 0, rank, 2)
                out[f"{name} {original}"] = message_of(opt.step)
                assert not opt.state
            net, twin = wrapped(), module()
            opt = gx.optim.AdamW(net.parameters(), lr=0.1)
            alone = gx.optim.AdamW(twin.parameters(), lr=0.1)
            for step in range(3):
                gradients(net, step, rank, 2)
                opt.step()
                gradients(twin, step)
                alone.step()
            x = torch.ones(2, 6)
            out[f"AdamW {original}"] = net(x).detach(), twin(x).detach()
    return out


def test_flat_slices_are_for_pointwise_chains() -> None:
    for out in in_processes(in_slices):
        for original in (True, False):
            for name, text in SLICED.items():
                assert re.search(text, out[f"{name} {original}"]), out[f"{name} {original}"]
            torch.testing.assert_close(*out[f"AdamW {original}"], rtol=1e-4, atol=1e-4)
