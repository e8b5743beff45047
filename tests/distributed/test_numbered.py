"""Random numbers of elements on shards: those of whole leaves, without anything being sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard

import gradtx as gx

from .test_sharded import full, mesh_of, shard
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

# Uneven, empty on some ranks, of one element there, and of as many as a key has numbers.
SHAPES = {"w": (7, 5), "b": (5,), "k": (3, 4, 5), "one": (1,), "wide": (3, 301), "pair": (2,)}
SHAPES |= {"blocks": (8, 64), "stack": (4, 6, 5)}
STEPS = 3
Make = Callable[[Any], gx.optim.Optimizer]


def ending(*chain: gx.GradientTransformation) -> Make:
    tx = gx.chain(*chain, gx.scale_by_learning_rate(0.01), gx.stochastic_round(5))
    return lambda ps: gx.optim.from_transform(tx, ps)


ELEMENTWISE: dict[str, Make] = {
    "AdamAdv": lambda ps: gx.optim.AdamAdv(ps, lr=0.01, weight_decay=0.1),
    "operations": lambda ps: gx.optim.AdamAdv(ps, lr=0.01, fused=False),
    "noise": lambda ps: gx.optim.NoisySGD(ps, lr=0.1),
    "masked": ending(gx.masked(gx.add_noise(0.1, 0.5), lambda leaf: leaf.ndim > 1)),
    "local": lambda ps: gx.optim.compute_layout(ending(gx.trace(0.9))(ps), lambda leaf: "local"),
}
OPTIMIZERS = ELEMENTWISE | {
    "clipped": ending(gx.clip_by_global_norm(0.5), gx.trace(0.9)),
    "factored": lambda ps: gx.optim.AdamAdv(ps, lr=0.01, factored=True),  # by rows
}
# Blocks of 64 codes, whole where rows are cut in two.
CODED = ending(gx.scale_by_adam(mu_codec=gx.codecs.blockwise(8, block_size=64, min_size=64)))

EXPERTS = ending(gx.orthogonalize())


def trained(make: Make, mesh: Any = None, where: Any = None, only: Any = SHAPES) -> dict[str, Any]:
    """Parameters after some steps, and how many collectives the last of them called."""
    g = torch.Generator().manual_seed(1)

    def part(name: str) -> Tensor:
        x = torch.randn(SHAPES[name], generator=g).to(torch.bfloat16)
        return x if mesh is None else shard(x, mesh, where if x.ndim > 1 else None)

    params = {name: nn.Parameter(part(name)) for name in only}
    opt = make(list(params.items()))
    for _ in range(STEPS):
        for name, p in params.items():
            p.grad = part(name)
        with CommDebugMode() as counted:
            opt.step()
    return {"params": full(params), "collectives": counted.get_total_counts()}


def on_two(rank: int) -> dict[Any, Any]:
    mesh = mesh_of("one axis")
    out = {
        (name, f"dimension {dim}"): trained(make, mesh, [Shard(dim)])
        for name, make in OPTIMIZERS.items()
        for dim in range(2)
    }
    out["coded", "dimension 0"] = trained(CODED, mesh, [Shard(0)], ["blocks"])
    out["experts", "dimension 0"] = trained(EXPERTS, mesh, [Shard(0)], ["stack"])
    return out


def on_four(rank: int) -> dict[Any, Any]:
    mesh, out = mesh_of("two axes"), {}
    for name in ("AdamAdv", "operations", "noise", "clipped", "factored"):
        out[name, "replicated"] = trained(OPTIMIZERS[name], mesh, [Replicate(), Shard(0)])
        if name in ELEMENTWISE:
            out[name, "both"] = trained(OPTIMIZERS[name], mesh, [Shard(0), Shard(1)])
    out["AdamAdv", "rows"] = trained(OPTIMIZERS["AdamAdv"], mesh, [Shard(0), Shard(0)])
    # As fully_shard cuts what tensor parallelism has cut before.
    strided = [_StridedShard(0, split_factor=2), Shard(0)]
    out["blocks", "twice"] = trained(OPTIMIZERS["AdamAdv"], mesh, strided, ["blocks"])
    return out


@pytest.mark.parametrize(("run", "world"), [(on_two, 2), (on_four, 4)])
def test_shards_draw_what_whole_leaves_draw(run: Any, world: int) -> None:
    wrong, counted = {}, {}
    wanted = {name: trained(make)["params"] for name, make in OPTIMIZERS.items()}
    wanted["coded"] = trained(CODED, only=["blocks"])["params"]
    wanted["experts"] = trained(EXPERTS, only=["stack"])["params"]
    wanted["blocks"] = trained(OPTIMIZERS["AdamAdv"], only=["blocks"])["params"]
    for found in in_processes(run, world):
        for (name, where), out in found.items():
            counted[name, where] = out["collectives"]
            for leaf, x in wanted[name].items():
                # Sums in another order: a last bit may decide which way.
                few = 1 + x.numel() // 1000 if name in ("factored", "experts") else 0
                if (different := int(out["params"][leaf].ne(x).sum())) > few:
                    wrong[name, where, leaf] = different
    assert not wrong
    sent = {key: count for key, count in counted.items() if key[0] != "factored"}
    assert sent == {key: int(key[0] == "clipped") for key in sent}
