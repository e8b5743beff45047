"""Kernels and references refuse the same and give the same, NaN and infinity included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx_cuda
from gradtx.ops import OPS
from gradtx.ops.registry import has_kernel

from .hostile import cases, copies

pytestmark = [
    pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason),
    pytest.mark.filterwarnings("ignore"),
]
KERNELS = [name for name in OPS if has_kernel(name, "CPU")]
# Infinite entries meet the zeros that kernels fill matrices up with: NaN in the place of infinity.
NOT_FINITE = {"coupled_newton", "denman_beavers"}
PRECISION = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 4e-2}


def tensors(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    return [t for part in x for t in tensors(part)] if isinstance(x, (tuple, list)) else []


def assert_alike(actual: Any, expected: Any) -> None:
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        if not e.is_meta:
            tolerance = PRECISION.get(e.dtype, 0.0)
            torch.testing.assert_close(a, e, rtol=tolerance, atol=10 * tolerance, equal_nan=True)


def called(function: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """What a call gives, or None if it raises, and its arguments afterwards."""
    args = copies(args)
    try:
        out = function(*args)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        return None, args
    return (() if out is None else out), args


def is_regular(args: tuple[Any, ...]) -> bool:
    """Whether neither rounding nor NaN decides what Cholesky factors are."""
    xs = tensors(args)
    if any(x.ndim != 3 or x.dtype not in (torch.float32, torch.float64) for x in xs):
        return True
    if not all(x.isfinite().all() for x in xs) or xs[0].shape[0] * xs[-1].shape[-1] == 0:
        return False
    if len(xs) > 1:
        diagonal = xs[-1].diagonal(dim1=1, dim2=2).abs()
        return bool((diagonal > 1e-3).all())
    s = xs[0]
    if s.shape[1] != s.shape[2]:
        return True
    values = torch.linalg.eigvalsh(s.double())
    return torch.equal(s, s.mT) and bool((values[:, 0].abs() > 1e-3 * values[:, -1].abs()).all())


def is_judged(name: str, args: tuple[Any, ...]) -> bool:
    """Whether both have to say the same of these arguments."""
    if any(t.is_meta for t in tensors(args)):  # the fake decides, for all devices
        return len({t.device for t in tensors(args)}) > 1
    if name == "symmetric_product":
        x, y = args[:2]
        return x.ndim < 2 or y.ndim < 2 or x.shape != y.mT.shape or torch.equal(x, y.mT)
    if name.startswith("cholesky"):
        return is_regular(args)
    if name.startswith("block_fisher"):  # rounding decides where matrices are nearly singular
        return not 0 < args[-1] < 1e-9
    return True


def assert_same_call(name: str, args: tuple[Any, ...]) -> None:
    before = copies(args)
    got, after = called(getattr(torch.ops.gradtx, name), args)
    if not is_judged(name, args):
        return
    want, expected = called(OPS[name].reference, args)
    assert (got is None) == (want is None)
    if want is None:
        for left in (after, expected):
            for a, b in zip(tensors(left), tensors(before), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif name == "orthonormalize_":  # a backend may leave some out
        q = after[1]
        assert not (got & ~want).any()
        assert_alike(q[got].abs(), expected[1][got].abs())
    elif name in NOT_FINITE:
        assert_alike(after, expected)
        assert_alike(*([x.where(x.isfinite(), torch.nan) for x in tensors(y)] for y in (got, want)))
    else:
        assert_alike((got, after), (want, expected))


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_and_reference(name, hostile_cases):
    for args in cases(name, hostile_cases):
        assert_same_call(name, args)
