"""Hostile arguments of operators: some of a sample's are replaced by what nobody means."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradtx.ops import sparse_window_push_

from .rows import SAMPLES, values, whole
from .test_microadam import arguments as microadam_arguments
from .test_window_step import Leaves as WindowLeaves

INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 2**40, 2**61, 2**62, 2**63 - 1)
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.complex64),
)


def _spoiled(x: Tensor) -> Tensor:
    """Some entries are not finite, some zero."""
    if not x.is_floating_point() or not x.numel():
        return x
    flat = x.contiguous().reshape(-1).clone()
    for i, bad in enumerate((math.nan, math.inf, -math.inf, 0.0)):
        flat[(i * 7 + 1) % flat.numel() :: 13] = bad
    return flat.reshape(x.shape)


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "not finite": _spoiled,
    "infinite": lambda x: torch.full_like(x, math.inf) if x.is_floating_point() else x,
    "zero": torch.zeros_like,
    "largest": lambda x: torch.full_like(x, 127 if x.dtype != torch.bool else 1),
    "negative": lambda x: torch.full_like(x, -1) if x.is_signed() else x,
    "no row": lambda x: x[:0] if x.ndim else x.new_empty(0),
    "no column": lambda x: x[..., :0] if x.ndim else x.new_empty(0),
    "a row less": lambda x: x[1:] if x.ndim else x,
    "a column more": lambda x: torch.cat([x, x[..., :1]], -1) if x.ndim else x[None],
    "turned": lambda x: x.movedim(-1, 0) if x.ndim else x,
    "lies otherwise": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1) if x.ndim else x,
    "with gaps": lambda x: x.repeat_interleave(2, -1)[..., ::2] if x.ndim else x,
    "one number": lambda x: x.reshape(-1)[:1].sum().to(x.dtype).expand_as(x),
    "a dimension more": lambda x: x[None],
    "flat": lambda x: x.reshape(-1),
    "scalar": lambda x: x.reshape(-1)[0].clone() if x.numel() else x.new_zeros(()),
    "elsewhere": lambda x: x.to("meta"),
    **{str(dtype): lambda x, dtype=dtype: x.to(dtype) for dtype in DTYPES},
}


def hostile(value: Any, draw: random.Random) -> Any:
    """Something to replace an argument by."""
    if isinstance(value, Tensor):
        return draw.choice(list(TENSORS.values()))(value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice((*INTEGERS, max(value, INTEGERS[0] + 1) - 1, min(value, 2**62) + 1))
    if isinstance(value, float):
        return draw.choice(FLOATS)
    if isinstance(value, str):
        return draw.choice(("", "nonsense"))
    if isinstance(value, torch.dtype):
        return draw.choice(DTYPES)
    if isinstance(value, list):
        if not value or draw.random() < 0.2:
            return draw.choice(([], value[:-1], value + value[:1]))
        i = draw.randrange(len(value))
        return [*value[:i], hostile(value[i], draw), *value[i + 1 :]]
    return draw.choice((torch.ones(2, dtype=torch.int64), torch.ones(())))


def _copy(value: Any) -> Any:
    """A copy that lies as the original does."""
    if isinstance(value, list):
        return [_copy(v) for v in value]
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    whole = value.new_empty(0).set_(value.untyped_storage().clone())  # type: ignore[call-overload]
    return whole.as_strided(value.shape, value.stride(), value.storage_offset())


def copies(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_copy(value) for value in args)


def _ordered(args: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(args[a.name] for a in torch.ops.gradtx.microadam_.default._schema.arguments)


def _window_samples() -> dict[str, list[tuple[Any, ...]]]:
    leaves = WindowLeaves(torch.float32, torch.float32)
    for t in range(2):
        leaves.push(sparse_window_push_, t)
    grads = [values((n,), torch.float32, i) for i, n in enumerate(leaves.sizes)]
    rows = (leaves.errors, leaves.indices, leaves.values, leaves.written)
    push = (grads, *rows, torch.tensor(2, dtype=torch.int32), [1, -1, 1, 1], *leaves.geometry, True)
    weights = torch.linspace(-0.7, 1.3, 4 * 3, dtype=torch.float64).view(4, 3)
    hyper = torch.tensor([[0.1, 0.3, 0.9], [0.2, 0.0, 0.5]], dtype=torch.float64)
    state = (leaves.params, leaves.momenta, leaves.indices, leaves.values)
    step = (*state, weights, hyper, [0, 1, 0, 1], *leaves.geometry)
    return {"sparse_window_push_": [push], "sparse_window_step_": [step]}


def in_place_samples() -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of operators that overwrite some."""
    thin = (whole(9, 6), whole(9, 3), whole(3, 6))
    scale, addend = torch.tensor(2.0), whole(9, 6)
    weights = torch.tensor([9.0, 1.3, 0.1, 0.7, 1e-3, 2.0])
    after = (values((5, 12)), torch.complex(values((5, 7)), values((5, 7))), values((2, 7)))
    return {
        "add_product_": [
            (*thin, 0.5, 2.0, addend, scale),
            (*thin, 0.0, 1.0, None, None),
            (*thin, 1.0, -1.0, None, scale),
            (*(x.double() for x in thin), 0.5, 2.0, addend.double(), None),
            (*(x.bfloat16() for x in thin), 1.0, 1.0, None, None),
        ],
        "orthonormalize_": [(whole(2, 9 * 4).reshape(2, 9, 4), torch.ones(2, 9, 4))],
        "ldadam_moments_": [
            (whole(9, 6), whole(9, 3), whole(9, 3), whole(3, 6), whole(3, 6), weights, True)
        ],
        "dct_after_": [(*after, False), (after[0], values((5, 12)), after[2], True)],
        "microadam_": [
            _ordered(microadam_arguments((70, 9, 0), block=64)),
            _ordered(microadam_arguments((70, 1), block=64, nonfinite="skip")),
        ],
        **_window_samples(),
    }


def cases(name: str, how_many: int, seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """Sample arguments of an operator of which one to three are hostile.

    Args:
        name: the operator.
        how_many: cases.
        seed: of their choice.
    """
    draw = random.Random(f"{name} {seed}")
    samples = SAMPLES[name]() if name in SAMPLES else in_place_samples()[name]
    for _ in range(how_many):
        args = list(draw.choice(samples))
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            i = draw.randrange(len(args))
            args[i] = hostile(args[i], draw)
        yield tuple(args)
