"""Newton-Schulz iterations on Gram matrices, and products that are known to be symmetric."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.ops import symmetric_product as symmetric
from gradtx.precondition import newton_schulz as module
from gradtx.precondition.gram import parts_of
from gradtx.precondition.newton_schulz import SETS

ITERATED = sorted(SETS)


def spectrum(rows, columns, values):
    u = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, rows, dtype=torch.float64)).Q
    return (u * values.double()) @ v.mT


def run(x, **options):
    return gx.orthogonalize(**options).update({"x": x}, ())[0]["x"]


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (9, 9), (1, 5)])
def test_both_forms_are_one_function(name, shape):
    x = torch.randn(2, *shape, dtype=torch.float64)
    plain, gram = (run(x, coefficients=name, form=form) for form in ("plain", "gram"))
    torch.testing.assert_close(gram, plain, rtol=1e-10, atol=1e-12)


def spectra():
    i = torch.arange(1, 65, dtype=torch.float64)
    yield from (i**-power for power in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0))
    yield 10 ** (-i / 10)
    yield (i <= 4).double()
    # What the steepest polynomials make of these is the largest value that the next ones expect.
    yield from (torch.where(i <= 4, 1.0, low) for low in (0.1, 0.15, 0.2, 0.25, 0.3))


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize(
    ("dtype", "margin"), [(torch.float32, 2e-5), (torch.bfloat16, 0.08), (torch.float16, 0.04)]
)
def test_rounding_does_not_grow(name, dtype, margin):
    x = torch.stack([spectrum(64, 256, values).float() for values in spectra() for _ in range(4)])
    exact = run(x.double(), coefficients=name, form="plain")
    plain, gram = (
        (run(x, coefficients=name, form=form, dtype=dtype) - exact).norm(dim=(1, 2))
        / exact.norm(dim=(1, 2))
        for form in ("plain", "gram")
    )
    assert (gram <= 3 * plain + margin).all()


def recorded(monkeypatch):
    """Lengths of the parts, and whether products are mixed, call by call."""
    seen = []
    inner = module.iterations

    def record(xs, parts, *args):
        seen.append(([len(part) for part in parts], args[-2]))
        return inner(xs, parts, *args)

    monkeypatch.setattr(module, "iterations", record)
    return seen


def test_the_gram_form_is_taken_for_long_matrices_only(monkeypatch):
    seen = recorded(monkeypatch)
    for shape in ((128, 192), (192, 128), (128, 191), (127, 600)):
        run(torch.randn(shape))
    assert [parts for parts, _ in seen] == [[3, 2]] * 2 + [[1] * 5] * 2


def test_parts_end_before_errors_have_grown():
    quintic = SETS["quintic5"].triples
    polar = SETS["polar_express5"].triples
    for triples, dtype, lengths in (
        (quintic, torch.float32, [3, 2]),
        (quintic, torch.bfloat16, [2, 2, 1]),
        (polar, torch.float32, [2, 2, 1]),
        (polar, torch.bfloat16, [1, 2, 2]),
    ):
        parts = parts_of(triples, dtype)
        assert [len(part) for part in parts] == lengths
        assert [triple for part in parts for triple in part] == list(triples)


@pytest.mark.parametrize("n", [5, 512, 700])
def test_symmetric_products(n):
    x = torch.randn(2, n, 7, dtype=torch.float64)
    c = torch.randn(2, n, n, dtype=torch.float64)
    c = c + c.mT
    for xs, cs in ((x, c), (x[:1], c[:1])):
        torch.testing.assert_close(symmetric(xs, xs.mT), xs @ xs.mT)
        want = 0.5 * cs - 2.0 * xs @ xs.mT
        torch.testing.assert_close(symmetric(xs, xs.mT, cs, 0.5, -2.0), want)


def test_gradients_reach_large_matrices():
    x = torch.randn(256, 400, requires_grad=True)
    run(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def half_precision_errors(x, name):
    exact = run(x.double(), coefficients=name, form="plain")
    return (
        (run(x, coefficients=name, form=form, dtype=torch.bfloat16) - exact).norm(dim=(1, 2))
        / exact.norm(dim=(1, 2))
        for form in ("plain", "gram")
    )


@pytest.mark.parametrize("name", ["five_polynomials", "quintic5"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(64, 256), (128, 130), (300, 40)])
def test_rounding_does_not_grow_in_mixed_products(name, seed, shape, monkeypatch):
    monkeypatch.setattr(module, "has_mixed_products", lambda x: True)
    torch.manual_seed(seed)
    n, length = sorted(shape)
    i = torch.arange(1, n + 1, dtype=torch.float64)
    values = [i**-power for power in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)]
    values += [10 ** (-i / 10), 10 ** (-6 * i / n), (i <= n / 8).double()]
    values += [torch.where(i <= n / 8, 1.0, low) for low in (0.03, 0.1, 0.15, 0.2, 0.25, 0.3)]
    x = torch.stack([spectrum(n, length, v).float() for v in values])
    plain, gram = half_precision_errors(x if shape[0] == n else x.mT, name)
    assert (gram <= 3 * plain + 0.05).all()


@pytest.mark.parametrize("name", ITERATED)
def test_rounding_does_not_grow_without_mixed_products(name, monkeypatch):
    monkeypatch.setattr(module, "has_mixed_products", lambda x: False)
    x = torch.stack([spectrum(64, 256, values).float() for values in spectra() for _ in range(2)])
    plain, gram = half_precision_errors(x, name)
    assert (gram <= 3 * plain + 0.08).all()


def test_parts_of_mixed_products():
    for name, lengths in (
        ("quintic5", [3, 2]),
        ("five_polynomials", [2, 3]),
        ("polar_express5", [2, 1, 1, 1]),  # of large values after the first iteration
        ("aol4", [2, 1, 1]),
    ):
        parts = parts_of(SETS[name].triples, torch.bfloat16, mixed=True)
        assert [len(part) for part in parts] == lengths


def test_mixed_products_take_fewer_parts(monkeypatch):
    seen = recorded(monkeypatch)
    for name, has, lengths, mixed in (
        ("quintic5", True, [3, 2], True),
        ("quintic5", False, [2, 2, 1], False),
        ("polar_express5", True, [1, 2, 2], False),
    ):
        monkeypatch.setattr(module, "has_mixed_products", lambda x, has=has: has)
        run(torch.randn(256, 512), coefficients=name, dtype=torch.bfloat16)
        assert seen.pop() == (lengths, mixed)
