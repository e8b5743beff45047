"""Projections: in the set, where they are already, and nearer than anything else in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx

P = gx.projections
D = torch.float64
NORMAL = {
    "a": torch.tensor([1.0, -2.0, 0.5], dtype=D),
    "b": torch.tensor([[2.0]], dtype=D),
    "n": None,
}


def draw(seed: int, size: float = 2.0) -> Any:
    x = size * torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=D)
    return {"a": x[:3], "b": x[3:].reshape(1, 1), "n": None}


# The projection, and whether a tree is in the set.
SETS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "non_negative": (P.non_negative, lambda x: gx.tree.min(x) >= 0),
    "box": (lambda x: P.box(x, -0.5, NORMAL | {"a": torch.ones(3, dtype=D)}), None),
    "hypercube": (P.hypercube, lambda x: (gx.tree.min(x) >= 0) & (gx.tree.max(x) <= 1)),
    "linf_ball": (P.linf_ball, lambda x: gx.tree.norm(x, torch.inf) <= 1),
    "l2_ball": (P.l2_ball, lambda x: gx.tree.norm(x) <= 1 + 1e-12),
    "l2_sphere": (lambda x: P.l2_sphere(x, 3.0), lambda x: (gx.tree.norm(x) - 3).abs() < 1e-12),
    "simplex": (
        lambda x: P.simplex(x, 2.0),
        lambda x: ((gx.tree.sum(x) - 2).abs() < 1e-12) & (gx.tree.min(x) >= 0),
    ),
    "l1_ball": (P.l1_ball, lambda x: gx.tree.norm(x, 1) <= 1 + 1e-12),
    "l1_sphere": (P.l1_sphere, lambda x: (gx.tree.norm(x, 1) - 1).abs() < 1e-12),
    "hyperplane": (
        lambda x: P.hyperplane(x, NORMAL, 1.5),
        lambda x: (gx.tree.vdot(x, NORMAL) - 1.5).abs() < 1e-12,
    ),
    "halfspace": (
        lambda x: P.halfspace(x, NORMAL, -1.5),
        lambda x: gx.tree.vdot(x, NORMAL) <= -1.5 + 1e-12,
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_the_nearest_point_of_the_set(name: str) -> None:
    project, holds = SETS[name]
    others = [project(draw(seed)) for seed in range(40, 80)]
    for seed in range(20):
        x = draw(seed, 0.2 + seed / 5)
        y = project(x)
        assert y["n"] is None
        assert holds is None or holds(y)
        assert gx.tree.allclose(project(y), y, 1e-10, 1e-12)
        far = gx.tree.norm(gx.tree.sub(x, y))
        assert all(gx.tree.norm(gx.tree.sub(x, z)) >= far - 1e-12 for z in others)


def test_vector_is_the_part_along_another() -> None:
    x = draw(0)
    rest = gx.tree.sub(x, P.vector(x, NORMAL))
    torch.testing.assert_close(gx.tree.vdot(rest, NORMAL), torch.zeros((), dtype=D))


@pytest.mark.parametrize("name", SETS)
def test_projections_map_and_differentiate(name: str) -> None:
    project = SETS[name][0]
    many = {k: torch.stack([draw(s)[k] for s in range(3)]) for k in ("a", "b")}

    def one(a: Any, b: Any) -> Any:
        return gx.tree.leaves(project({"a": a, "b": b, "n": None}))

    outs = torch.func.vmap(one)(many["a"], many["b"])
    for i in range(3):
        torch.testing.assert_close([x[i] for x in outs], gx.tree.leaves(project(draw(i))))
    slopes = torch.func.grad(lambda a: sum(x.square().sum() for x in one(a, many["b"][0])))
    assert torch.isfinite(slopes(torch.zeros(3, dtype=D))).all()
