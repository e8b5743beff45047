"""Ranks that lack gradients, or cannot do a step, where others can: nobody waits for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import gradtx as gx
from gradtx.distributed.records import local_part
from gradtx.fuse import CannotFuseError
from gradtx.fuse.cpp import kernel

from .test_sharded import CLIPPED, OPTIMIZERS, apart, full, leaves, mesh_of, whole
from .test_wrappers import message_of
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

ALL = frozenset(("w", "b", "k", "one", "square"))
SOME = frozenset(("w", "k"))  # those of the first group
# By step what every rank lacks; "never" never has a gradient.
PATTERNS: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {
    "one rank": [(frozenset(), ALL), (frozenset(), frozenset()), (ALL, frozenset())],
    "one group": [(frozenset(), SOME), (SOME, frozenset()), (SOME, SOME), (SOME, frozenset())],
    "others": [
        (frozenset("w"), frozenset(("b", "k"))),
        (frozenset(("k", "square")), frozenset("w")),
    ],
    "nobody": [(frozenset(), frozenset()), (ALL, ALL), (frozenset(), frozenset())],
    "begins with nothing": [(ALL, ALL), (ALL, frozenset()), (frozenset(), frozenset())],
}
SCHEDULED = gx.chain(
    gx.scale_by_schedule(lambda count: 1.0 / (1 + count)),
    gx.clip_by_global_norm(0.5),
    gx.trace(0.9),
)
MASKED = gx.chain(gx.masked(gx.clip_by_global_norm(0.5), lambda x: x.ndim == 2), gx.scale_by_adam())


def owned(ps: Any) -> gx.optim.Optimizer:
    """Owners sum over leaves of all of them."""
    clipped = gx.optim.from_transform(CLIPPED, ps, lr=0.01)
    return gx.optim.compute_layout(clipped, lambda leaf: "owned")


# The leaves of which all ranks hear; others are left alone where they have no gradient.
CASES: dict[str, tuple[Any, frozenset[str]]] = {
    "clipped": (lambda ps: gx.optim.from_transform(CLIPPED, ps, lr=0.01), ALL),
    "scheduled": (lambda ps: gx.optim.from_transform(SCHEDULED, ps, lr=0.01), ALL),
    "masked": (lambda ps: gx.optim.from_transform(MASKED, ps, lr=0.01), ALL),
    "decay": (
        lambda ps: gx.optim.from_transform(
            gx.chain(CLIPPED, gx.add_decayed_weights(0.1)), ps, lr=0.01
        ),
        ALL,
    ),
    "operations": (
        lambda ps: gx.optim.from_transform(CLIPPED, [{"params": ps, "fused": False}], lr=0.01),
        ALL,
    ),
    "multi steps": (
        lambda ps: gx.optim.from_transform(gx.multi_steps(CLIPPED, 2), ps, lr=0.01),
        ALL,
    ),
    "groups": (
        lambda ps: gx.optim.from_transform(
            CLIPPED,
            [
                {"params": [x for x in ps if x[0] in SOME]},
                {"params": [x for x in ps if x[0] not in SOME], "lr": 0.02},
            ],
            lr=0.01,
        ),
        ALL,
    ),
    "chains": (
        lambda ps: gx.optim.AdamAdv(
            [
                {"params": [x for x in ps if x[0] in SOME], "factored": True},
                {"params": [x for x in ps if x[0] not in SOME], "factored": True, "lr": 0.02},
            ],
            lr=0.01,
        ),
        frozenset(("w", "k", "square")),
    ),
    "Prodigy": (OPTIMIZERS["Prodigy"], ALL),
    # All of "one" is on one rank, which needs not hear of others' gradients.
    "LAMB": (OPTIMIZERS["LAMB"], ALL - {"one"}),
    "owned": (owned, ALL),
    "Adafactor": (OPTIMIZERS["Adafactor"], frozenset(("w", "k", "square"))),
    "Muon": (OPTIMIZERS["Muon"], frozenset(("w", "k", "square"))),
    "cut": (OPTIMIZERS["cut"], frozenset(("w", "k", "square"))),
    "clipped matrices": (OPTIMIZERS["clipped matrices"], ALL),
    "replicate": (OPTIMIZERS["replicate"], frozenset(("w", "k", "square"))),
}


def part(x: Tensor, mesh: Any) -> Any:
    """What ``shard`` gives, of what all ranks have."""
    from torch.distributed.tensor import DTensor, Shard

    each = -(-len(x) // 2)
    own = x[dist.get_rank() * each : (dist.get_rank() + 1) * each]
    return DTensor.from_local(own, mesh, [Shard(0)], shape=x.shape, stride=x.stride())


def gradients(t: int, lacking: tuple[frozenset[str], frozenset[str]], mesh: Any) -> Iterator[Any]:
    """By leaf, this rank's gradient and that of the twin."""
    rank = dist.get_rank()
    for n, g in whole(t, ("never",)).items():
        if g is None or all(n in some for some in lacking):
            yield n, None, None
            continue
        for r, some in enumerate(lacking):
            if n in some:
                each = -(-len(g) // 2)
                g[r * each : (r + 1) * each] = 0.0
        yield n, None if n in lacking[rank] else part(g, mesh), g


def missing(rank: int) -> dict[Any, Any]:
    mesh, out = mesh_of("one axis"), {}
    for name, (make, heard) in CASES.items():
        for what, steps in PATTERNS.items():
            params, twin = leaves(mesh), leaves()
            opt, other = make(list(params.items())), make(list(twin.items()))
            for t, lacking in enumerate(steps):
                for n, mine, theirs in gradients(t, lacking, mesh):
                    params[n].grad, twin[n].grad = mine, theirs
                opt.step()
                other.step()
            both = [{n: x for n, x in full(some).items() if n in heard} for some in (params, twin)]
            out[name, what] = apart(*both)
    return out


def test_a_rank_without_gradients_takes_part() -> None:
    for out in in_processes(missing):
        wrong = {case: error for case, error in out.items() if not error <= 3e-6}
        assert not wrong
        assert len(out) == len(CASES) * len(PATTERNS)


def left_alone(rank: int) -> float:
    """What no rank hears of: elements are updated where there is a gradient, as torch does it."""
    mesh = mesh_of("one axis")
    params, twin = leaves(mesh), leaves(mesh)
    optimizers = gx.optim.AdamW(list(params.items())), torch.optim.AdamW(twin.values(), lr=1e-3)
    for t in range(3):
        for n, g in whole(t).items():
            for some in (params, twin):
                some[n].grad = None if g is None or t == rank else part(g, mesh)
        for opt in optimizers:
            opt.step()
    return max((local_part(params[n]) - local_part(p)).abs().sum().item() for n, p in twin.items())


def test_what_is_treated_by_elements_is_left_alone() -> None:
    assert max(in_processes(left_alone)) <= 1e-6


def no_compiler(*args: Any, **options: Any) -> None:
    raise CannotFuseError("", "no compiler on this rank")


def refused(rank: int) -> dict[str, Any]:
    """One rank whose kernels do not run, or that cannot do a step at all."""
    mesh, out = mesh_of("one axis"), {}

    def train(make: Any, before: Any = None) -> tuple[float, list[str]]:
        params, twin = leaves(mesh), leaves()
        opt, other = make(list(params.items())), make(list(twin.items()))
        said = []
        for t in range(3):
            for n, g in whole(t, ("never",)).items():
                params[n].grad = None if g is None else part(g, mesh)
                twin[n].grad = g
            if before is not None and rank:
                before(opt, t, params)
            said.append(message_of(opt.step))
            other.step()
        return apart(full(params), full(twin)), said

    for name in ("clipped", "LAMB", "factored", "Prodigy", "clipped matrices", "AdamW"):
        kernel._kernels.clear()
        with mock.patch.object(kernel, "library", no_compiler if rank else kernel.library):
            out["no compiler", name] = train(OPTIMIZERS[name])

    def refuse(opt: Any, t: int, params: Any) -> None:
        for inner in opt._shards._now._inner if t else ():
            inner._twin._repeat = None
            inner._twin._fused.prepare = lambda *a, **k: "not here"

    cases = {
        "clipped": OPTIMIZERS["clipped"],
        "fused": lambda ps: gx.optim.from_transform(
            CLIPPED, [{"params": ps, "fused": True}], lr=0.01
        ),
        "LAMB": OPTIMIZERS["LAMB"],
        "owned": owned,
    }
    for name, make in cases.items():
        out["refused", name] = train(make, refuse)

    def plain(opt: Any, t: int, params: Any) -> None:
        if t == 1:
            params["w"].grad = part(torch.ones(7, 5), other_mesh)

    from torch.distributed.device_mesh import init_device_mesh

    other_mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("other",))
    for name in ("clipped", "LAMB", "Muon", "clipped matrices", "factored"):
        out["another mesh", name] = train(OPTIMIZERS[name], plain)
    return out


def test_a_rank_that_refuses_is_not_waited_for() -> None:
    for rank, out in enumerate(in_processes(refused)):
        for (what, name), (error, said) in out.items():
            if what == "no compiler" or (what, name) == ("refused", "clipped"):
                assert error <= 3e-6, (what, name)
                assert set(said) == {"no error"}, (name, said)
                continue
            own = {
                "fused": "fused=True, but not here",
                "LAMB": "LAMB: not here, and leaf 'w' is updated by rows",
                "owned": "some ranks cannot run a chain in kernels .* its groups with fused=False",
            }
            wanted = own.get(name, "") if what == "refused" else "of leaf 'w' is on DeviceMesh"
            if not rank and name != "owned":
                wanted = "another rank cannot do this step, and its error says why"
            assert said[0] == "no error", (what, name, said)
            assert re.search(wanted, said[1]), (what, name, said)
            if what == "another mesh":  # the step after it is done by all
                assert said[2] == "no error", (what, name, said)
