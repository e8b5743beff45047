"""What a subspace promises: orthonormal bases, canonical signs, its own random numbers, errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core.random import normal
from gradtx.subspace.projector import canonical

s = gx.subspace
ORTHONORMAL: dict[str, Any] = {
    "svd": s.svd,
    "randomized_svd": s.randomized_svd,
    "power_iteration": s.power_iteration,
    "qr_sketch": s.qr_sketch,
    "uniform": s.uniform,
    "top_norm": s.top_norm,
    "dct": s.dct,
    "dct3": partial(s.dct, kind=3),
    "srht": s.srht,
    "srdct": s.srdct,
}
RANDOM: dict[str, Any] = {
    "uniform": s.uniform,
    "srht": s.srht,
    "srdct": s.srdct,
    "gaussian": s.gaussian,
    "rademacher": s.rademacher,
    "qr_sketch": s.qr_sketch,
    "randomized_svd": s.randomized_svd,
}


def matrix(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=dtype)


def refreshed(projector: Any, g: torch.Tensor, name: str = "", times: int = 2) -> Any:
    state = projector.init(g, name)
    for t in range(times):
        state = projector.refresh(state, g, first=t == 0)
    return state


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ORTHONORMAL)
def test_bases_are_orthonormal(kind: str, side: str) -> None:
    """Also for a gradient of zeros and one of rank one."""
    projector = ORTHONORMAL[kind](3, side=side)
    for g in (matrix(8, 16), torch.zeros(8, 16), torch.ones(8, 16)):
        q = projector.basis(refreshed(projector, g), g.shape)
        torch.testing.assert_close(q.mT @ q, torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ORTHONORMAL)
def test_projection_and_complement_add_up(kind: str) -> None:
    g = matrix(16, 8)
    projector = ORTHONORMAL[kind](4)
    state = refreshed(projector, g)
    z = projector.project(state, g)
    back, rest = projector.back(state, z, g.shape), projector.complement(state, g)
    torch.testing.assert_close(back + rest, g)
    zero = torch.zeros_like(z)
    torch.testing.assert_close(projector.project(state, rest), zero, atol=1e-5, rtol=0)
    torch.testing.assert_close(projector.project(state, back), z, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", RANDOM)
def test_random_numbers_are_the_leafs_own(kind: str) -> None:
    """The same for the same seed and name, new ones at every refresh, the global ones untouched."""
    g, before = matrix(16, 16), torch.random.get_rng_state()

    def basis(name: str, seed: int = 0, times: int = 2) -> torch.Tensor:
        projector = RANDOM[kind](3, seed=seed)
        return projector.basis(refreshed(projector, g, name, times), g.shape)

    assert torch.equal(basis("a"), basis("a"))
    assert not torch.equal(basis("a"), basis("b"))
    assert not torch.equal(basis("a"), basis("a", seed=1))
    assert not torch.equal(basis("a"), basis("a", times=3))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_those_of_the_key(dtype: torch.dtype) -> None:
    projector = s.gaussian(3, seed=5)
    state = projector.refresh(projector.init(torch.ones(9, 5), "w"), torch.ones(9, 5))
    want = normal(state.key, (5, 3), dtype) / 3**0.5
    torch.testing.assert_close(projector.basis(state, (9, 5), dtype), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [s.gaussian, s.rademacher])
def test_random_matrices_are_unbiased(kind: Any) -> None:
    p, n = torch.zeros(4, 4), 3000
    total = torch.zeros(4, 4)
    for seed in range(n):
        q = kind(2, seed=seed).basis(kind(2, seed=seed).init(p), p.shape)
        total += q @ q.mT / n
    torch.testing.assert_close(total, torch.eye(4), atol=0.08, rtol=0)


def test_uniform_takes_every_row_equally_often() -> None:
    p = torch.zeros(5, 2)
    projector = s.uniform(2)
    state, counts = projector.init(p), torch.zeros(5)
    for _ in range(2000):
        state = projector.refresh(state, p)
        assert len(state.indices.unique()) == 2
        counts[state.indices] += 1 / 2000
    torch.testing.assert_close(counts, torch.full((5,), 0.4), atol=0.05, rtol=0)


def test_signs_are_canonical() -> None:
    q = canonical(torch.tensor([[0.1, -0.7, -0.5], [-0.9, 0.7, 0.5]]))
    assert q.tolist() == torch.tensor([[-0.1, 0.7, 0.5], [0.9, -0.7, -0.5]]).tolist()
    g = matrix(9, 5)
    for kind in (s.svd, s.power_iteration, s.randomized_svd, s.qr_sketch):
        q = refreshed(kind(3), g).basis
        assert torch.all(q.gather(0, q.abs().argmax(0, keepdim=True)) > 0)
        # Neither the sign of the gradient nor its size matters.
        torch.testing.assert_close(refreshed(kind(3), -3 * g).basis, q, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [s.svd, s.power_iteration, s.randomized_svd, s.qr_sketch])
def test_a_bad_gradient_keeps_the_subspace(kind: Any) -> None:
    g, projector = matrix(6, 4), kind(2)
    state = refreshed(projector, g)
    for bad in (torch.nan, torch.inf):
        new = projector.refresh(state, g.index_put((torch.tensor(0),), torch.tensor(bad)))
        assert torch.equal(new.basis, state.basis)
    first = projector.refresh(projector.init(g), g * torch.nan, first=True).basis
    assert torch.isfinite(first).all()


def test_float64_stays_float64() -> None:
    g = matrix(8, 8, dtype=torch.float64)
    for kind in (s.svd, s.power_iteration, s.randomized_svd, s.gaussian):
        projector = kind(3)
        state = refreshed(projector, g)
        assert projector.project(state, g).dtype == torch.float64
        if kind is not s.gaussian:
            q = projector.basis(state, g.shape)
            torch.testing.assert_close(q.mT @ q, torch.eye(3).double(), atol=1e-12, rtol=0)


def test_sides() -> None:
    """(side, tall, square, wide): 0 compresses rows, 1 columns."""
    for side, *want in (
        ("std", 1, 1, 0),
        ("std_left", 1, 0, 0),
        ("reverse_std", 0, 0, 1),
        ("larger", 0, 0, 1),
        ("left", 0, 0, 0),
        ("right", 1, 1, 1),
    ):
        views = [s.svd(1, side).view(shape) for shape in ((5, 3), (4, 4), (3, 5))]
        assert [view.axis for view in views] == want, side


def test_rotations_of_selections_are_permutations() -> None:
    projector, g = s.top_norm(2), torch.tensor([[1.0], [3.0], [2.0], [0.0]])
    old = projector.refresh(projector.init(g), g)  # rows 1 and 2
    new = projector.refresh(old, torch.tensor([[0.0], [0.0], [5.0], [6.0]]))  # rows 3 and 2
    r = projector.rotation(old, new, g.shape, g.dtype)
    assert r.first(torch.tensor([[10.0], [20.0]])).tolist() == [[0.0], [20.0]]
    assert r.second(torch.tensor([[10.0], [20.0]])).tolist() == [[0.0], [20.0]]


def test_leaves_of_more_dimensions_are_matrices_of_their_first() -> None:
    g = torch.arange(48.0).reshape(4, 3, 2, 2)
    for kind in (s.svd, s.uniform, s.gaussian, s.srdct):
        projector, flat = kind(2, side="left", matricize=True), kind(2, side="left")
        assert not flat.takes(g.shape)
        z = projector.project(refreshed(projector, g), g)
        matrix_ = g.reshape(4, 12)
        torch.testing.assert_close(z, flat.project(refreshed(flat, matrix_), matrix_))
        assert projector.back(refreshed(projector, g), z, g.shape).shape == g.shape


def test_policies() -> None:
    t = torch.arange(1, 10)

    def times(policy: Any) -> list[int]:
        return t[policy.due(t, policy.init(torch.zeros(2), "w"))].tolist()

    assert times(s.zero_based(3)) == [1, 4, 7]
    assert times(s.one_based(3)) == [1, 3, 6, 9]
    assert times(s.one_based(1)) == t.tolist()
    assert times(s.staggered(4, 3)) == [1, 4, 8]
    assert times(s.staggered(4))[0] == 1
    assert s.every_step().due(t, ()) is True
    for policy in (s.zero_based(3), s.one_based(3), s.staggered(4), s.every_step()):
        ts, own = list(t), [policy.init(torch.zeros(2), f"layer{i}") for i in range(len(t))]
        assert policy.due_all(ts, own) == [policy.due(*each) for each in zip(ts, own, strict=True)]
    phases = {int(s.staggered(8).init(torch.zeros(2), f"layer{i}")) for i in range(64)}
    assert phases == set(range(8))


BAD: list[tuple[Any, str]] = [
    (lambda: s.svd(0), "svd: rank must be an integer >= 1, got 0"),
    (lambda: s.uniform(1.5), "uniform: rank must be an integer"),
    (lambda: s.gaussian(True), "gaussian: rank must be an integer"),
    (lambda: s.svd(2, side="up"), "svd: side must be 'std'"),
    (lambda: s.svd(4).init(torch.zeros(8, 3), "w"), "svd: rank must be <= 3 for leaf 'w'"),
    (lambda: s.uniform(9).init(torch.zeros(8, 3), "w"), "uniform: rank must be <= 8 for leaf 'w'"),
    (lambda: s.svd(1).init(torch.zeros(3), "b"), "svd: leaf 'b' of shape \\(3,\\) is no matrix"),
    (lambda: s.svd(1).init(torch.zeros(2, 2, 2), "k"), "matricize=True"),
    (lambda: s.srht(1).init(torch.zeros(6, 6), "w"), "leaf 'w'.*use srdct"),
    (lambda: s.randomized_svd(1, oversample=-1), "oversample must be an integer >= 0"),
    (lambda: s.randomized_svd(1, power_iterations=-1), "power_iterations must be an integer >= 0"),
    (lambda: s.top_norm(1, p=0.0), "top_norm: p must be in .0, inf."),
    (lambda: s.dct(1, kind=4), "dct: kind must be 2 or 3, got 4"),
    (lambda: s.dct(1, p=0.0), "dct: p must be in .0, inf."),
    (lambda: s.dct(1, order="size"), "dct: order must be"),
    (lambda: s.top_norm(1, order="size"), "top_norm: order must be"),
    (lambda: s.uniform(1, seed=0.5), "uniform: seed must be"),
    (lambda: s.zero_based(0), "zero_based: every must be an integer >= 1"),
    (lambda: s.one_based(1.0), "one_based: every must be an integer >= 1"),
    (lambda: s.staggered(3, 3), "staggered: offset must be in \\[0, 3\\)"),
    (lambda: s.replay(1).init(torch.zeros(2, 2), "w"), "replay: leaf 'w' needs bases"),
    (lambda: s.projection(s.gaussian(1)), "projection: the basis of gaussian.* not orthonormal"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case: int) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_types() -> None:
    for make in (
        lambda: s.two_sided(s.two_sided(s.svd(1))),
        lambda: gx.in_subspace("svd", gx.identity()),
        lambda: gx.in_subspace(s.svd(1), lambda u: u),
        lambda: gx.in_subspace(s.svd(1), gx.identity(), refresh=200),
        lambda: gx.subspace_momentum(3),
    ):
        with pytest.raises(TypeError, match=r"(two_sided|in_subspace|subspace_momentum): .* must"):
            make()
    two = s.two_sided(s.svd(1))
    with pytest.raises(TypeError, match="two_sided: has two bases"):
        gx.project_to_subspace(two).update(
            {"w": torch.ones(2, 2)}, gx.project_to_subspace(two).init({"w": torch.ones(2, 2)})
        )


def test_a_large_rank_is_clipped_on_request() -> None:
    for kind in (s.svd, s.power_iteration, s.uniform, s.gaussian, s.qr_sketch, s.randomized_svd):
        projector, g = kind(99, clip_rank=True), matrix(5, 3)
        most = 5 if kind is s.uniform else 3
        assert min(projector.project(refreshed(projector, g), g).shape) <= most
        assert most in projector.factor_shape(g.shape)
