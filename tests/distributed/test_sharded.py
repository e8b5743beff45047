"""Optimizers on DTensors against one process that has the whole tensors."""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradtx as gx
from gradtx.distributed.records import is_distributed, local_part

from .test_wrappers import message_of
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

# Uneven, and empty on all ranks but the first; and one that never has a gradient.
SHAPES = {"w": (7, 5), "b": (5,), "k": (3, 4, 2), "one": (1,), "square": (6, 6), "never": (3, 2)}
STEPS = 3
# Factors need whole matrices; what follows keeps its state on shards.
CUT = gx.partition(
    {
        "matrix": gx.chain(
            gx.as_matrices(gx.orthogonalize()),
            gx.trace(0.9, nesterov=True),
            gx.add_decayed_weights(0.1),
        ),
        "vector": gx.trace(0.9),
    },
    by=lambda info: "matrix" if info.ndim > 1 else "vector",
)
# Experts, and heads where they are divisible, are whole on their ranks.
STACKED = gx.partition(
    {
        "experts": gx.chain(gx.trace(0.9), gx.orthogonalize(), gx.scale_by_shape("spectral_norm")),
        "heads": gx.chain(
            gx.trace(0.9),
            gx.split_rows(gx.chain(gx.orthogonalize(), gx.normalize_neurons(0.9)), blocks=2),
        ),
        "others": gx.trace(0.9),
    },
    by=lambda info: {"k": "experts", "square": "heads"}.get(info.name, "others"),
)
SCHEDULED = gx.chain(gx.scale_by_schedule(lambda count: 1.0 / (1 + count)), gx.trace(0.9))
CLIPPED = gx.chain(gx.clip_by_global_norm(0.5), gx.scale_by_adam())
MATRICES = gx.partition(
    {
        "matrix": gx.chain(gx.trace(0.9), gx.as_matrices(gx.orthogonalize())),
        "vector": gx.trace(0.9),
    },
    by=lambda info: "matrix" if info.ndim > 1 else "vector",
)
# Of some owners kernels would do all leaves, and of others none.
CLIPPED_MATRICES = gx.chain(gx.clip_by_global_norm(0.5), MATRICES)
# Of the leaves that are summed some owners have none.
CLIPPED_SOME = gx.partition(
    {
        "square": gx.chain(gx.clip_by_global_norm(0.5), gx.trace(0.9), gx.orthogonalize()),
        "others": gx.trace(0.9),
    },
    by=lambda info: "square" if info.name in ("square", "last.weight") else "others",
)
Make = Callable[[Any], gx.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda ps: gx.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "Lion": lambda ps: gx.optim.Lion(ps, lr=0.01),
    "SGD": lambda ps: gx.optim.SGD(ps, lr=0.01),
    "Muon": lambda ps: gx.optim.Muon(ps, lr=0.01, weight_decay=0.1),
    "LAMB": lambda ps: gx.optim.LAMB(ps, lr=0.01),
    "Adafactor": lambda ps: gx.optim.Adafactor(ps, lr=0.01),
    "factored": lambda ps: gx.optim.AdamAdv(ps, lr=0.01, factored=True),
    "APOLLO": lambda ps: gx.optim.APOLLO(ps, lr=0.01, rank=2),  # seeds come from names
    "Prodigy": lambda ps: gx.optim.Prodigy(ps, d0=1e-2, d_coef=20.0),
    "clipped": lambda ps: gx.optim.from_transform(CLIPPED, ps, lr=0.01),
    "clipped matrices": lambda ps: gx.optim.from_transform(CLIPPED_MATRICES, ps, lr=0.01),
    "clipped, some": lambda ps: gx.optim.from_transform(CLIPPED_SOME, ps, lr=0.01),
    "masked": lambda ps: gx.optim.from_transform(
        gx.chain(gx.scale_by_adam(), gx.masked(gx.scale_by_trust_ratio(), lambda x: x.ndim > 1)),
        ps,
        lr=0.01,
    ),
    "cut": lambda ps: gx.optim.from_transform(CUT, ps, lr=0.01, maximize=True),
    "stacked": lambda ps: gx.optim.from_transform(STACKED, ps, lr=0.01),
    # Every leaf in a bucket of its own; one of them has no gradient in a step that all count.
    "buckets": lambda ps: gx.optim.compute_layout(
        gx.optim.from_transform(SCHEDULED, ps, lr=0.01), lambda leaf: "owned", bucket_bytes=1
    ),
    # Nine blocks on each of two ranks.
    "blocks": lambda ps: gx.optim.AdamW4bit(
        [x for x in ps if x[0] == "square"], lr=0.01, min_size=8, block_size=2
    ),
    # One head on each of two ranks.
    "heads": lambda ps: gx.optim.NorMuon([x for x in ps if x[0] == "square"], num_heads=2),
    # Numbers of elements are those in whole leaves.
    "noise": lambda ps: gx.optim.NoisySGD(ps, lr=0.01, weight_decay=0.1),
    "replicate": lambda ps: gx.optim.compute_layout(
        gx.optim.NorMuon(ps, lr=0.01), lambda leaf: "replicate" if leaf.ndim > 1 else None
    ),
    "two chains": lambda ps: gx.optim.Muon(
        [{"params": ps[:3]}, {"params": ps[3:], "matrix": False, "lr": 0.02}]
    ),
}
# Sums of other order, or products that are rounded before they are added to something.
ROUNDED = {"Prodigy": 2e-6, "clipped": 2e-6, "clipped matrices": 2e-6, "cut": 1e-7, "buckets": 1e-7}
ROUNDED |= dict.fromkeys(("LAMB", "Adafactor", "factored", "masked", "stacked"), 2e-7)
# What lies on shards as their parameter does.
MEMBERS = {
    "AdamW": ("scale_by_adam", "mu"),
    "cut": ("partition", "matrix", "trace", "trace"),
    "factored": ("quotient", "numerator", "first_moment", "mu", "sign"),
}
# Others send leaves to owners and back, or add up rows and say before which gradients there are.
COLLECTIVES = {
    "AdamW": 0,
    "Lion": 0,
    "SGD": 0,
    "clipped": 1,
    "clipped matrices": 3,
    "stacked": 0,
    "blocks": 0,
    "heads": 0,
    "noise": 0,
    "replicate": 1,
}
# Some leaves are of neither kind: stacked factors, rows of a nearly square form that are cut.
BOTH = {"Adafactor": 6, "factored": 4}
# One for every way to update leaves.
EVERY_WAY = (
    "AdamW",
    "Prodigy",
    "clipped",
    "clipped matrices",
    "LAMB",
    "factored",
    "Muon",
    "cut",
    "buckets",
    "blocks",
    "noise",
    "replicate",
    "stacked",
)


def whole(step: int, missing: tuple[str, ...] = ()) -> dict[str, Tensor | None]:
    g = torch.Generator().manual_seed(step)
    made = {n: torch.randn(s, generator=g) for n, s in SHAPES.items()}
    return {n: None if n in missing else x for n, x in made.items()}


def mesh_of(kind: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    if kind == "one axis":
        return init_device_mesh("cpu", (dist.get_world_size(),))
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))


def placements(mesh: Any) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    return [Replicate()] * (mesh.ndim - 1) + [Shard(0)]


def shard(x: Tensor, mesh: Any, where: Any = None) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, mesh, where or placements(mesh))


def leaves(mesh: Any = None) -> dict[str, nn.Parameter]:
    return {
        n: nn.Parameter(x if mesh is None else shard(x, mesh))
        for n, x in whole(99).items()
        if x is not None
    }


def step(opt: Any, params: dict[str, nn.Parameter], t: int, mesh: Any = None) -> int:
    """One step; says how many collectives it called."""
    from torch.distributed.tensor.debug import CommDebugMode

    missing = ("k", "never") if t == 1 else ("never",)
    for n, g in whole(t, missing).items():
        params[n].grad = g if g is None or mesh is None else shard(g, mesh)
    if mesh is None:
        opt.step()
        return 0
    with CommDebugMode() as counted:
        opt.step()
    return counted.get_total_counts()  # type: ignore[no-any-return]


class InFlight:
    """Counts exchanges that have begun and are not waited for."""

    def __init__(self) -> None:
        self.now = self.most = self.begun = self.sent = 0
        self._begin = dist.all_to_all_single

    def __enter__(self) -> InFlight:
        dist.all_to_all_single = self._counted
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_to_all_single = self._begin

    def _counted(self, *args: Any, **kwargs: Any) -> Any:
        self._work = self._begin(*args, **kwargs)
        self.now += 1
        self.begun += 1
        self.sent += args[1].nbytes
        self.most = max(self.most, self.now)
        return Waited(self, self._work)


class Waited:
    """An exchange that says when it is waited for."""

    def __init__(self, counted: InFlight, work: Any) -> None:
        self._counted, self._work = counted, work

    def wait(self) -> None:
        self._work.wait()
        self._counted.now -= 1


def full(params: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {
        n: p.full_tensor().detach() if is_distributed(p) else p.detach().clone()  # type: ignore[attr-defined]
        for n, p in params.items()
    }


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[n] - b[n]).abs().max().item() for n in a)


@functools.cache
def alone(name: str) -> dict[str, Tensor]:
    params = leaves()
    opt = OPTIMIZERS[name](list(params.items()))
    for t in range(STEPS):
        step(opt, params, t)
    return full(params)


def trained(kind: str, saved: bool) -> dict[str, Any]:
    """Steps of every optimizer, and where wanted its state between them, and a step from that."""
    mesh, out = mesh_of(kind), {}
    for name in OPTIMIZERS if saved else EVERY_WAY:
        make, params = OPTIMIZERS[name], leaves(mesh)
        opt = make(list(params.items()))
        for t in range(STEPS - 1):
            step(opt, params, t, mesh)
        if saved:
            state = opt.state_dict()
            again = {n: nn.Parameter(p.detach().clone()) for n, p in params.items()}
            other = make(list(again.items()))
            other.load_state_dict(state)
            out[name, "state"] = copy.deepcopy(_whole(other.state_dict())), full(again)
            step(other, again, STEPS - 1, mesh)
            out[name, "again"] = full(again)
        out[name, "collectives"] = step(opt, params, STEPS - 1, mesh)
        out[name, "params"] = full(params)
        if name in MEMBERS:
            x = functools.reduce(operator.getitem, MEMBERS[name], opt.state[params["w"]])
            assert x.placements == params["w"].placements
            assert x.shape == ((7, 1) if name == "factored" else (7, 5))
    return out


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()}
    return value.full_tensor() if is_distributed(value) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [x for v in value.values() for x in _tensors(v)]
    return [value] if isinstance(value, Tensor) else []


def one_axis(rank: int) -> dict[str, Any]:
    return trained("one axis", True)


def two_axes(rank: int) -> dict[str, Any]:
    return trained("two axes", False) | cut_twice(mesh_of("two axes"))


def cut_twice(mesh: Any) -> dict[Any, Any]:
    """Leaves that two axes cut along one dimension: what was wrong, and collectives."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    out: dict[Any, Any] = {}
    shapes = {"experts": (4, 3, 2), "heads": (8, 5), "blocks": (8, 4)}
    makers: dict[str, Make] = {
        "experts": lambda ps: gx.optim.Muon(ps, lr=0.1, convolutions="batch"),
        "heads": lambda ps: gx.optim.NorMuon(ps, lr=0.1, num_heads=4),
        "blocks": lambda ps: gx.optim.AdamW8bit(ps, lr=0.1, min_size=8, block_size=4),
    }
    strided = _StridedShard(0, split_factor=2)  # as fully_shard does after tensor parallelism
    for where in ([Shard(0), Shard(0)], [strided, Shard(0)]):
        for name, make in makers.items():
            g = torch.Generator().manual_seed(0)
            x = torch.randn(shapes[name], generator=g)
            p, twin = nn.Parameter(shard(x, mesh, where)), nn.Parameter(x.clone())
            opt, alone = make([(name, p)]), make([(name, twin)])
            for t in range(STEPS):
                twin.grad = torch.randn(shapes[name], generator=g)
                p.grad = shard(twin.grad, mesh, where)
                with InFlight() as counted:
                    opt.step()
                alone.step()
                if not t:
                    opt.load_state_dict(opt.state_dict())
            error = apart(full({name: p}), {name: twin.detach()})
            out[f"{name} {where[0]}", "cut twice"] = error, counted.begun
    p = nn.Parameter(shard(torch.ones(8, 5), mesh, [Replicate(), strided]))
    p.grad = shard(torch.ones(8, 5), mesh, [Replicate(), strided])
    out["rows", "refused"] = message_of(gx.optim.Muon([("w", p)]).step)
    return out


@pytest.mark.parametrize(("run", "world"), [(one_axis, 2), (two_axes, 4)])
def test_sharded_equals_whole(run: Any, world: int) -> None:
    wrong, counted = {}, {}
    for out in in_processes(run, world):
        for (name, what), found in out.items():
            if what == "collectives":
                counted[name] = found
                continue
            if what == "cut twice":
                assert found == (0, 0), name
                continue
            if what == "refused":
                assert re.search("Muon: leaf 'w' has .* do not lie together; redistribute", found)
                continue
            if what == "state":  # from whole tensors alone
                state, params = found
                fresh = {n: nn.Parameter(p) for n, p in params.items()}
                opt = OPTIMIZERS[name](list(fresh.items()))
                opt.load_state_dict(state)
                step(opt, fresh, STEPS - 1)
                found = full(fresh)
            error = apart(found, alone(name))
            if error > ROUNDED.get(name, 0):
                wrong[name, what] = error
    assert not wrong
    # A leaf of one element stays with the rank that has it, if there is only one.
    wanted = (
        COLLECTIVES | BOTH | {"buckets": 10} | ({"LAMB": 4, "buckets": 12} if world == 4 else {})
    )
    assert counted == {name: wanted.get(name, 2) for name in counted}
    assert set(counted) == set(OPTIMIZERS if world == 2 else EVERY_WAY)


def soap(ps: Any) -> gx.optim.Optimizer:
    return gx.optim.SOAP(ps, lr=0.01)


def as_local(leaf: gx.LeafInfo) -> str | None:
    return "local" if leaf.ndim > 1 else None


def odd(rank: int) -> dict[str, Any]:
    """What is unusual about leaves and gradients, and what is refused."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh, out = mesh_of("one axis"), {}
    for name in ("AdamW", "Muon"):
        make = OPTIMIZERS[name]
        # All of it everywhere, and no tensor of another kind.
        params = {
            "w": nn.Parameter(shard(torch.ones(4, 3), mesh, [Replicate()])),
            "plain": nn.Parameter(torch.ones(3, 4)),
            "cut": nn.Parameter(shard(torch.ones(5, 2), mesh)),
        }
        opt = make(list(params.items()))
        grads = {n: torch.arange(float(p.numel())).view(p.shape) for n, p in params.items()}
        half = DTensor.from_local(grads["w"] / 2, mesh, [Partial()])
        params["w"].grad = half  # type: ignore[assignment]
        params["plain"].grad, params["cut"].grad = grads["plain"], shard(grads["cut"], mesh)
        opt.step()
        twins = {n: nn.Parameter(torch.ones(p.shape)) for n, p in params.items()}
        for n, p in twins.items():
            p.grad = grads[n]
        make(list(twins.items())).step()
        out[f"{name} replicated"] = apart(full(params), full(twins))
    # A gradient that only one rank has: zeros elsewhere, by rows and at owners.
    g = torch.zeros(7, 5)
    g[:4] = 1.0
    whole_g = shard(g, mesh)
    for fused in (None, False):
        params, twin = leaves(mesh), leaves()
        params["w"].grad, twin["w"].grad = whole_g if rank == 0 else None, g
        for some in (params, twin):
            opt = OPTIMIZERS["LAMB"](list(some.items()))
            opt.param_groups[0]["fused"] = fused
            opt.step()
        out["on one rank", fused] = apart(full(params), full(twin))
    # What kernels do not do, by rows.
    opt = OPTIMIZERS["LAMB"]([("w", leaves(mesh)["w"])])
    for p in opt.param_groups[0]["params"]:
        p.grad = p.detach().clone()
    opt.param_groups[0]["lr"] = torch.ones(5)
    out["entries"] = message_of(opt.step)
    # Refused.
    part = DTensor.from_local(torch.ones(2, 3), mesh, [Partial()])
    p = nn.Parameter(part)
    p.grad = part.clone()
    out["partial"] = message_of(gx.optim.Muon([("w", p)]).step)
    # All of it everywhere, with a state that operators of the project's own make.
    everywhere = [("w", nn.Parameter(shard(torch.ones(4, 3), mesh, [Replicate()])))]
    eight = [gx.optim.AdamW8bit(everywhere, lr=0.01, min_size=1) for _ in range(2)]
    everywhere[0][1].grad = shard(torch.ones(4, 3), mesh, [Replicate()])
    eight[0].step()
    eight[1].load_state_dict(eight[0].state_dict())
    eight[1].step()
    out["loaded"] = apart(full(dict(everywhere)), {"w": torch.full((4, 3), 0.98)})
    # Of a leaf's shape by chance, and of a dtype that torch could not gather.
    ten = nn.Parameter(shard(torch.ones(10, 4), mesh))
    ten.grad = shard(torch.arange(40.0).view(10, 4), mesh)
    micro = gx.optim.MicroAdam([("ten", ten)], density=0.1)
    micro.step()
    kept = _tensors(micro.state_dict()["state"])
    out["gathered"] = {(x.dtype, is_distributed(x)) for x in kept if x.shape == ten.shape}
    # Of a leaf's shape by chance, too: the key of random numbers, which is on every rank.
    pair = nn.Parameter(shard(torch.ones(2), mesh))
    pair.grad = shard(torch.ones(2), mesh)
    noisy = gx.optim.NoisySGD([("pair", pair)])
    noisy.load_state_dict(noisy.state_dict())
    noisy.step()
    out["key"] = is_distributed(noisy.state[pair]["add_noise"]["key"])
    params = list(leaves(mesh).items())
    closure = functools.partial(torch.ones, ())
    out["evaluating"] = message_of(lambda: gx.optim.LBFGS(params).step(closure))
    out["sam"] = message_of(lambda: gx.optim.SAM(params, gx.sgd(0.1)).step(closure))
    # Buckets: two exchanges at a time, and the same size on all ranks.
    params = leaves(mesh)
    muon = OPTIMIZERS["Muon"](list(params.items()))
    opt = gx.optim.compute_layout(muon, bucket_bytes=1)
    for t in range(STEPS):
        with InFlight() as counted:
            step(opt, params, t, mesh)
    out["muon"] = apart(full(params), alone("Muon"))
    out["in flight"] = counted.begun, counted.most, counted.now
    even = {n: nn.Parameter(shard(torch.ones(4, 3), mesh)) for n in "abc"}
    for p in even.values():
        p.grad = shard(torch.randn(4, 3), mesh)
    evenly = gx.optim.Muon(list(even.items()))
    for size in (1, 1 << 20):
        gx.optim.compute_layout(evenly, bucket_bytes=size)
        evenly.step()
        with InFlight() as sent:
            evenly.step()
        out["sent", size] = sent.begun, sent.sent
    again = gx.optim.compute_layout(opt, bucket_bytes=2 + rank)
    out["again"] = message_of(again.step)
    # A shard as a leaf of its own, with states of rows; and what does not suit a leaf.
    params = leaves(mesh)
    opt = gx.optim.compute_layout(
        gx.optim.NorMuon(list(params.items()), lr=0.01, weight_decay=0.1), as_local
    )
    twins = {n: nn.Parameter(local_part(p).detach().clone()) for n, p in params.items()}
    other = gx.optim.NorMuon(list(twins.items()), lr=0.01, weight_decay=0.1)
    out["local"] = []
    for t in range(STEPS):
        out["local"].append(step(opt, params, t, mesh))
        for n, p in params.items():
            twins[n].grad = None if p.grad is None else local_part(p.grad)
        other.step()
        if not t:
            opt.load_state_dict(opt.state_dict())
    out["blocks"] = max((local_part(params[n]) - p).abs().sum().item() for n, p in twins.items())
    for name, said in (("SOAP", "local"), ("Muon", "stacked"), ("Prodigy", "replicate")):
        params = leaves(mesh)
        make = OPTIMIZERS.get(name, soap)
        opt = gx.optim.compute_layout(make(list(params.items())), lambda leaf, said=said: said)
        out["said", name] = message_of(opt.step)
    opt = gx.optim.compute_layout(make(list(params.items())), lambda leaf: "shared")
    out["said", "what"] = message_of(opt.step)
    some = {"w": leaves(mesh)["w"]} if rank else leaves(mesh)
    out["leaves"] = message_of(gx.optim.LAMB(list(some.items())).step)
    # Ranks that are to do something else, of which some would need none of the others.
    adam, names = gx.scale_by_adam(), [n for n in SHAPES if n != "never"]
    for what, other in {
        "order": lambda ps: OPTIMIZERS["AdamW"](ps[:: 1 - 2 * rank]),
        "rate": lambda ps: gx.optim.AdamW(ps, lr=0.1 * (1 + rank)),
        "class": lambda ps: OPTIMIZERS["Muon" if rank else "AdamW"](ps),
        "sums": lambda ps: gx.optim.from_transform(CLIPPED if rank else gx.chain(adam), ps),
        "wrong": lambda ps: gx.optim.compute_layout(
            OPTIMIZERS["Muon"](ps), lambda leaf: "shared" if rank else None
        ),
        "unlike": lambda ps: gx.optim.compute_layout(
            OPTIMIZERS["AdamW"](ps), lambda leaf: "owned" if rank else None
        ),
    }.items():
        params = leaves(mesh)
        out["others", what] = message_of(other([(n, params[n]) for n in names]).step)
    return out


def test_odd_leaves_and_what_is_refused() -> None:
    ranks = in_processes(odd)
    # As much in all, but for flags, which take sixteen bytes in every message.
    several, once = (sum(out["sent", size][1] for out in ranks) for size in (1, 1 << 20))
    assert several - once == 2 * 2 * 16
    for rank, out in enumerate(ranks):
        for name in ("AdamW replicated", "Muon replicated"):
            assert out[name] == 0, name
        assert out["on one rank", None] <= 1e-7
        assert out["on one rank", False] == 0
        assert "make the group with fused=False" in out["entries"], out["entries"]
        assert out["loaded"] < 1e-3
        assert re.search("Muon: leaf 'w' has placements .*Partial.* must be summed", out["partial"])
        assert not out["key"]
        assert (torch.int16, False) in out["gathered"], out["gathered"]
        assert (torch.int16, True) not in out["gathered"], out["gathered"]
        assert "LBFGS: leaf 'w' is a DTensor" in out["evaluating"], out["evaluating"]
        assert "SAM: leaf 'w' is a DTensor" in out["sam"], out["sam"]
        assert "LAMB: ranks 0 and 1 have other leaves" in out["leaves"], out["leaves"]
        assert "'b'" in out["leaves"]
        assert out["local"][-1] == 0  # in the others ranks compare what they are about to do
        assert out["blocks"] == 0
        assert "SOAP: leaf 'w' of shape (7, 5) cannot be 'local'" in out["said", "SOAP"]
        assert "Muon: leaf 'w' cannot be 'stacked'" in out["said", "Muon"]
        assert "Prodigy: leaf 'w' cannot be 'replicate'" in out["said", "Prodigy"]
        assert "the layout must be one of" in out["said", "what"]
        assert out["muon"] == 0
        begun, most, left = out["in flight"]
        assert begun > 4
        assert (most, left) == (2, 0)
        assert out["sent", 1][0] == 6
        assert out["sent", 1 << 20][0] == 2
        for what, said in {
            "order": "ranks 0 and 1 have other leaves, or in another order: ['",
            "rate": "AdamW: ranks 0 and 1 differ about leaf 'w', option 'lr': 0.1 and 0.2",
            "class": "ranks 0 and 1 differ about leaf 'w', option",
            "sums": "chain: chain(scale_by_adam(), scale_by_learning_rate(lr=0.001)) and chain(",
            "wrong": "Muon: leaf 'w': the layout" if rank else "Muon: on rank 1: leaf 'w': the lay",
            "unlike": "layout: in place and owned; give all ranks the same model and the same",
        }.items():
            assert said in out["others", what], out["others", what]
        assert "ranks 0 and 1 differ about leaf 'w', bucket_bytes: 2 and 3" in out["again"]


def test_local_part_of_an_ordinary_tensor_is_itself() -> None:
    x = torch.ones(2)
    assert local_part(x) is x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 11), nn.Linear(11, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def beside(rank: int) -> dict[str, float]:
    """What ``fully_shard`` does to gradients, against a step of the whole tensors."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    out = {}
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for policy in (MixedPrecisionPolicy(), low):
        for name in ("AdamW", "Muon", "clipped"):
            net: Any = Net()
            for part in (net.first, net.last, net):
                fully_shard(part, mesh=mesh_of("one axis"), mp_policy=policy)
            opt = OPTIMIZERS[name](list(net.named_parameters()))
            twin = {n: nn.Parameter(p.full_tensor()) for n, p in net.named_parameters()}
            other = OPTIMIZERS[name](list(twin.items()))
            for t in range(STEPS):
                for last in (False, True):  # gradients add up where they are
                    net.set_requires_gradient_sync(last)
                    g = torch.Generator().manual_seed(10 * t + rank + 5 * last)
                    net(torch.randn(4, 6, generator=g)).square().sum().backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                for n, p in net.named_parameters():
                    twin[n].grad = None if p.grad is None else p.grad.full_tensor()
                opt.step()
                other.step()
                opt.zero_grad()
            low_name = "low" if policy is low else "same"
            out[f"{name} {low_name}"] = apart(full(dict(net.named_parameters())), full(twin))
    return out


def test_beside_fully_shard() -> None:
    for out in in_processes(beside):
        assert len(out) == 6
        for name, error in out.items():
            assert error <= 1e-6, name


def test_a_state_is_made_where_zero_is_no_learning_rate() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net = Net()
    opt = gx.optim.LionAdv(net.named_parameters(), lr=0.1)
    saved = get_optimizer_state_dict(net, opt)
    assert len(saved["state"]) == 6
    assert opt.param_groups[0]["lr"] == 0.1


def changed(rank: int) -> dict[Any, Any]:
    """Options that change what is kept, and steps for which no leaf has a gradient."""
    mesh, out = mesh_of("one axis"), {}
    mfac = gx.sparse_mfac(None, 3, 0.1, density=0.3)
    cases: dict[str, tuple[Make, dict[str, Any]]] = {
        "amsgrad": (lambda ps: gx.optim.AdamW(ps, lr=0.01), {"amsgrad": True}),
        "momentum": (lambda ps: gx.optim.RMSprop(ps, lr=0.01), {"momentum": 0.9, "centered": True}),
        "owned": (lambda ps: gx.optim.Muon(ps, lr=0.01), {"nesterov": False, "average": False}),
        "anew": (lambda ps: gx.optim.AdamW8bit(ps, lr=0.01, min_size=1), {"block_size": 64}),
        "window": (lambda ps: gx.optim.from_transform(mfac, ps, lr=0.01), {}),
    }
    for name, (make, options) in cases.items():
        # Whatever has been loaded before options change, and by whom.
        for loads in ("nobody", "itself", "another") if options else ("nobody",):
            found = []
            for on in (None, mesh):
                params = leaves(on)
                opt = make(list(params.items()))
                for t in range(4):
                    if t == 2:
                        saved = opt.state_dict() if loads != "nobody" else None
                        if loads == "another":
                            opt = make(list(params.items()))
                        if saved is not None:
                            opt.load_state_dict(saved)
                        opt.param_groups[0].update(options)
                        for p in params.values():
                            p.grad = None
                        if not options:
                            opt.step()
                    step(opt, params, t, on)
                found.append(full(params))
            out[name, loads] = apart(*found)
    return out


def test_what_is_kept_follows_options_and_no_gradient_is_no_step() -> None:
    for out in in_processes(changed):
        for (name, loads), error in out.items():
            assert error <= (2e-6 if name == "window" else 1e-7), (name, loads)
