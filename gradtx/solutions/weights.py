"""What weights look like: sizes, ranks, zeros, and what rounding them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..capacity import Format, absmax
from ..core import tree
from ..core.tree import PyTree, accumulator

INT4, INT8 = absmax("int4", 64), absmax("int8", 64)


def weight_norms(params: PyTree) -> dict[str, Tensor]:
    """The Euclidean norm of every leaf, by name.

    Args:
        params: a tree of tensors; None leaves are left out.

    >>> import torch, gradtx as gx
    >>> gx.solutions.weight_norms({"w": torch.tensor([3.0, 4.0])})
    {'w': tensor(5.)}
    """
    return _each(params, lambda w: torch.linalg.vector_norm(w))


def update_norms(params: PyTree, start: PyTree) -> dict[str, Tensor]:
    """How far training has moved every leaf: the norm of its difference, by name.

    Args:
        params: after training.
        start: before it, a tree of the same structure.

    Raises:
        TreeMismatchError: another structure.

    >>> import torch, gradtx as gx
    >>> gx.solutions.update_norms({"w": torch.ones(4)}, {"w": torch.zeros(4)})
    {'w': tensor(2.)}
    """
    return weight_norms(tree.map(lambda a, b: accumulator(a) - accumulator(b), params, start))


def spectra(params: PyTree) -> dict[str, Tensor]:
    """The singular values of every matrix, descending, by name.

    A leaf of shape (m, ...) with more dimensions is a matrix with m rows; vectors are left out.

    Args:
        params: a tree of tensors.

    >>> import torch, gradtx as gx
    >>> gx.solutions.spectra({"w": torch.diag(torch.tensor([1.0, 3.0])), "b": torch.ones(2)})
    {'w': tensor([3., 1.])}
    """
    return {name: torch.linalg.svdvals(w) for name, w in _matrices(params).items()}


def stable_ranks(params: PyTree) -> dict[str, Tensor]:
    """|W|^2 over its largest singular value squared, of every matrix, by name; 0 for zeros.

    Args:
        params: a tree of tensors, see ``spectra``.

    Source: Rudelson and Vershynin, 2007.

    >>> import torch, gradtx as gx
    >>> gx.solutions.stable_ranks({"w": torch.diag(torch.tensor([1.0, 2.0]))})
    {'w': tensor(1.2500)}
    """
    return {name: _stable_rank(s) for name, s in spectra(params).items()}


def effective_ranks(params: PyTree) -> dict[str, Tensor]:
    """Exp of the entropy of singular values over their sum, of every matrix, by name; 0 for zeros.

    Args:
        params: a tree of tensors, see ``spectra``.

    Source: Roy and Vetterli, 2007.

    >>> import torch, gradtx as gx
    >>> gx.solutions.effective_ranks({"w": torch.eye(3)})
    {'w': tensor(3.)}
    """
    return {name: _effective_rank(s) for name, s in spectra(params).items()}


def sparsity(params: PyTree, near: float = 0.0) -> dict[str, Tensor]:
    """The share of entries that are zero or near it, of every leaf, by name.

    Args:
        params: a tree of tensors.
        near: an entry counts if its magnitude is at most this times the leaf's root mean square,
            >= 0; 0 for exact zeros.

    Raises:
        ValueError: a negative bound.

    >>> import torch, gradtx as gx
    >>> w = {"w": torch.tensor([0.0, 0.01, 1.0, -1.0])}
    >>> gx.solutions.sparsity(w), gx.solutions.sparsity(w, near=0.1)
    ({'w': tensor(0.2500)}, {'w': tensor(0.5000)})
    """
    if not near >= 0:
        raise ValueError(f"sparsity: near must be >= 0, got {near}")

    def share(w: Tensor) -> Tensor:
        bound = near * w.square().mean().sqrt()
        return (w.abs() <= bound).to(torch.float32).mean()

    return _each(params, share)


def quantized(params: PyTree, format: Format = INT4) -> PyTree:
    """The tree with its matrices in another number format; vectors stay.

    A leaf that the format's blocks do not fill is filled up with zeros for it.

    Args:
        params: a tree of tensors.
        format: such as ``gx.capacity.absmax("int4", 64)``, the default.

    >>> import torch, gradtx as gx
    >>> gx.solutions.quantized({"w": torch.tensor([[7.0, 3.2]]), "b": torch.tensor([0.1])})
    {'w': tensor([[7., 3.]]), 'b': tensor([0.1000])}
    """
    return tree.map(lambda w: _rounded(w, format) if w.ndim > 1 else w, params)


def quantization_errors(params: PyTree, format: Format = INT4) -> dict[str, Tensor]:
    """|W - R(W)|^2 / |W|^2 of every matrix in a number format, by name; 0 for zeros.

    Args:
        params: a tree of tensors.
        format: see ``quantized``.

    >>> import torch, gradtx as gx
    >>> w = {"w": torch.tensor([[7.0, 3.5, 0.0, 0.0]])}
    >>> round(gx.solutions.quantization_errors(w)["w"].item(), 5)
    0.00408
    """

    def error(w: Tensor) -> Tensor:
        size = w.square().sum()
        lost = (w - _rounded(w, format)).square().sum()
        return lost / torch.where(size > 0, size, torch.ones_like(size))

    return {name: error(w) for name, w in _matrices(params).items()}


def _each(params: PyTree, measure: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A number for every leaf that is there and has elements, in at least float32."""
    leaves, spec = tree.flatten(params)
    return {
        name: measure(accumulator(leaf))
        for name, leaf in zip(tree.names(spec), leaves, strict=True)
        if isinstance(leaf, Tensor) and leaf.numel() and leaf.is_floating_point()
    }


def _matrices(params: PyTree) -> dict[str, Tensor]:
    """Leaves of two dimensions or more as matrices, in at least float32."""
    kept = tree.map(lambda w: w.flatten(1) if w.ndim > 1 else None, params)
    return _each(kept, lambda w: w)


def _stable_rank(s: Tensor) -> Tensor:
    top = s.max().square()
    return s.square().sum() / torch.where(top > 0, top, torch.ones_like(top))


def _effective_rank(s: Tensor) -> Tensor:
    total = s.sum()
    p = s / torch.where(total > 0, total, torch.ones_like(total))
    return torch.where(total > 0, torch.special.entr(p).sum().exp(), torch.zeros_like(total))


def _rounded(w: Tensor, format: Format) -> Tensor:
    block: Any = getattr(format, "block", 1)
    flat = F.pad(w.reshape(-1), (0, -w.numel() % block))
    return format(flat)[: w.numel()].reshape(w.shape)
