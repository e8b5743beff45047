"""The MicroAdam step: kernel against reference, what is not finite, bad arguments."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import gradtx_cuda
from gradtx.ops import OPS, microadam_

from .rows import values

LISTS = ("params", "grads", "codes", "lo", "hi", "steps", "indices", "values")
KERNEL = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
SIZES = (1, 5, 64, 1000, 70_001, 0)


def drawn(n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers that repeat where there are very many."""
    return values((min(n, 400_001),), dtype, seed).repeat(-(-n // 400_001))[:n].clone()


def arguments(
    sizes: tuple[int, ...] = SIZES,
    param: torch.dtype = torch.float32,
    grad: torch.dtype = torch.float32,
    density: float = 0.02,
    block: int = 4096,
    quant: int = 64,
    **options: Any,
) -> dict[str, Any]:
    """A first step of leaves of these sizes."""
    window, out = 3, {name: [] for name in (*LISTS, "rows", "signs", "block_sizes", "kept")}
    for i, n in enumerate(sizes):
        size = max(min(n, block), 1)
        k, tail = math.ceil(size * density), math.ceil(n % size * density)
        shape, ranges = (window, n // size * k + tail), -(-n // quant)
        out["params"].append(drawn(n, param, i))
        out["grads"].append(drawn(n, grad, 50 + i))
        out["codes"].append(torch.zeros(-(-n // 2), dtype=torch.uint8))
        out["lo"].append(torch.zeros(ranges, dtype=torch.bfloat16))
        out["hi"].append(torch.zeros(ranges, dtype=torch.bfloat16))
        out["steps"].append(torch.zeros((), dtype=torch.int32))
        out["indices"].append(torch.zeros(shape, dtype=torch.int16))
        out["values"].append(torch.zeros(shape, dtype=torch.bfloat16))
        out["rows"].append(i % 2)
        out["signs"].append(-1 if i == 1 else 1)
        out["block_sizes"].append(size)
        out["kept"].append(k)
    rows = [[0.1, 0.9, 0.999, 1e-8, 0.1], [0.01, 0.5, 0.9, 1e-3, 0.0]]
    fixed = {
        "quant_block_size": quant,
        "include_zero": False,
        "window_correction": False,
        "nonfinite": "raise",
    }
    return {**out, "hyper": torch.tensor(rows, dtype=torch.float64), **fixed, **options}


def clone(args: dict[str, Any]) -> dict[str, Any]:
    return {k: [x.clone() for x in v] if k in LISTS else v for k, v in args.items()}


def state(args: dict[str, Any]) -> list[Tensor]:
    return [x for name in LISTS for x in args[name]]


@KERNEL
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"density": 1.0},
        {"density": 0.3, "block": 60, "quant": 6},
        {"param": torch.bfloat16, "grad": torch.bfloat16},
        {"param": torch.bfloat16, "quant": 128},
        {"grad": torch.bfloat16, "include_zero": True},
        {"window_correction": True, "nonfinite": "skip", "quant": 4096},
        {"nonfinite": "ignore"},
    ],
)
def test_kernel_against_reference(options):
    kernel = arguments(**options)
    for t in range(5):
        kernel["grads"] = [values(tuple(g.shape), g.dtype, 50 + t) for g in kernel["grads"]]
        reference = clone(kernel)
        flags = microadam_(**kernel)
        assert torch.equal(flags, OPS["microadam_"].reference(**reference))
        for name in LISTS[1:]:
            for a, b in zip(kernel[name], reference[name], strict=True):
                assert torch.equal(a, b), (t, name)
        for a, b in zip(kernel["params"], reference["params"], strict=True):
            torch.testing.assert_close(a, b)


def one_of(*choices: float) -> Callable[[int, Tensor], Tensor]:
    table = torch.tensor(choices)
    return lambda n, g: table[(g * 1000).long() % len(choices)]


HARD: dict[str, Callable[[int, Tensor], Tensor]] = {
    "zeros": lambda n, g: torch.zeros(n),
    "equal": lambda n, g: torch.full((n,), 0.3),
    "opposite": one_of(1.0, -1.0),
    "ties": one_of(0.0, 1.0, -1.0, 2.0, -2.0, 3.0),
    "far from zero": lambda n, g: 100 + g,
    "below zero": lambda n, g: -100 - g.abs() / 64,
    "one large": lambda n, g: torch.where(torch.arange(n) % 4000 == 7, 1e30, g),
    "clustered": lambda n, g: torch.where(torch.arange(n) % 4096 < 100, 50 + g, g),
    "subnormal": lambda n, g: g * 1e-39,
    "smallest": lambda n, g: g.sign() * 1.5e-45,
    "huge": lambda n, g: g * 1e38,
    "infinite": lambda n, g: torch.where(torch.arange(n) % 50 == 0, math.inf, g),
    "not a number": lambda n, g: torch.where(torch.arange(n) % 900 == 0, math.nan, g),
    "grid": lambda n, g: (g * 4).round() / 2,
}


@KERNEL
@pytest.mark.parametrize("include_zero", [False, True])
@pytest.mark.parametrize("name", HARD)
def test_hard_gradients(name, include_zero):
    n = 2 * 4096 + 1024 + 13
    kernel = arguments((n, 64 * 19), nonfinite="ignore", include_zero=include_zero)
    for t in range(5):
        random = [values(tuple(g.shape), g.dtype, 50 + t) for g in kernel["grads"]]
        kernel["grads"] = [HARD[name](g.numel(), g) for g in random]
        reference = clone(kernel)
        microadam_(**kernel)
        OPS["microadam_"].reference(**reference)
        for kind in LISTS[2:]:
            for a, b in zip(kernel[kind], reference[kind], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(kernel["params"], reference["params"], strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


@KERNEL
@pytest.mark.parametrize(
    "scales", [(1, 1, 1, 1), (1, 1e3, 1e-3, 1), (1, 0, 0, 1), (1, math.nan, 1, 1)]
)
def test_the_last_step_is_no_hint(scales):
    """However far the largest magnitudes are from those of the step or the block before."""
    kernel = arguments((20 * 1024,), block=1024, nonfinite="ignore")
    gradient = values((20, 1024), torch.float32, 3) * torch.logspace(-2, 2, 20)[:, None]
    for t, scale in enumerate(scales):
        kernel["grads"] = [(scale * gradient.roll(t, 0)).flatten()]
        reference = clone(kernel)
        microadam_(**kernel)
        OPS["microadam_"].reference(**reference)
        for name in ("codes", "lo", "hi", "indices", "values"):
            for a, b in zip(kernel[name], reference[name], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(kernel["params"], reference["params"], equal_nan=True)


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_decay_what_has_no_entry_stays(backend, dtype):
    args = arguments((64, 4096, 5000), param=dtype, rows=[1, 1, 1])
    for p in args["params"]:
        p[::3] = math.inf
    before = [p.clone() for p in args["params"]]
    step = OPS["microadam_"].reference if backend == "reference" else microadam_
    step(**args)
    for old, new in zip(before, args["params"], strict=True):
        assert torch.equal(new[::3], old[::3])
        assert (new != old).any()


@KERNEL
def test_threads_do_not_matter():
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            args = arguments((300_001, 7, 5000))
            microadam_(**args)
            results.append(state(args))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize(
    ("bad", "at", "quant", "dtype"),
    [
        (math.nan, 70_000, 64, torch.float32),
        (math.inf, 0, 64, torch.bfloat16),
        (-math.inf, 30_000, 64, torch.float32),
        (math.nan, 69_999, 128, torch.bfloat16),
        (math.inf, 70_000, 128, torch.float32),
    ],
)
def test_what_is_not_finite(backend, policy, bad, at, quant, dtype):
    op = microadam_ if backend == "kernel" else OPS["microadam_"].reference
    args = arguments((3000, 70_001, 3), grad=dtype, quant=quant)
    for _ in range(4):  # the step would write over a row of the window
        assert op(**args).all()
    args["nonfinite"] = policy
    args["grads"][1][at] = bad
    before = clone(args)
    assert op(**args).tolist() == [True, False, True]
    for name in set(LISTS) - {"grads"}:
        for i in (0, 1, 2) if policy == "raise" else (1,):
            assert torch.equal(args[name][i], before[name][i]), (name, i)
    assert torch.equal(args["params"][0], before["params"][0]) == (policy == "raise")
    assert args["steps"][2] == (4 if policy == "raise" else 5)


@KERNEL
def test_more_than_can_be_taken_back():
    n = 110_000_000  # the kernel keeps copies for 107 million
    args = arguments((n,), torch.bfloat16, torch.bfloat16)
    assert microadam_(**args).all()
    before = clone(args)
    args["grads"][0][-1] = math.nan
    assert not microadam_(**args).any()
    assert all(map(torch.equal, state(before)[2:], state(args)[2:]))
    assert torch.equal(before["params"][0], args["params"][0])
    args["grads"][0][-1] = 1.0
    other = clone(args)
    assert microadam_(**args).all()
    assert microadam_(**{**other, "nonfinite": "ignore"}).all()
    assert all(map(torch.equal, state(other), state(args)))


@KERNEL
def test_two_steps_at_once():
    runs = [arguments((400_001, 5), nonfinite=policy) for policy in ("raise", "skip") * 2]
    want = [clone(run) for run in runs]

    def step(run: dict[str, Any]) -> None:
        for _ in range(5):
            microadam_(**run)

    threads = [threading.Thread(target=step, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run, alone in zip(runs, want, strict=True):
        step(alone)
        assert all(map(torch.equal, state(run), state(alone)))


@KERNEL
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("params", lambda x: x.double(), "must be float32 or bfloat16"),
        ("grads", lambda x: x[:-1], "the gradient must have 1000 elements, got 999"),
        ("codes", lambda x: x[1:], "codes must have 500 elements, got 499"),
        ("lo", lambda x: x.float(), "lo has another dtype"),
        ("hi", lambda x: x.repeat(2)[::2], "hi must be contiguous"),
        ("steps", lambda x: x - 1, "step is negative"),
        ("indices", lambda x: x[:, 1:], "do not have the shape of a window"),
        ("values", lambda x: x[1:], "values must have"),
        ("rows", lambda x: 2, "has no row 2 of hyper"),
        ("signs", lambda x: 0, "sign must be 1 or -1"),
        ("kept", lambda x: 0, "cannot keep 0"),
        ("block_sizes", lambda x: 500, "quant_block_size must divide the block size 500"),
    ],
)
def test_bad_arguments_change_nothing(name, change, message):
    args = arguments()
    args[name][3] = change(args[name][3])
    before = clone(args)
    with pytest.raises(RuntimeError, match=f"microadam_: leaf 3:.*{message}"):
        microadam_(**args)
    assert all(map(torch.equal, state(args), state(before)))


@KERNEL
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_block_size": 3}, "quant_block_size must be even"),
        ({"nonfinite": "stop"}, "nonfinite must be"),
        ({"hyper": torch.zeros(2, 4, dtype=torch.float64)}, "hyper must be float64"),
        ({"lo": []}, "all lists must have 6 tensors, got 0"),
        ({"rows": []}, "all lists must have 6 entries, got 0"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(RuntimeError, match=f"microadam_: {message}"):
        microadam_(**{**arguments(), **changes})


@KERNEL
def test_entries_outside_their_block_are_left_out():
    args = arguments((1000,))
    microadam_(**args)
    args["indices"][0][0, 0] = 1000
    args["indices"][0][0, 1] = -5
    args["values"][0][0, :2] = math.nan
    microadam_(**args)
    assert args["params"][0].isfinite().all()


@KERNEL
@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("block", [4096, 16384])
def test_a_window_in_any_order(block, decays):
    """Rows that do not ascend, and positions that all rows have."""
    kernel = arguments((2 * block,), block=block) | {"rows": [0 if decays else 1]}
    for t in range(6):
        grads = values((2 * block,), torch.float32, 50 + t)
        grads[::777] *= 100
        kernel["grads"] = [grads]
        reference = clone(kernel)
        microadam_(**kernel)
        OPS["microadam_"].reference(**reference)
        for name in LISTS[2:]:
            assert torch.equal(kernel[name][0], reference[name][0]), (t, name)
        torch.testing.assert_close(kernel["params"], reference["params"])
        if t == 3:
            for name in ("indices", "values"):
                kernel[name][0] = kernel[name][0].unflatten(1, (2, -1)).flip(2).flatten(1)


def test_schema_and_fake():
    args = arguments((40, 9))
    order = [a.name for a in microadam_._schema.arguments]
    opcheck(
        microadam_,
        tuple(args[name] for name in order),
        test_utils=("test_schema", "test_faketensor"),
    )
