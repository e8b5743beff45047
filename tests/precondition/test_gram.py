"""Newton-Schulz iterations on Gram matrices, and products that are known to be symmetric."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.precondition.gram import parts_of, symmetric
from gradtx.precondition.newton_schulz import SETS

ITERATED = sorted(SETS)


def spectrum(rows, columns, values):
    u = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, rows, dtype=torch.float64)).Q
    return (u * values.double()) @ v.mT


def run(x, **options):
    return gx.orthogonalize(**options).update({"x": x}, ())[0]["x"]


def difference(x, y):
    return ((x.double() - y).norm() / y.norm()).item()


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (9, 9), (1, 5)])
def test_both_forms_are_one_function(name, shape):
    x = torch.randn(2, *shape, dtype=torch.float64)
    plain, gram = (run(x, coefficients=name, form=form) for form in ("plain", "gram"))
    torch.testing.assert_close(gram, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_does_not_grow(name, dtype):
    i = torch.arange(1, 65)
    for values in (1 / i, i**-2.0, 10 ** (-i / 10), (i <= 4).float(), torch.ones(64)):
        x = spectrum(64, 256, values).float()
        exact = run(x.double(), coefficients=name, form="plain")
        plain = difference(run(x, coefficients=name, form="plain", dtype=dtype), exact)
        gram = difference(run(x, coefficients=name, form="gram", dtype=dtype), exact)
        assert gram <= 5 * plain + 10 * torch.finfo(dtype).eps


def test_the_gram_form_is_taken_for_long_matrices_only(monkeypatch):
    seen = []
    module = __import__("gradtx.precondition.newton_schulz", fromlist=["factor"])
    inner = module.factor
    monkeypatch.setattr(module, "factor", lambda *a: seen.append(a[0].shape[-1]) or inner(*a))
    for shape in ((256, 384), (384, 256), (256, 383), (255, 600)):
        run(torch.randn(shape))
    assert seen == [256] * 4  # two parts for each of the first two


def test_parts_end_before_errors_have_grown():
    quintic = SETS["quintic5"].triples
    assert [len(part) for part in parts_of(quintic)] == [3, 2]
    assert [len(part) for part in parts_of(SETS["polar_express5"].triples)] == [2, 2, 1]
    assert [t for part in parts_of(quintic) for t in part] == list(quintic)


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
