"""Orthogonal factors: singular values, batches, dtypes, odd shapes, bad input."""

from __future__ import annotations

import sys

import pytest
import torch

import gradtx as gx
from gradtx.recipes.soap_muon import match_schatten4

SETS = {
    "quintic5": (0.6, 1.25),
    "polar_express5": (0.8, 1.2),
    "five_polynomials": (0.9, 1.1),
    "aol4": (0.85, 1.1),
    "svd": (0.9999, 1.0001),
}
SHAPES = [(8, 8), (16, 6), (6, 16), (1, 9), (9, 1), (1, 1), (33, 7)]


def run(x, *args, **options):
    return gx.orthogonalize(*args, **options).update({"x": x}, ())[0]["x"]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values(name, shape):
    # Well conditioned: small singular values take more steps.
    u, _, vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    x = u @ torch.diag(torch.linspace(0.5, 1, len(vh), dtype=torch.float64)) @ vh
    low, high = SETS[name]
    s = torch.linalg.svdvals(run(x, name))
    assert low <= s.min()
    assert s.max() <= high
    # The directions are those of the exact factor.
    assert (torch.linalg.svdvals(u @ vh - run(x, name)) <= max(1 - low, high - 1)).all()


@pytest.mark.parametrize("name", SETS)
def test_scale_does_not_matter(name):
    x = torch.randn(6, 10)
    for scale in (1e3, 1e15) if name == "aol4" else (1e3, 1e30):
        torch.testing.assert_close(run(x * scale, name), run(x, name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_zeros_stay_zeros_and_empty_leaves_stay_as_they_are(name):
    assert not run(torch.zeros(4, 6), name).any()
    assert run(torch.zeros(0, 3), name).shape == (0, 3)


@pytest.mark.parametrize("name", SETS)
def test_a_batch_is_its_matrices(name):
    tx = gx.orthogonalize(name)
    tree = {f"{i}": torch.randn(SHAPES[i % 3]) for i in range(9)} | {"none": None}
    together, _ = tx.update(tree, ())
    assert together["none"] is None
    for key, x in tree.items():
        if x is not None:
            torch.testing.assert_close(together[key], run(x, name), rtol=1e-5, atol=1e-6)
    stacked = run(torch.stack([tree["0"], tree["3"]]), name)
    torch.testing.assert_close(stacked[1], together["3"], rtol=1e-5, atol=1e-6)


def test_matrices_of_one_shape_are_one_product(monkeypatch):
    module = sys.modules[gx.orthogonalize.__module__]
    seen = []

    def record(xs, *args):
        seen.append([tuple(x.shape) for x in xs])
        return torch.cat(xs)

    monkeypatch.setattr(module, "newton_schulz", record)
    tree = {f"{i}": torch.randn(4, 3) for i in range(5)} | {"w": torch.randn(3, 4)}
    gx.orthogonalize().update(tree, ())
    assert seen == [[(1, 4, 3)] * 5, [(1, 3, 4)]]


@pytest.mark.parametrize("coefficients", ["quintic5", "aol4", "svd"])
@pytest.mark.parametrize("rule", ["original", "spectral_norm", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_is_that_of_a_pass_of_its_own(coefficients, rule, dtype):
    tree = {"a": torch.randn(30, 7), "b": torch.randn(7, 30), "c": torch.randn(2, 12, 3)}
    options = {} if coefficients == "svd" else {"dtype": dtype}
    once = gx.orthogonalize(coefficients, scale=rule, **options)
    twice = gx.chain(gx.orthogonalize(coefficients, **options), gx.scale_by_shape(rule))
    want = twice.update(tree, twice.init(tree))[0]
    for name, x in once.update(tree, ())[0].items():
        assert torch.equal(x, want[name])


def test_steps_and_custom_coefficients():
    x = torch.randn(5, 7)
    triple = (3.0, -3.2, 1.2)
    same = run(x, triple, 7), run(x, [triple], 7), run(x, [triple] * 7), run(x, [triple] * 3, 7)
    for other in same[1:]:
        assert torch.equal(other, same[0])
    assert not torch.equal(run(x, [triple] * 7, 6), same[0])
    assert gx.orthogonalize([triple]) == gx.orthogonalize((triple,))
    hash(gx.orthogonalize([triple]))


def test_dtypes():
    x = torch.randn(12, 8)
    assert run(x.double()).dtype == torch.float64
    assert run(x.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(run(x.double()).float(), run(x), rtol=1e-4, atol=1e-5)
    coarse = run(x, dtype=torch.bfloat16)
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse, coarse.bfloat16().float())
    torch.testing.assert_close(coarse, run(x), rtol=0, atol=0.2)


def test_the_factor_of_a_low_rank_update():
    factor, basis = torch.randn(6, 2), torch.tensor([1, 3])
    u = gx.LowRankUpdate(factor, basis, (6, 4), "right")
    out, _ = gx.orthogonalize().update({"x": u}, ())
    assert torch.equal(out["x"].factor, run(factor))
    assert out["x"].basis is basis


@pytest.mark.parametrize("shape", [(), (3,)])
def test_vectors_are_refused_by_name(shape):
    tx, tree = gx.orthogonalize(), {"deep": {"bias": torch.ones(shape)}}
    with pytest.raises(ValueError, match=r"leaf 'deep.bias' of shape .* is no matrix"):
        tx.init(tree)
    with pytest.raises(ValueError, match=r"leaf 'deep.bias'"):
        tx.update(tree, ())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coefficients": "septic"}, "'septic'"),
        ({"coefficients": (1.0, 2.0)}, "triples"),
        ({"coefficients": ((1.0, 2.0, 3.0), "abc")}, "triples"),
        ({"coefficients": ()}, "triples"),
        ({"steps": 0}, "steps must be in .1, 99., got 0"),
        ({"steps": 100}, "steps"),
        ({"steps": True}, "steps"),
        ({"scaling": "max"}, "scaling"),
        ({"safety": 0.5}, "safety"),
        ({"eps": 0.0}, "eps"),
        ({"dtype": torch.int32}, "dtype"),
        ({"form": "short"}, "form"),
        ({"scale": "large"}, "scale"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=f"orthogonalize: .*{words}"):
        gx.orthogonalize(**options)


def test_shape_rules():
    def factor(rule, *shape):
        u, _ = gx.scale_by_shape(rule).update({"x": torch.ones(shape)}, ())
        return u["x"].flatten()[0].item()

    assert factor("original", 8, 2) == 2.0
    assert factor("original", 2, 8) == 1.0
    assert factor("spectral_norm", 2, 8) == 0.5
    assert factor("match_rms_adamw", 4, 9) == pytest.approx(0.6)
    assert factor("none", 4, 9) == 1.0
    assert factor("spectral_norm", 5, 2, 8) == 0.5
    assert factor("spectral_norm", 3) == 1.0
    with pytest.raises(ValueError, match=r"scale_by_shape: rule must be .* or "):
        gx.scale_by_shape("wide")


def test_neurons_have_steps_of_one_size():
    u = {"w": torch.randn(5, 40) * torch.logspace(-3, 3, 5)[:, None]}
    tx = gx.normalize_neurons(0.9)
    out, state = tx.update(u, tx.init(u))
    sizes = out["w"].square().mean(1)
    torch.testing.assert_close(sizes, sizes.mean().expand(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(out["w"].norm(), u["w"].norm())
    assert state["w"].variance.shape == (5, 1)
    zeros = {"w": torch.zeros(5, 40)}
    assert not tx.update(zeros, tx.init(zeros))[0]["w"].any()


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_derivatives_of_the_exact_factor_at_equal_singular_values(shape):
    """At an orthogonal X the factor of X + t D moves by what of D is skew, and out of the span."""
    x, d = torch.eye(*shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    tall = (lambda m: m) if shape[0] > shape[1] else (lambda m: m.mT)
    top, rest = tall(d)[:2], tall(d)[2:]
    want = tall(torch.cat([(top - top.mT) / 2, rest]))

    def loss(t):
        return (run(x + t * d, "svd") * d).sum()

    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(torch.func.grad(loss)(zero), (want * d).sum())
    ahead, behind = (torch.func.grad(loss)(zero + e) for e in (1e-5, -1e-5))
    second = torch.func.grad(torch.func.grad(loss))(zero)
    torch.testing.assert_close(second, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-7, 1e12, 1e30])
def test_fourth_powers_stay_in_range(scale):
    x, other = torch.randn(4, 6), torch.randn(4, 6)
    tx = gx.orthogonalize(((2.0, -1.5, 0.5),), 12, "schatten4", eps=1e-30)
    torch.testing.assert_close(tx.update([scale * x], ())[0], tx.update([x], ())[0])
    found = match_schatten4(scale * x, other) / scale
    torch.testing.assert_close(found, match_schatten4(x, other), rtol=1e-5, atol=1e-6)
