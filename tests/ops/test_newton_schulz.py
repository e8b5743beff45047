"""Newton-Schulz iterations of the operator, against iterations in float64."""

from __future__ import annotations

import pytest
import torch

from gradtx.ops import newton_schulz
from gradtx.ops.newton_schulz import _newton_schulz, _reference, definition

QUINTIC = (3.4445, -4.775, 2.0315)
PLAIN, PARTS = [[QUINTIC]] * 5, [[QUINTIC] * 3, [QUINTIC] * 2]
SHAPES = [(1, 1), (5, 7), (16, 16), (17, 3), (33, 100), (100, 33), (130, 131), (300, 40), (40, 600)]
ERRORS = {torch.float32: 1e-5, torch.bfloat16: 0.06, torch.float16: 8e-3, torch.float64: 1e-12}


def exact(xs, iterations=5, scaling="add", eps=1e-7):
    """The plain iteration, written down once more."""
    x = torch.cat([x.double() for x in xs])
    norm = x.norm(dim=(1, 2), keepdim=True)
    x = x / {"add": norm + eps, "clamp": norm.clamp(min=eps), "none": torch.ones(())}[scaling]
    a, b, c = QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def call(op, xs, parts, scaling="add", dtype=torch.float32, mixed=False, eps=1e-7):
    numbers = [number for part in parts for triple in part for number in triple]
    lengths = [len(part) for part in parts]
    return op(xs, numbers, lengths, scaling, 1.0, eps, dtype, mixed, 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [PLAIN, PARTS], ids=["plain", "parts"])
@pytest.mark.parametrize(
    ("dtype", "mixed"), [*((dtype, False) for dtype in ERRORS), (torch.bfloat16, True)]
)
def test_iterations(shape, parts, dtype, mixed):
    if dtype.itemsize == 2 and parts is PARTS and not mixed:
        parts = [[QUINTIC] * 2, [QUINTIC] * 2, [QUINTIC]]
    xs = [torch.randn(2, *shape).to(dtype), torch.randn(1, *shape).to(dtype)]
    got = newton_schulz(xs, parts, dtype=dtype, mixed=mixed)
    assert got.dtype == dtype
    assert got.is_contiguous()
    assert error(got, exact(xs)) <= ERRORS[dtype]


@pytest.mark.parametrize("parts", [PLAIN, PARTS], ids=["plain", "parts"])
def test_the_definition(parts):
    x = torch.randn(3, 20, 30, dtype=torch.float64)
    want = definition(x, [QUINTIC] * 5)
    assert error(newton_schulz([x], parts, eps=0.0), want) <= 1e-13
    tall = newton_schulz([x.mT.contiguous()], parts, eps=0.0)
    assert error(tall, want.mT) <= 1e-13


@pytest.mark.parametrize("scaling", ["add", "clamp", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scalings(scaling, dtype):
    xs = [0.02 * torch.randn(2, 20, 30)]
    got = newton_schulz(xs, PLAIN, scaling, eps=0.3, dtype=dtype)
    assert got.dtype == torch.float32
    assert error(got, exact(xs, 5, scaling, 0.3)) <= ERRORS[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_batches_nor_threads_matter(count, threads, dtype):
    """A thread has a matrix to itself, or all share those that remain."""
    before = torch.get_num_threads()
    x = torch.randn(count, 90, 200)
    alone = torch.cat([newton_schulz([one], PARTS, dtype=dtype) for one in x.split(1)])
    torch.set_num_threads(threads)
    try:
        assert torch.equal(newton_schulz([x], PARTS, dtype=dtype), alone)
        assert torch.equal(newton_schulz(list(x.split(1)), PARTS, dtype=dtype), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_scaled_after_they_are_rounded(dtype):
    x = torch.randn(3, 30, 70)
    for one in (x, x.bfloat16(), x.mT):
        plain = newton_schulz([one], PLAIN, dtype=dtype)
        assert torch.equal(newton_schulz([one], PLAIN, dtype=dtype, scale=0.3), plain * 0.3)


def test_strides_do_not_matter():
    whole = torch.randn(4, 60, 80)
    for x in (whole[::2, ::2, :50], whole[:, :, ::2], whole.mT, whole.transpose(0, 1)):
        assert torch.equal(newton_schulz([x], PARTS), newton_schulz([x.contiguous()], PARTS))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_do_not_overflow(scale, dtype):
    x = torch.randn(1, 20, 30)
    got = newton_schulz([scale * x], PLAIN, eps=1e-38, dtype=dtype)
    assert error(got, exact([x])) <= ERRORS[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [PLAIN, PARTS], ids=["plain", "parts"])
def test_zeros_stay_zeros_and_nan_stays_in_its_matrix(dtype, parts):
    x = torch.randn(3, 20, 30)
    x[0], x[1, 3, 4] = 0.0, torch.nan
    got = newton_schulz([x], parts, dtype=dtype)
    assert torch.equal(got[0], torch.zeros(20, 30))
    assert got[1].isnan().all()
    assert error(got[2:], exact([x[2:]])) <= ERRORS[dtype]


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 3), (2, 4, 0)])
def test_empty(shape):
    assert newton_schulz([torch.ones(shape)], PARTS).shape == shape


@pytest.mark.parametrize(
    ("dtype", "mixed"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
)
def test_reference_and_kernel_round_alike(dtype, mixed):
    xs = [torch.randn(2, 64, 96) / 80]
    for parts in (PLAIN, PARTS):
        both = (call(op, xs, parts, "none", dtype, mixed) for op in (_newton_schulz, _reference))
        got, want = (x.double() for x in both)
        assert error(got, want) <= ERRORS[dtype]


def loss(x, parts):
    return (newton_schulz([x], parts) * torch.arange(x.numel()).view(x.shape)).sum()


def test_derivatives():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    for parts in ([[QUINTIC]] * 2, [[QUINTIC] * 2]):
        torch.autograd.gradcheck(lambda x, parts=parts: newton_schulz([x], parts), (x,))


def test_functorch_and_compile():
    x = torch.randn(5, 2, 20, 30)
    each = torch.stack([newton_schulz([one], PARTS) for one in x])
    mapped = torch.vmap(lambda x: newton_schulz([x], PARTS))(x)
    torch.testing.assert_close(mapped, each, rtol=1e-4, atol=1e-5)
    grads = torch.vmap(torch.func.grad(lambda x: loss(x, PARTS)))(x)
    want = torch.stack([torch.func.grad(lambda x: loss(x, PARTS))(one) for one in x])
    torch.testing.assert_close(grads, want, rtol=1e-3, atol=1e-2)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda x: newton_schulz([x], PARTS), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x[0]), each[0], rtol=1e-4, atol=1e-5)


def test_invalid_arguments():
    x = torch.ones(2, 4, 3)
    for args, text in (
        (([], PLAIN), "must be a matrix"),
        (([x[0]], PLAIN), "one shape"),
        (([x, x.mT], PLAIN), "one shape"),
        (([x, x.double()], PLAIN), "one floating dtype"),
        (([x.int()], PLAIN, "add", 1.0, 1e-7, torch.float32), "one floating dtype"),
        (([x], PLAIN, "rows"), "scaling must be one of"),
        (([x], PLAIN, "add", 1.0, 1e-7, torch.int32), "dtype must be floating"),
        (([x], PLAIN, "add", 1.0, 1e-7, None, True), "mixed is for bfloat16"),
        (([x], []), "must have iterations"),
        (([x], [[QUINTIC], []]), "must have iterations"),
    ):
        with pytest.raises(ValueError, match=text):
            newton_schulz(*args)
