"""The operator ``gradtx::column_adam``: Adam on chosen columns, or rows, of one matrix.

    column_adam(Tensor x, Tensor mu, Tensor nu, Tensor old, Tensor now, Tensor count, float b1,
                float b2, float eps, int dim, bool transfer) -> (Tensor out, Tensor mu, Tensor nu)

The moments of what indices ``old`` were chosen move to the places of the same indices in ``now``,
those of others start at zero; then ``mu <- b1 mu + (1 - b1) x``, ``nu <- b2 nu + (1 - b2) x^2`` and
``out = (mu / (1 - b1^count)) / (sqrt(nu / (1 - b2^count)) + eps)``. All in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.core.hyper import one_minus_power
from gradtx.core.roots import divide_by_root
from gradtx.ops.registry import operator, require_together

__all__ = ["column_adam", "moments", "move_columns"]


def move_columns(x: Tensor, old: Tensor, new: Tensor, dim: int = 1) -> Tensor:
    """Columns that belong to indices ``old`` at the places of the same indices in ``new``.

    Those of other indices are zero. Both are ascending.

    >>> import torch
    >>> from gradtx.ops.column_adam import move_columns
    >>> x = torch.tensor([[1.0, 2.0, 3.0]])
    >>> move_columns(x, torch.tensor([0, 4, 7]), torch.tensor([1, 4, 5]))
    tensor([[0., 2., 0.]])
    """
    return _moved(x, *_places(old, new), dim)


def _places(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of the ``new`` indices is among the ``old`` ones, and whether it is not."""
    there, source = (new[:, None] == old).to(torch.int32).max(1)
    return source, there == 0


def _moved(x: Tensor, source: Tensor, gone: Tensor, dim: int) -> Tensor:
    moved = x.index_select(dim, source)
    return moved.masked_fill(gone if dim == 1 else gone[:, None], 0.0)


def moments(
    x: Tensor,
    mu: Tensor,
    nu: Tensor,
    old: Tensor,
    now: Tensor,
    count: Tensor,
    b1: float | Tensor,
    b2: float | Tensor,
    eps: float | Tensor,
    dim: int,
    transfer: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The update and both moments, see the module's text; decays and eps may be 0-d tensors."""
    if transfer and now.numel():
        places = _places(old, now)
        mu, nu = _moved(mu, *places, dim), _moved(nu, *places, dim)
    mu, nu = b1 * mu + (1 - b1) * x, b2 * nu + (1 - b2) * (x * x)
    mean, square = (m / one_minus_power(b, count, x.dtype) for m, b in ((mu, b1), (nu, b2)))
    return divide_by_root(mean, square, eps), mu, nu


def _check(
    x: Tensor,
    mu: Tensor,
    nu: Tensor,
    old: Tensor,
    now: Tensor,
    count: Tensor,
    b1: float,
    b2: float,
    eps: float,
    dim: int,
) -> None:
    if x.ndim != 2 or mu.shape != x.shape or nu.shape != x.shape:
        raise ValueError(
            "column_adam: x and both moments must be matrices of one shape, got "
            f"{tuple(x.shape)}, {tuple(mu.shape)} and {tuple(nu.shape)}"
        )
    if dim not in (0, 1):
        raise ValueError(f"column_adam: dim must be 0 or 1, got {dim}")
    k = x.shape[dim]
    for name, z, shape, dtypes in (
        *((n, z, x.shape, (torch.float32,)) for n, z in (("x", x), ("mu", mu), ("nu", nu))),
        *((n, z, (k,), (torch.int32, torch.int64)) for n, z in (("old", old), ("now", now))),
        ("count", count, (), (torch.int32,)),
    ):
        if z.shape != torch.Size(shape) or z.dtype not in dtypes:
            raise ValueError(
                f"column_adam: {name} must have shape {tuple(shape)} and be one of {dtypes}, got "
                f"{tuple(z.shape)} and {z.dtype}"
            )
    if not (0 <= b1 < 1 and 0 <= b2 < 1 and eps >= 0):
        raise ValueError(f"column_adam: needs decays in [0, 1) and eps >= 0, got {b1}, {b2}, {eps}")
    require_together("column_adam", x, mu, nu, old, now, count)


def _fake(x: Tensor, mu: Tensor, nu: Tensor, *args: object) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, mu, nu, *args[:-1])  # type: ignore[arg-type]
    return x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty(x.shape)


@operator(
    "column_adam(Tensor x, Tensor mu, Tensor nu, Tensor old, Tensor now, Tensor count, float b1, "
    "float b2, float eps, int dim, bool transfer) -> (Tensor out, Tensor mu, Tensor nu)",
    fake=_fake,
)
def column_adam(
    x: Tensor,
    mu: Tensor,
    nu: Tensor,
    old: Tensor,
    now: Tensor,
    count: Tensor,
    b1: float,
    b2: float,
    eps: float,
    dim: int,
    transfer: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``moments`` of one matrix."""
    _check(x, mu, nu, old, now, count, b1, b2, eps, dim)
    out = moments(x, mu, nu, old, now, count, b1, b2, eps, dim, transfer)
    return out[0].contiguous(), out[1].contiguous(), out[2].contiguous()
