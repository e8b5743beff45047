"""Denman-Beavers iterations and Chebyshev series of the operators, against float64."""

from __future__ import annotations

import functools

import pytest
import torch

import gradtx as gx
from gradtx.ops.clenshaw import _clenshaw, _series
from gradtx.ops.denman_beavers import _denman_beavers, _iterations

from .test_coupled_newton import error, stack

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
SIZES = [1, 5, 16, 17, 33, 100, 130, 300]
ERRORS = {F64: 1e-12, F32: 2e-5, BF16: 0.2, F16: 2e-2}
NUMBERS = [0.7, -1.2, 0.5, 0.25, -0.1, 0.05]
OPERATORS = {
    "root": functools.partial(gx.ops.denman_beavers, steps=6, inverse=False),
    "inverse root": functools.partial(gx.ops.denman_beavers, steps=6),
    "series": functools.partial(gx.ops.clenshaw, coefficients=NUMBERS),
}


def exact(name, x):
    """The same, written down once more."""
    x, eye = x.double(), torch.eye(x.shape[-1], dtype=F64)
    if name == "series":
        terms = [eye.expand_as(x), x]
        for _ in NUMBERS[2:]:
            terms.append(2 * x @ terms[-1] - terms[-2])
        return sum(c * t for c, t in zip(NUMBERS, terms, strict=True))
    y, z = x, eye
    for _ in range(6):
        e = 1.5 * eye - 0.5 * z @ y
        y, z = y @ e, e @ z
    return z if name == "inverse root" else y


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("low", ERRORS)
def test_iterations(name, n, low):
    x = stack(3, n, 1, F64 if low == F64 else F32)[0]
    got = OPERATORS[name](x, low=low)
    assert got.dtype == x.dtype
    assert got.is_contiguous()
    assert error(got, exact(name, x)) <= ERRORS[low]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("inverse", [False, True])
def test_reference_and_kernel_of_roots_round_alike(steps, inverse):
    args = (stack(2, 70, 1)[0], steps, inverse, F32)
    assert error(_denman_beavers(*args), _iterations(*args).double()) <= 1e-6


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_reference_and_kernel_of_series_round_alike(degree):
    args = (stack(2, 70, 1)[0], NUMBERS[: degree + 1], F32)
    assert error(_clenshaw(*args), _series(*args).double()) <= 1e-6


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_batches_nor_threads_matter(name, count, threads):
    before = torch.get_num_threads()
    x = stack(count, 150, 1)[0]
    alone = torch.cat([OPERATORS[name](one) for one in x.split(1)])
    torch.set_num_threads(threads)
    try:
        assert torch.equal(OPERATORS[name](x), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", OPERATORS)
def test_nan_stays_in_its_matrix_and_strides_do_not_matter(name):
    x = stack(4, 20, 1)[0]
    x[1, 3, 4] = torch.nan
    got = OPERATORS[name](x)
    assert got[1].isnan().any()
    assert got[[0, 2, 3]].isfinite().all()
    assert torch.equal(OPERATORS[name](x[::2, ::2, ::2]), OPERATORS[name](x[::2, ::2, ::2].clone()))
    for shape in ((0, 4, 4), (2, 0, 0)):
        assert OPERATORS[name](torch.ones(shape)).shape == shape


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_maps_and_compilation(name):
    run, x = OPERATORS[name], stack(4, 4, 1, F64)[0]
    torch.autograd.gradcheck(run, (x.clone().requires_grad_(),))
    torch.testing.assert_close(torch.vmap(run)(x.unflatten(0, (2, 2))).flatten(0, 1), run(x))
    torch.compiler.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), run(x))


def test_invalid_arguments():
    x = torch.eye(3)[None]
    for call, text in (
        (lambda: gx.ops.denman_beavers(x[0], 3), r"k must be \(batch, n, n\)"),
        (lambda: gx.ops.denman_beavers(x.half(), 3), "float32 or float64"),
        (lambda: gx.ops.denman_beavers(x, 0), "steps must be in"),
        (lambda: gx.ops.denman_beavers(x, 3, low=F64), "low must be"),
        (lambda: gx.ops.clenshaw(x[:, :2], NUMBERS), r"s must be \(batch, n, n\)"),
        (lambda: gx.ops.clenshaw(x.int(), NUMBERS), "float32 or float64"),
        (lambda: gx.ops.clenshaw(x, [1.0]), "two coefficients"),
        (lambda: gx.ops.clenshaw(x, [1.0, 1e300]), "finite in torch.float32"),
        (lambda: gx.ops.clenshaw(x, NUMBERS, F64), "low must be"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("low", [BF16, F16])
def test_double_precision_is_rounded_to_16_bits_and_stays_double(name, low):
    x = stack(2, 9, 1)[0]
    got = OPERATORS[name](x.double(), low=low)
    assert got.dtype == F64
    assert error(got, exact(name, x)) < ERRORS[low]
    if low == F16:
        got = gx.ops.coupled_newton(x.double(), torch.ones(2, dtype=F64), 3, 4, 1e-3, low)
        want = gx.ops.coupled_newton(x.double(), torch.ones(2, dtype=F64), 3, 4, 1e-3)
        assert got.dtype == F64
        assert error(got, want) < ERRORS[low]


def test_matrices_without_entries():
    x = torch.zeros(2, 0, 0, requires_grad=True)
    for halves in (False, True):
        assert gx.ops.coupled_newton(x, torch.ones(2), 4, 3, 1e-3, halves=halves).shape == x.shape
