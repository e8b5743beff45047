"""Every optimizer class on DTensors in two processes, against one process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradtx as gx

from .test_sharded import full, mesh_of, shard
from .test_zero1 import classes, needs
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

STEPS = 5
# Uneven, two odd sides alike, empty on one rank; one without gradient now and then, and one always.
SHAPES = {"w": (13, 7), "x": (7, 13), "b": (5,), "k": (3, 4, 2), "one": (1,), "never": (3, 2)}
# What makes steps large enough to compare, and does on small leaves what a class is for.
SMALL = {"rank": 2, "update_proj_gap": 2, "min_size": 1, "block_size": 8, "window": 3}
SMALL |= {"density": 0.3, "precondition_frequency": 2, "max_preconditioner_dim": 4, "d0": 1e-2}
SMALL |= {
    "init_step": ("heuristic", 0.05),
    "init_distance": 0.1,
    "d_coef": 20.0,
    "max_step": 0.1,
    "update_freq": 2,
}
RATES = dict.fromkeys(
    ("DAdaptAdamW", "Prodigy", "ProdigyAdv", "ProdigyLionAdv", "DoG", "DoWG"), 1.0
)
RATES |= {"MoMo": 1.0, "PolyakSGD": 1.0, "COCOB": 1.0, "Adadelta": 1.0, "LARS": 10.0, "ACDC": 0.01}
# What needs more than gradients; what begins with the norm of all leaves; what divides by rounding.
SAMPLE = ("AdaHessian", "Sophia", "MoMo", "MoMoAdam", "PolyakSGD", "DoG", "OneSidedShampoo")
# Updates of owners are wider than parameters; rows, blocks and members that read parameters.
LOW = ("Muon", "SOAP", "SM3", "AdamW8bit", "LAMB")


def whole(seed: int, missing: tuple[str, ...] = ()) -> dict[str, Tensor | None]:
    g = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(s, generator=g) for n, s in SHAPES.items()}
    return {n: None if n in missing else x for n, x in made.items()}


def leaves(mesh: Any = None, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    there = {n: x.to(dtype) for n, x in whole(99).items() if x is not None}
    return {n: nn.Parameter(x if mesh is None else shard(x, mesh)) for n, x in there.items()}


def made(cls: Any, params: dict[str, nn.Parameter]) -> Any:
    options = {k: v for k, v in SMALL.items() if k in cls.signature}
    if cls is gx.optim.MicroAdam:
        del options["window"]
    if cls is gx.optim.SNSM:
        options["momentum"] = "sm"
    options["lr"] = RATES.get(cls.__name__, 0.05)
    named = list(params.items())
    if "matrix" not in cls.signature:
        return cls(named, **options)
    some, rest = ([x for x in named if (x[1].ndim == 2) == matrix] for matrix in (True, False))
    return cls([{"params": some}, {"params": rest, "matrix": False}], **options)


def trained(
    cls: Any, mesh: Any = None, rank: float = 0.5, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Parameters after some steps; every rank has a loss of its own, and one process the mean."""
    from torch.distributed.tensor.debug import CommDebugMode

    params = leaves(mesh, dtype)
    opt = made(cls, params)
    wanted = {n for g in opt.param_groups for _, m in members_of(opt, g) for n in needs(m)}
    for t in range(STEPS):
        extra: dict[str, Any] = {}
        for n, wide in whole(t, ("k", "never") if t == 1 else ("never",)).items():
            g = None if wide is None else wide.to(dtype)
            params[n].grad = g if g is None or mesh is None else shard(g, mesh)
            for name in wanted - {"value"} if g is not None else ():
                extra.setdefault(name, {})[n] = (
                    g**2 if mesh is None or n == "b" else shard(g**2, mesh)
                )
        if "value" in wanted:
            extra["value"] = torch.tensor(2.0 + rank)
        with contextlib.nullcontext() if mesh is None else CommDebugMode():  # only looks on
            opt.step(**extra)
    return full(params)


def members_of(opt: Any, group: Any) -> Iterable[tuple[str, Any]]:
    return gx.core.protocol.members(opt.transform_of(group))


Cases = Iterable[tuple[str, torch.dtype]]


def on_shards(rank: int, cases: Cases) -> dict[Any, Any]:
    mesh, out = mesh_of("one axis"), {}
    for name, dtype in cases:
        try:
            out[name, dtype] = trained(getattr(gx.optim, name), mesh, rank, dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            out[name, dtype] = f"{type(error).__name__}: {error}"
    return out


def check(cases: Cases) -> None:
    begun, twins = leaves(), {}
    for case in cases:
        name, dtype = case
        twins[case] = trained(getattr(gx.optim, name), dtype=dtype)
        for n, x in twins[case].items():
            if n not in ("never", "one"):  # one number may be on a sphere
                moved = (x - begun[n]).abs().max().item()
                assert 1e-3 < moved < 1e3, (name, n, moved)
    for out in in_processes(functools.partial(on_shards, cases=list(cases))):
        wrong: dict[Any, str] = {}
        for case, twin in twins.items():
            found = out[case]
            if isinstance(found, str):
                wrong[case] = found
                continue
            for n, x in twin.items():
                error = (found[n] - x).abs().max().item() / x.abs().max().item()
                if error > 2e-6:
                    wrong[case] = f"{n}: {error:.1e}"
        assert not wrong


def test_a_sample() -> None:
    check([(n, torch.float32) for n in SAMPLE] + [(n, torch.bfloat16) for n in LOW])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_class(dtype: torch.dtype) -> None:
    check([(name, dtype) for name, _ in classes() if name != "LBFGS"])
