"""Errors by sampling, effective bits, capacities, fits, the table and its picture."""

import math
import time

import pytest
import torch

import gradtx as gx
from gradtx.capacity.__main__ import main
from gradtx.capacity.table import of_the_library
from gradtx.codecs import Codec
from gradtx.compressors import Compressor

C = gx.capacity


def test_every_codec_and_compressor_has_a_row():
    shown = {type(x) for x in of_the_library().values()}
    for room, base in ((gx.codecs, Codec), (gx.compressors, Compressor)):
        for name in room.__all__:
            cls = getattr(room, name)
            if isinstance(cls, type) and issubclass(cls, base) and name.islower():
                assert cls in shown, f"{name} needs arguments in gradtx/capacity/table.py"


def test_the_table_is_quick_and_keeps_the_bound():
    started = time.process_time()
    rows = C.table()
    assert time.process_time() - started < 60  # 20 s of a quiet machine
    for row in rows:
        assert row.effective_bits <= row.bits + 0.01 or row.gmse == 0, row
    assert len({row.name for row in rows}) == len(rows)
    by_name = {row.name: row for row in rows}
    assert by_name["dense()"].gmse == 0
    assert by_name["dense()"].bits == 32
    same = by_name["symmetric(bits=4)"], by_name["absmax('int4', 64)"]
    assert abs(same[0].gmse - same[1].gmse) < 4.5 * same[0].stderr


def test_numbers_depend_on_the_seed_alone():
    codec = gx.codecs.affine(bits=4)
    first = C.gmse(codec, samples=1 << 17)
    assert first == C.gmse(codec, samples=1 << 17)
    other = C.gmse(codec, samples=1 << 17, seed=1)
    assert first.value != other.value
    assert abs(first.value - other.value) < 6 * (first.stderr + other.stderr)


def test_a_compressor_is_measured_by_what_it_drops():
    density = 0.25
    found = C.gmse(gx.compressors.top_k(density), shape=(1 << 16,), samples=1 << 19)
    assert abs(found.value - C.prune(density).exact_gmse()) < 4.5 * found.stderr + 1e-4
    whole = C.gmse(gx.compressors.identity(), samples=1)
    assert whole == (0.0, 0.0)


def test_a_search_finds_the_scale():
    fixed = C.uniform_midrise(4, step=1.0)
    alone = C.gmse(fixed, samples=1 << 17, exact=False)
    found = C.gmse(fixed, samples=1 << 17, scales=[2.0 ** (i / 4) for i in range(-8, 9)])
    best = C.uniform_midrise(4).exact_gmse()
    assert best * 0.98 < found.value < 1.1 * best < alone.value


def test_bits_of_payloads():
    shape = (64, 64)
    bits = lambda c: C.stored_bits(c, shape)  # noqa: E731
    assert bits(gx.compressors.top_k(0.25)) == pytest.approx(0.25 * 64)
    assert bits(gx.compressors.block_top_k(0.25)) == pytest.approx(0.25 * 48)
    assert bits(gx.compressors.random_k(0.25)) == pytest.approx(0.25 * 32)
    assert bits(gx.compressors.sign(block_size=64)) == pytest.approx(1.5)
    assert bits(gx.compressors.low_rank(4)) == pytest.approx(2 * 4 / 64 * 32)
    assert bits(gx.compressors.top_columns(8)) == pytest.approx(8 / 64 * 32 + 8 * 64 / 64**2)
    assert 0.3 * 32 < bits(gx.compressors.threshold(1.0)) < 0.34 * 32 + 1
    assert bits(gx.codecs.blockwise(8, min_size=0)) == pytest.approx(8 + 32 / 256)
    assert math.isnan(bits(torch.sign))


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="needs samples, got 0"):
        C.gmse(gx.codecs.dense(), samples=0)
    with pytest.raises(ValueError, match=r"scales must be in \(0, inf\), got 0"):
        C.gmse(gx.codecs.dense(), scales=[0.0])
    with pytest.raises(ValueError, match="gives numbers that are not finite"):
        C.gmse(lambda x: x / 0.0, samples=1)
    with pytest.raises(TypeError, match="needs a format, a codec, a compressor or a function"):
        C.gmse(3)
    with pytest.raises(TypeError, match="got rank1"):
        C.gmse(gx.codecs.rank1)
    with pytest.raises(ValueError, match="block must divide"):
        C.gmse(C.absmax("int4", 64), shape=(10, 10), exact=False)
    with pytest.warns(UserWarning, match="worse than zeros"):
        C.gmse(lambda x: -x, samples=1)
    with pytest.warns(UserWarning, match="worse than zeros"):
        C.gmse(C.uniform_midrise(1, step=8.0))


def test_effective_bits():
    assert C.effective_bits(4.0**-3) == 3.0
    assert C.effective_bits(0.0) == math.inf
    assert C.effective_bits(1.0) == 0.0
    with pytest.warns(UserWarning, match=r"gmse should be in \[0, 1\], got 1.2"):
        assert C.effective_bits(1.2) < 0
    assert C.effective_bits(1.001, stderr=0.001) < 0
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match=r"effective_bits: gmse must be in \[0, 1\]"):
            C.effective_bits(bad)


def test_capacity_falls_with_the_error():
    values = [C.capacity(g, 0.97, 0.7, 0.9) for g in (0.0, 1e-4, 0.01, 0.1, 0.5, 1.0)]
    assert values[0] == 0.97
    assert values[-1] == 0.0
    assert values == sorted(values, reverse=True)
    with pytest.raises(ValueError, match=r"capacity: slope must be in \(0, inf\), got 0"):
        C.capacity(0.1, 1.0, 0.0, 1.0)


def test_the_product_is_near_the_direct_capacity_where_formats_are_good():
    constants = (1.0, 0.6, 1.0)
    parts = [C.prune(0.75), C.uniform_midrise(6)]
    direct = C.capacity(C.gmse(C.compose(parts)).value, *constants)
    product = C.capacity_product([C.gmse(f).value for f in parts], *constants)
    assert product <= direct
    assert direct - product == pytest.approx(0.004, abs=0.004)
    with pytest.raises(ValueError, match="needs at least one"):
        C.capacity_product([], *constants)


def test_fit_of_a_capacity():
    truth = C.Capacity(0.95, 0.45, 1.3)
    bits = (0.4, 0.9, 1.5, 2.2, 3.3, 5.0)
    points = [(b, C.capacity(4.0**-b, *truth)) for b in bits]
    assert C.fit_capacity(points) == pytest.approx(truth, rel=1e-4)
    with pytest.raises(ValueError, match="needs at least 3 points, got 2"):
        C.fit_capacity(points[:2])
    with pytest.raises(ValueError, match="positive and finite"):
        C.fit_capacity([(math.inf, 1.0), *points])


def test_fit_of_a_scaling_law():
    law, rho = C.ScalingLaw(400.0, 0.34, 410.0, 0.28, 1.7), {"dense": 1.0, "int4": 0.9, "2:4": 0.6}
    runs = [
        (name, n, d, C.scaling_law(n, d, share, law))
        for name, share in rho.items()
        for n in (1e6, 1e7, 1e8)
        for d in (1e8, 1e9, 1e10)
    ]
    found, shares = C.fit_scaling_law(runs)
    assert shares == pytest.approx(rho, rel=1e-2)
    for _, n, d, loss in runs[:9]:
        assert C.scaling_law(n, d, 1.0, found) == pytest.approx(loss, rel=1e-3)
    with pytest.raises(ValueError, match="no run has the baseline's format"):
        C.fit_scaling_law(runs, baseline="bf16")
    with pytest.raises(ValueError, match="must be positive"):
        C.fit_scaling_law([("dense", 0.0, 1.0, 1.0), *runs])
    with pytest.raises(ValueError, match="scaling_law: n must be > 0, got 0"):
        C.scaling_law(0, 1.0, 1.0, law)


@pytest.mark.parametrize(
    ("options", "passing"),
    [
        ({}, [0, 1]),
        ({"backward_mask": "threshold", "backward_density": 0.75}, [0, 1, 2]),
        ({"backward_mask": "band", "band": (0.25, 0.75)}, [1, 2]),
        ({"backward_mask": "band", "band": (0.0, 0.25)}, [0]),
    ],
)
def test_backward_masks(options, passing):
    x = torch.tensor([8.0, -4.0, 2.0, 1.0])
    value, grad = None, torch.func.grad(lambda x: (C.sparsify(x, 0.5, **options) * 3).sum())(x)
    value = C.sparsify(x, 0.5, **options)
    assert value.tolist() == [8.0, -4.0, 0.0, 0.0]
    assert grad.nonzero()[:, 0].tolist() == passing
    assert set(grad[passing].tolist()) == {3.0}
    batch = torch.stack([x, 2 * x])
    each = torch.func.vmap(lambda x: C.sparsify(x, 0.5, **options))(batch)
    torch.testing.assert_close(each, torch.stack([value, 2 * value]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"density": 0.0}, r"density must be in \(0, 1\]"),
        ({"backward_mask": "none"}, "backward_mask must be one of"),
        ({"backward_mask": "threshold"}, r"backward_density must be in \[density, 1\]"),
        (
            {"backward_mask": "threshold", "backward_density": 0.1},
            r"backward_density must be in \[density, 1\]",
        ),
        ({"backward_mask": "band"}, "band must be two ascending shares"),
        ({"backward_mask": "band", "band": (0.5, 0.2)}, "band must be two ascending shares"),
    ],
)
def test_bad_masks(options, words):
    with pytest.raises(ValueError, match=f"sparsify: {words}"):
        C.sparsify(torch.ones(4), **{"density": 0.5, **options})


def test_the_command_prints_and_draws(tmp_path, capsys):
    main(["--samples", str(1 << 17), "--picture", str(tmp_path / "bits.png")])
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:2] == ["representation", "kind"]
    assert any(line.startswith("absmax('nf4', 64)") for line in out)
    assert (tmp_path / "bits.png").read_bytes().startswith(b"\x89PNG")


def test_pruning_in_front_of_scaled_levels():
    both = gx.capacity.compose([gx.capacity.prune(0.5), gx.capacity.lloyd_max(4, scale=2.0)])
    found = gx.capacity.gmse(both, samples=1 << 17, exact=False)
    assert abs(found.value - both.exact_gmse()) < 5 * found.stderr


def test_functions_keep_the_shape():
    with pytest.raises(ValueError, match=r"gives shape \(\) for \(256, 256\)"):
        gx.capacity.gmse(lambda x: x.mean(), samples=1 << 17)


def test_nothing_stored_has_no_efficiency():
    assert math.isnan(gx.capacity.Row("zeros", "format", 0.0, 1.0, 0.0).efficiency)
