"""The operator ``gradtx::coordinates``: a large matrix times a thin basis of one of its sides.

    coordinates(Tensor x, Tensor basis, bool left) -> Tensor
    coordinates_squares(Tensor x, Tensor basis, bool left) -> (Tensor, Tensor)

``basis^T x`` for the left side and ``x basis`` for the right one, contiguous. As in any matrix
product the order of the sums is the backend's. The second one, for float32, also gives in float64
the squared norms of the columns of x for the left side, of its rows for the right one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from gradtx.core.autocast import outside_autocast
from gradtx.core.watch import is_recorded
from gradtx.ops.registry import has_kernel, operator, require_together

__all__ = ["FEW", "coordinates", "coordinates_squares", "is_plain"]

_KINDS = (Tensor, Parameter)
FEW = 1 << 19  # up to so many multiplications torch's product is as fast


def _check(x: Tensor, basis: Tensor, left: bool) -> None:
    if x.ndim != 2 or basis.ndim != 2 or basis.shape[0] != x.shape[0 if left else 1]:
        side = "rows" if left else "columns"
        raise ValueError(
            f"coordinates: a matrix of shape {tuple(x.shape)} needs a basis of its {side}, "
            f"({side}, rank), got {tuple(basis.shape)}"
        )
    if x.dtype != basis.dtype:
        raise ValueError(f"coordinates: x has {x.dtype}, the basis {basis.dtype}")
    require_together("coordinates", x, basis)


def _product(x: Tensor, basis: Tensor, left: bool) -> Tensor:
    # (.., rank, columns) of x (.., rows, columns) and Q (.., rows, rank), or (.., rows, rank)
    return basis.mT @ x if left else x @ basis


def _fake(x: Tensor, basis: Tensor, left: bool) -> Tensor:
    _check(x, basis, left)
    rank = basis.shape[1]
    return x.new_empty((rank, x.shape[1]) if left else (x.shape[0], rank))


@operator("coordinates(Tensor x, Tensor basis, bool left) -> Tensor", fake=_fake)
def _coordinates(x: Tensor, basis: Tensor, left: bool) -> Tensor:
    """Multiply; see the module's text."""
    _check(x, basis, left)
    return _product(x, basis, left)


def _fake_squares(x: Tensor, basis: Tensor, left: bool) -> tuple[Tensor, Tensor]:
    squares = x.new_empty(x.shape[1 if left else 0], dtype=torch.float64)
    return _fake(x, basis, left), squares


@operator(
    "coordinates_squares(Tensor x, Tensor basis, bool left) -> (Tensor, Tensor)",
    fake=_fake_squares,
)
def coordinates_squares(x: Tensor, basis: Tensor, left: bool) -> tuple[Tensor, Tensor]:
    """Multiply and measure; see the module's text."""
    _check(x, basis, left)
    if x.dtype != torch.float32:
        raise ValueError(f"coordinates_squares: x must be float32, got {x.dtype}")
    return _product(x, basis, left).contiguous(), x.double().square().sum(0 if left else 1)


def is_plain(*xs: Tensor) -> bool:
    """Whether float32 kernels may take these: CPU tensors that nothing wraps or differentiates.

    >>> import torch
    >>> from gradtx.ops.coordinates import is_plain
    >>> is_plain(torch.ones(2)), is_plain(torch.ones(2), torch.ones(2, requires_grad=True))
    (True, False)
    """
    if is_recorded() or forward_ad._current_level >= 0:
        return False
    differentiated, wraps = torch.is_grad_enabled(), torch._C._functorch.is_functorch_wrapped_tensor
    for x in xs:  # a loop, as this is asked several times a leaf
        if x.dtype is not torch.float32 or type(x) not in _KINDS or not x.is_cpu:
            return False
        if (differentiated and x.requires_grad) or wraps(x):
            return False
    return True


def has_squares(x: Tensor) -> bool:
    """Whether a kernel measures matrices of this dtype and device while it multiplies."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu"
    return plain and has_kernel("coordinates_squares", "CPU")


@outside_autocast
def coordinates(x: Tensor, basis: Tensor, left: bool) -> Tensor:
    """``basis^T x`` if left, else ``x basis``; differentiable.

    Args:
        x: (rows, columns).
        basis: (rows, rank) if left, else (columns, rank), of the same dtype.
        left: which side of x the basis is one of.

    Raises:
        ValueError: another shape or dtype.

    >>> import torch, gradtx as gx
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> gx.ops.coordinates(x, torch.tensor([[1.0], [0.0]]), left=True)
    tensor([[1., 2.]])
    """
    _check(x, basis, left)
    if x.numel() * basis.shape[1] > FEW and is_plain(x, basis):
        return _coordinates(x, basis, left)
    return _product(x, basis, left)
