"""Every registered operator passes the same battery, through its kernel and its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import Library, opcheck

import gradtx_cuda
from gradtx.ops import OPS
from gradtx.ops.registry import has_kernel

from .rows import CASES, SAMPLES, as_tuple, assert_same_batched, assert_same_bits

_REFERENCES = Library("gradtx_reference", "FRAGMENT")
_REFERENCE_OPS = {name: op.define(_REFERENCES) for name, op in OPS.items()}

pytestmark = pytest.mark.parametrize(("name", "index"), CASES)


def overload(name: str) -> Callable[..., Any]:
    return getattr(torch.ops.gradtx, name).default


def bind_tensors(op: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, list[Tensor]]:
    """Return op as a function of its tensor arguments, and these."""
    lists = [arg if isinstance(arg, list) else [arg] for arg in args]
    tensors = [x for xs in lists for x in xs if isinstance(x, Tensor)]

    def call(*tensors: Tensor) -> Any:
        rest = iter(tensors)
        filled = [[next(rest) if isinstance(x, Tensor) else x for x in xs] for xs in lists]
        pairs = zip(filled, args, strict=True)
        return op(*(xs if isinstance(arg, list) else xs[0] for xs, arg in pairs))

    return call, tensors


@pytest.mark.parametrize("backend", ["dispatched", "reference"])
def test_opcheck(name, index, backend):
    op = overload(name) if backend == "dispatched" else _REFERENCE_OPS[name]
    opcheck(op, SAMPLES[name]()[index])


def test_kernel_matches_reference(name, index):
    if not has_kernel(name, "CPU"):
        pytest.skip(f"no CPU kernels: {gradtx_cuda.status().reason}")
    args = SAMPLES[name]()[index]
    assert_same_bits(overload(name)(*args), OPS[name].reference(*args))


def test_pure_and_deterministic(name, index):
    args, twin = SAMPLES[name]()[index], SAMPLES[name]()[index]
    first = overload(name)(*args)
    assert_same_bits(overload(name)(*args), first)
    for arg, untouched in zip(args, twin, strict=True):
        if isinstance(arg, Tensor):
            assert torch.equal(arg, untouched)


@pytest.mark.parametrize("dim", [0, -1])
def test_vmap(name, index, dim):
    call, tensors = bind_tensors(overload(name), SAMPLES[name]()[index])
    examples = [tensors, [t.flip(0) if t.ndim else -t for t in tensors], tensors]
    batched = [torch.stack(column, dim) for column in zip(*examples, strict=True)]
    expected = [as_tuple(call(*example)) for example in examples]
    stacked = tuple(torch.stack(column) for column in zip(*expected, strict=True))
    assert_same_batched(name, torch.vmap(call, in_dims=dim)(*batched), stacked)


def test_vmap_over_one_argument(name, index):
    call, tensors = bind_tensors(overload(name), SAMPLES[name]()[index])
    for place in range(len(tensors)):
        in_dims = tuple(0 if i == place else None for i in range(len(tensors)))
        batched = [torch.stack([t, t]) if i == place else t for i, t in enumerate(tensors)]
        one = as_tuple(call(*tensors))
        want = tuple(torch.stack([t, t]) for t in one)
        assert_same_batched(name, torch.vmap(call, in_dims=in_dims)(*batched), want)


def test_compile(name, index):
    if index > 1:
        pytest.skip("two samples an operator are compiled")
    call, tensors = bind_tensors(overload(name), SAMPLES[name]()[index])
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*tensors), call(*tensors))


def test_outputs_are_constants(name, index):
    call, tensors = bind_tensors(overload(name), SAMPLES[name]()[index])
    wanted = [t.requires_grad_() if t.is_floating_point() else t for t in tensors]
    assert not any(out.requires_grad for out in as_tuple(call(*wanted)))
