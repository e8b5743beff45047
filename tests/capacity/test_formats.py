"""Formats: closed forms against the published digits and against sampling, codes, bits."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtx as gx
from gradtx.capacity.format import Format
from gradtx.capacity.measure import sampled
from gradtx.capacity.table import formats

C = gx.capacity
rise, tread, lloyd = C.uniform_midrise, C.uniform_midtread, C.lloyd_max


def behind(density, bits):
    return C.compose([C.prune(density), rise(bits)])


# Format, error and effective bits as published, every digit.
PUBLISHED = [
    *((rise(1), ".363380", ".730"), (rise(2), ".118846", "1.536"), (rise(3), ".037440", "2.370")),
    *((rise(4), ".011543", "3.218"), (rise(6), "1.040e-3", "4.955"), (rise(7), "3.04e-4", "5.841")),
    *((rise(8), "8.8e-5", "6.739"), (tread(2), ".190174", "1.197"), (tread(3), ".046860", "2.208")),
    *((tread(4), ".012889", "3.139"), (tread(8), "8.8e-5", "6.734")),
    *((lloyd(2), ".117482", "1.545"), (lloyd(3), ".034548", "2.428")),
    *((lloyd(4), ".009501", "3.359"), (lloyd(5), ".002505", "4.321")),
    *((C.prune(0.75), ".008347", "3.452"), (C.prune(0.5), ".071326", "1.905")),
    *((C.prune(0.25), ".276393", ".928"), (C.prune(0.1), ".560714", ".417")),
    (C.prune(0.01), ".915508", ".064"),
    *((C.n_of_m(1, 2), ".181690", "1.230"), (C.n_of_m(2, 4), ".132447", "1.458")),
    *((C.n_of_m(4, 8), ".103307", "1.637"), (C.n_of_m(8, 16), ".087633", "1.756")),
    *((C.n_of_m(1, 4), ".382447", ".693"), (C.n_of_m(4, 16), ".307494", ".851")),
    *((C.n_of_m(6, 8), ".018946", "2.861"), (C.n_of_m(3, 4), ".030176", "2.525")),
    *((behind(0.5, 1), ".192144", "1.190"), (behind(0.5, 2), ".147915", "1.379")),
    *((behind(0.5, 4), ".078148", "1.839"), (behind(0.5, 8), ".071373", "1.904")),
]
# Sampled there with a standard error of about 1e-3 of the value, exact here.
SAMPLED = [
    *((C.absmax("int4", 32), 0.00942), (C.absmax("int4", 64), 0.01158)),
    *((C.absmax("int4", 128), 0.01375), (C.absmax("nf4", 64), 0.00847)),
    *((C.absmax("nf4", 128), 0.00915), (C.absmax("fp4", 16), 0.00887)),
    *((C.absmax("fp4", 32), 0.01023), (C.absmax("int8", 64), 3.5e-5)),
    (C.absmax("int8", 256), 4.8e-5),
]
STEPS = (1.59577, 0.99568, 0.58602, 0.33520, 0.18814, 0.10406, 0.05687, 0.03076)
CODEBOOK = C.vector_codebook([[1.0, 0.5], [-1.0, 0.7], [0.0, -1.2], [0.1, 0.0]], scale=1.0)


def last_place(printed):
    digits = printed.partition("e")[0].partition(".")[2]
    exponent = int(printed.partition("e")[2] or 0)
    return 10.0 ** (exponent - len(digits))


@pytest.mark.parametrize(("form", "error", "bits"), PUBLISHED, ids=lambda v: str(v))
def test_closed_forms_have_the_published_digits(form, error, bits):
    found = C.gmse(form)
    assert found.stderr == 0.0
    assert abs(found.value - float(error)) <= 0.5001 * last_place(error)
    assert abs(C.effective_bits(found.value) - float(bits)) <= 0.5001 * last_place(bits)


@pytest.mark.parametrize(("form", "error"), SAMPLED, ids=lambda v: str(v))
def test_block_formats_are_where_sampling_found_them(form, error):
    assert form.exact_gmse() == pytest.approx(error, rel=0.02 if error < 1e-4 else 2.5e-3)


@pytest.mark.parametrize("bits", range(1, 9))
def test_best_steps(bits):
    assert rise(bits).normal_step == pytest.approx(STEPS[bits - 1], abs=1.1e-5)


def test_half_of_two_is_known():
    assert C.n_of_m(1, 2).exact_gmse() == pytest.approx(0.5 - 1 / math.pi, rel=1e-12)


def test_lloyd_max_levels_are_means_of_their_cells():
    levels = lloyd(3).levels()
    assert levels == pytest.approx((0.24509418, 0.75600528, 1.34390928, 2.15194570), rel=1e-7)
    better = min(rise(3).exact_gmse(), tread(3).exact_gmse())
    assert lloyd(3).exact_gmse() < better
    above = lloyd(3, share=0.3).levels()
    assert above[0] > 1.0364
    assert list(above) == sorted(above)


ALL = [*formats(), lloyd(3, share=0.5), CODEBOOK, C.vector_codebook([[-0.8], [0.8]])]


@pytest.fixture(scope="module")
def by_sampling():
    return dict(zip(ALL, sampled(ALL, (128, 128), samples=1 << 19, seed=3), strict=True))


@pytest.mark.parametrize("form", ALL, ids=repr)
def test_sampling_agrees_with_the_closed_form(form, by_sampling):
    exact = form.exact_gmse()
    if exact is None or (isinstance(form, C.lloyd_max) and form.share < 1):
        pytest.skip("no closed form of what the format does alone")
    found = by_sampling[form]
    # One scale a leaf is that leaf's, so the error is a little less than with the true one.
    assert abs(found.value - exact) < 4.5 * found.stderr + 1e-3 * exact


@pytest.mark.parametrize("form", ALL, ids=repr)
def test_formats_are_values_and_compressors(form):
    x = torch.linspace(-3, 3, 1024).reshape(4, 256)
    back = form(x)
    assert back.shape == x.shape
    assert back.dtype == x.dtype
    torch.testing.assert_close(form.decode(form.encode(x), x), back, rtol=0, atol=0)
    payload, state = form.compress(x, form.init(x))
    assert state == ()
    assert torch.equal(payload, back)
    assert pickle.loads(pickle.dumps(form)) == form == copy.deepcopy(form)
    assert hash(form) == hash(copy.deepcopy(form))
    assert form(x.bfloat16()).dtype == torch.bfloat16
    assert form(torch.zeros_like(x)).isfinite().all()
    tx = gx.chain(gx.error_feedback(form), gx.scale(-1.0))
    updates, _ = tx.update({"x": x}, tx.init({"x": x}))
    torch.testing.assert_close(updates["x"], -back)


@pytest.mark.parametrize("form", formats(), ids=repr)
def test_no_format_passes_the_rate_distortion_bound(form):
    error = C.gmse(form, samples=1 << 17).value
    assert C.effective_bits(error) <= form.bits_per_value((256, 256)) + 1e-9


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), density=st.floats(0.02, 1.0), step=st.floats(0.01, 3.0))
def test_bound_and_order_hold_everywhere(bits, density, step):
    for form in (rise(bits, step), tread(bits, step), C.compose([C.prune(density), rise(bits)])):
        error = form.exact_gmse()
        assert 4.0**-bits * density < error
    best = rise(bits).exact_gmse()
    assert best <= rise(bits, step).exact_gmse() * (1 + 1e-9)
    both = C.compose([C.prune(density), rise(bits)]).exact_gmse()
    assert C.prune(density).exact_gmse() < both
    assert lloyd(bits).exact_gmse() <= best < rise(bits - 1).exact_gmse()


@settings(max_examples=30, deadline=None)
@given(m=st.integers(2, 12), data=st.data())
def test_groups_lose_more_than_the_whole_leaf(m, data):
    n = data.draw(st.integers(1, m))
    error = C.n_of_m(n, m).exact_gmse()
    assert C.prune(n / m).exact_gmse() <= error + 1e-12
    if n < m:
        assert C.n_of_m(n + 1, m).exact_gmse() < error
    else:
        assert error == 0.0


@pytest.mark.parametrize("block", [16, 64, 256])
def test_larger_blocks_lose_more(block):
    for kind in ("int4", "int8", "nf4"):
        assert C.absmax(kind, block).exact_gmse() < C.absmax(kind, 2 * block).exact_gmse()


def test_ties_go_to_the_lower_index():
    x = torch.tensor([1.0, -1.0, 1.0, 1.0])
    assert C.n_of_m(2, 4)(x).tolist() == [1.0, -1.0, 0.0, 0.0]
    assert C.prune(0.25)(x).tolist() == [1.0, 0.0, 0.0, 0.0]
    twice = C.vector_codebook([[1.0, 0.0], [-1.0, 0.0]], scale=1.0)
    assert twice(torch.zeros(2)).tolist() == [1.0, 0.0]


def test_bits_include_side_data():
    shape = (256, 256)
    assert C.absmax("int4", 32).bits_per_value(shape) == 4.5
    assert C.n_of_m(2, 4).bits_per_value(shape) == pytest.approx(8 + math.log2(6) / 4)
    assert C.prune(0.5).bits_per_value(shape) == 9.0
    assert rise(4).bits_per_value((4, 4)) == 5.0
    assert C.compose([C.prune(0.5), rise(4)]).bits_per_value((1 << 24,)) == pytest.approx(3)
    assert CODEBOOK.bits_per_value(shape) == 1.0


def test_zeros_stay_behind_a_sparsifier():
    x = torch.tensor([0.1, -4.0, 2.0, 1.0])
    both = C.compose([C.n_of_m(2, 4), rise(4)])(x)
    assert (both == 0).tolist() == [True, False, False, True]
    assert repr(C.compose([C.prune(0.5), rise(4)])) == ("compose([prune(0.5), uniform_midrise(4)])")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rise(0), "uniform_midrise: bits must be an integer >= 1, got 0"),
        (lambda: tread(1), r"uniform_midtread: bits must be in \[2, 16\], got 1"),
        (lambda: lloyd(11), r"lloyd_max: bits must be in \[1, 10\], got 11"),
        (lambda: rise(4, step=0.0), r"uniform_midrise: step must be in \(0, inf\), got 0.0"),
        (lambda: rise(4, share=0.0), r"uniform_midrise: share must be in \(0, 1\], got 0.0"),
        (lambda: lloyd(2, share=2.0), r"lloyd_max: share must be in \(0, 1\], got 2.0"),
        (lambda: C.prune(0.0), r"prune: density must be in \(0, 1\], got 0.0"),
        (lambda: C.prune(1.5), r"prune: density must be in \(0, 1\], got 1.5"),
        (lambda: C.n_of_m(5, 4), "n_of_m: n must be at most m, got 5 of 4"),
        (lambda: C.n_of_m(0, 4), "n_of_m: n must be an integer >= 1, got 0"),
        (lambda: C.absmax("int3"), "absmax: kind must be 'int4'"),
        (lambda: C.absmax("int4", 1), "absmax: block must be an integer >= 2, got 1"),
        (lambda: C.vector_codebook([1.0]), "vector_codebook: words must be a matrix"),
        (lambda: C.vector_codebook([[math.inf]]), "vector_codebook: words must be finite"),
        (lambda: C.absmax("int4", 64)(torch.ones(100)), "block must divide .* got 64 for 100"),
        (lambda: C.n_of_m(2, 4)(torch.ones(6)), "n_of_m: m must divide .* got 4 for 6"),
        (lambda: C.compose([]), "compose: needs at least one format"),
    ],
)
def test_bad_values(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_only_formats_compose():
    half, four = gx.capacity.prune(0.5), gx.capacity.uniform_midrise(4)
    with pytest.raises(ValueError, match="in front of one other format only, got 3"):
        gx.capacity.compose([half, gx.capacity.n_of_m(2, 4), four])
    with pytest.raises(TypeError, match="compose: needs formats, got dense"):
        C.compose([gx.codecs.dense()])
    with pytest.raises(TypeError, match="composed: second must be a Format, got top_k"):
        C.compose([C.prune(0.5), gx.compressors.top_k(0.5)])


def test_a_format_of_ones_own_gets_a_row():
    from dataclasses import dataclass

    @dataclass(frozen=True, repr=False)
    class halves(Format):
        def encode(self, x):
            return x.bfloat16()

        def decode(self, code, like):
            return code.to(like.dtype)

        def bits_per_value(self, shape):
            return 16.0

    found = C.gmse(halves(), samples=1 << 17)
    assert 0 < found.value < 1e-5
    assert found.stderr > 0
    row = C.table(more=[halves()], samples=1 << 17)[-1]
    assert (row.name, row.kind, row.bits) == ("halves()", "format", 16.0)


@pytest.mark.parametrize(
    "form",
    [
        *(gx.capacity.absmax(kind) for kind in ("int8", "nf4")),
        gx.capacity.uniform_midrise(10),
        gx.capacity.uniform_midtread(8),
        gx.capacity.lloyd_max(8),
    ],
    ids=repr,
)
def test_half_precision_is_rounded_once(form):
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).mT
    for dtype in (torch.bfloat16, torch.float16):
        for size in (1.0, 1e-4):
            low = (size * x).to(dtype)
            assert torch.equal(form(low), form(low.float()).to(dtype))
