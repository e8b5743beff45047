"""What the update of a leaf costs, counted on tensors without values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import ops  # noqa: F401  # defines the operators that are counted
from ..core.protocol import GradientTransformation, members

Shape = Sequence[int]
# Operations that stand for those of an element, whatever is done to it.
_PER_ELEMENT = 20


def cost_of(tx: GradientTransformation, name: str, shape: Shape, dtype: torch.dtype) -> int:
    """Multiplications of a leaf's update, those of matrices and a few an element.

    Newton-Schulz iterations of a matrix with the dimensions s <= l count ``steps s^2 (2 l + s)``,
    in whatever form they run. Nothing but shapes counts, so that all ranks find the same.

    Args:
        tx: its chain.
        name: of the leaf.
        shape: of the leaf.
        dtype: of the leaf.

    >>> import torch, gradtx as gx
    >>> from gradtx.optim.costs import cost_of
    >>> tx = gx.chain(gx.trace(0.9), gx.orthogonalize())
    >>> cost_of(tx, "w", (64, 16), torch.float32) - 20 * 64 * 16, 5 * 16**2 * (2 * 64 + 16)
    (184320, 184320)
    """
    counted = FlopCounterMode(display=False, custom_mapping=_formulas())
    leaf = {name: torch.empty(tuple(shape), dtype=dtype, device="meta")}
    needed = {n for _, m in members(tx) for n in getattr(m, "needs_extra", ())}
    extra = {"value": torch.empty((), dtype=torch.float32, device="meta")}
    try:
        with torch.no_grad():
            state = tx.init(leaf)
            with counted:
                tx.update(leaf, state, leaf, **{**extra, **dict.fromkeys(needed, leaf)})
    except Exception:  # a chain that needs values: what was counted before that
        pass
    return _PER_ELEMENT * math.prod(shape) + counted.get_total_flops() // 2


def _formulas() -> dict[Any, Callable[..., int]]:
    """Floating-point operations of what torch does not count, from shapes."""
    aten, own = torch.ops.aten, torch.ops.gradtx
    return {
        own.newton_schulz: _newton_schulz,
        own.symmetric_product: lambda x, y, *_, **__: _many(x) * x[-2] * x[-1] * y[-1],
        own.coupled_newton: lambda m, scale, p, steps, *_, **__: 6 * steps * _cube(m),
        own.denman_beavers: lambda k, steps, *_, **__: 6 * steps * _cube(k),
        aten._linalg_eigh: lambda a, *_, **__: 9 * _cube(a),
        aten._linalg_svd: lambda a, *_, **__: 14 * _thin(a),
        aten.linalg_qr: lambda a, *_, **__: 4 * _thin(a),
        aten.linalg_cholesky_ex: lambda a, *_, **__: _cube(a) // 3,
        aten.linalg_inv_ex: lambda a, *_, **__: 2 * _cube(a),
        aten.linalg_solve_triangular: lambda a, b, *_, **__: _many(b) * b[-1] * b[-2] * a[-1],
    }


def _newton_schulz(xs: Sequence[Shape], coefficients: Sequence[float], *_: Any, **__: Any) -> int:
    short, long = sorted(xs[0][-2:])
    steps = len(coefficients) // 3
    return 2 * sum(map(_many, xs)) * steps * short**2 * (2 * long + short)


def _many(shape: Shape) -> int:
    """How many matrices there are."""
    return math.prod(shape[:-2])


def _cube(shape: Shape) -> int:
    return _many(shape) * int(shape[-1]) ** 3


def _thin(shape: Shape) -> int:
    short, long = sorted(shape[-2:])
    return _many(shape) * long * short**2
