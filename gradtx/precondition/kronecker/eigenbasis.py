"""When and how the eigenvectors of Kronecker factors are found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core import decompositions
from ...core.checks import can_read
from ...core.constants import constant
from ...core.fields import static
from ...ops.symmetric_product import symmetric_product
from .orthogonal_iteration import Rotation, iterated, picked, qr
from .policy import Policy


class Turned(NamedTuple):
    """A basis that has been refreshed.

    Attributes:
        factor: (n, d, d), in coordinates of the new basis.
        basis: (n, d, d), the new one.
        rotation: (n, d, d), q = Q_old^T Q_new.
        order: (n, d), which old column each new one continues, or ().
    """

    factor: Tensor
    basis: Tensor
    rotation: Tensor | Rotation
    order: Tensor | tuple[()]


@dataclass(frozen=True, repr=False)
class eigenbasis(Policy):
    """Bases in which Kronecker factors are nearly diagonal, and when they are chosen anew.

    The factors F are kept in coordinates of their basis, where they are nearly diagonal, so that a
    refresh is a decomposition of F, and the sides' second moments are its diagonal.

    Args:
        init: the first basis: "eigh" of the first factor, eigenvalues descending, or "identity".
        refresh: "qr" orthonormalises F's columns; "qr_sorted" then sorts them by the new diagonal,
            descending; "power_qr_sorted" sorts before, and second moments move along;
            "eigh" is exact, ascending; "qr_algorithm" takes steps F = q r -> r q and sorts the
            result ascending.
        every: updates from one refresh to the next, >= 1.
        when: "after" the update, which then is made in a basis that has not seen its gradient, or
            "before" it.
        start: with "before", the first update at which there is a refresh; None for ``every``.
        staggered: give every leaf a phase of its own, which spreads the cost.
        ridge: added to the diagonal for "qr_algorithm", and for what "eigh" is left out by, >= 0.
        iterations: steps of "qr_algorithm" at most, >= 1.
        tolerance: share of the norm off the diagonal at which they end, and at which "eigh" keeps
            the basis if it is > 0, >= 0.
        trace_scaling: divide factors by this power of their traces, in (0, 1], before the ridge is
            added; None for none.

    Raises:
        ValueError: a value that is not among these.

    Source: arXiv 2409.11321.

    >>> import gradtx as gx
    >>> gx.eigenbasis(every=10)
    eigenbasis()
    """

    init: Literal["eigh", "identity"] = "eigh"
    refresh: Literal["qr", "qr_sorted", "power_qr_sorted", "eigh", "qr_algorithm"] = (
        "power_qr_sorted"
    )
    every: int = static(10, at_least=1, steps=True)
    when: Literal["after", "before"] = "after"
    start: int | None = static(None, at_least=1, steps=True)
    staggered: bool = False
    ridge: float = static(0.0, within="[0, inf)")
    iterations: int = static(1, at_least=1)
    tolerance: float = static(0.0, within="[0, inf]")
    trace_scaling: float | None = static(None, within="(0, 1]")

    @property
    def first_refresh(self) -> int:
        """The first update with a refresh, of those "before" updates."""
        return self.start or self.every

    def phase(self, name: str, like: Tensor) -> Tensor | tuple[()]:
        """A leaf's phase, or () where all have the same."""
        return phase_of(name, self.every, like) if self.staggered else ()

    def first(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The first bases (n, d, d) of factors, in whose coordinates these then are."""
        return self._decomposed(factor, "eigh_descending")

    def turned(self, factor: Tensor, basis: Tensor, how: str) -> Turned:
        """The next of bases (n, d, d) with factors (n, d, d); ``how`` is a name of ``refresh``."""
        if how == "power_qr_sorted":
            diagonal = factor.diagonal(dim1=-2, dim2=-1)  # (n, d)
            order = torch.argsort(diagonal, dim=-1, descending=True, stable=True)
            return Turned(*iterated(factor, basis, order), order)
        if how == "qr":
            return Turned(*iterated(factor, basis), ())
        new, q = self._decomposed(factor, how)
        return Turned(new, torch.bmm(basis, q), q, ())

    def _decomposed(self, factor: Tensor, how: str) -> tuple[Tensor, Tensor]:
        """q^T F q and q."""
        if how == "qr_algorithm":
            return self._by_qr_algorithm(factor)
        if how == "qr_sorted":
            q, r = qr(factor)
            new = symmetric_product(r, q)
            order = torch.argsort(new.diagonal(dim1=-2, dim2=-1), descending=True, stable=True)
            return _columns(_columns(new, order).mT, order), _columns(q, order)
        values, q = eigh(factor)  # (n, d), (n, d, d)
        if how == "eigh_descending":
            values, q = values.flip(-1), q.flip(-1)
        new = torch.diag_embed(values.clamp(min=0.0))
        if how == "eigh_descending" or not self.tolerance:
            return new, q
        more = self._is_far(factor.detach() + self._ridges(factor))
        return torch.where(more, new, factor), torch.where(more, q, _eye(factor))

    def _by_qr_algorithm(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        ridges = self._ridges(factor)
        turned, rotation = factor.detach() + ridges, _eye(factor).expand_as(factor)
        for _ in range(self.iterations):
            q, r = qr(turned)  # (n, d, d) each
            new, more = (symmetrized(r @ q), rotation @ q), self._is_far(turned)
            turned, rotation = (
                torch.where(more, a, b) for a, b in zip(new, (turned, rotation), strict=True)
            )
        order = torch.argsort(turned.diagonal(dim1=-2, dim2=-1), dim=-1, stable=True)
        turned = _columns(_columns(turned - ridges, order).mT, order)
        return turned, _columns(rotation, order)

    def _is_far(self, x: Tensor) -> Tensor:
        """Whether matrices (n, d, d) are further from diagonal than is tolerated, (n, 1, 1)."""
        square = x.square().sum((-2, -1), keepdim=True)
        off = square - x.diagonal(dim1=-2, dim2=-1).square().sum(-1)[:, None, None]
        return off.clamp(min=0.0).sqrt() > self.tolerance * square.sqrt()

    def _ridges(self, factor: Tensor) -> Tensor:
        """The ridge, times the power of the trace by which a factor is not divided: (.., d, d)."""
        if self.trace_scaling is None:
            return self.ridge * _eye(factor)
        trace = factor.detach().diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=self.ridge)
        return self.ridge * trace[:, None, None] ** self.trace_scaling * _eye(factor)


def due(k: Tensor, every: int, phase: Tensor | tuple[()], start: int | None = None) -> Tensor:
    """Whether there is a refresh at update k, counted from 1.

    Every so many updates, at the leaf's own phase; with ``start`` first there and only after it.
    """
    regular = k % every == (phase if isinstance(phase, Tensor) else 0)
    return regular & (k > 0) if start is None else (k == start) | (regular & (k > start))


def phase_of(name: str, every: int, like: Tensor) -> Tensor:
    """A phase that follows from a leaf's name, int32."""
    return torch.full((), _hash(name) % every, dtype=torch.int32, device=like.device)


@constant
def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")


def eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ascending, and eigenvectors, of symmetric (n, d, d); NaN where one is not finite.

    A constant for derivatives, which are not finite for equal eigenvalues.
    """
    x = x.detach()
    finite = torch.isfinite(x).all((-2, -1))[..., None, None]
    safe = torch.where(finite, x, 0.0)
    try:
        values, vectors = decompositions.eigh(safe)
    except torch.linalg.LinAlgError:
        if not can_read(safe):
            raise
        values, vectors = (y.to(x.dtype) for y in decompositions.eigh(safe.double()))
    return torch.where(finite[..., 0], values, torch.nan), torch.where(finite, vectors, torch.nan)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)


def symmetrized(x: Tensor) -> Tensor:
    """The symmetric part."""
    return 0.5 * (x + x.mT)


def _columns(x: Tensor, order: Tensor) -> Tensor:
    """The columns of (n, d, d) in another order, one a matrix."""
    return picked(x.mT, order, 1).mT
