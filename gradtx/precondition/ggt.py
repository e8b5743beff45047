"""GGT: full-matrix adaptive steps from a window of the last gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..compressors import Compressor
from ..core.finite import require_finite
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import ANY_UPDATE, LeafInfo, densify_leaf, isfinite_leaf
from ..core.reduce import Reduce
from ..core.state import state_zeros
from ..core.transform import TreeTransform
from .diagonal_root import diagonal_root
from .window import ROW_DTYPES, GradientWindowState, WindowLeaf, gradient_window


class GGTLeaf(NamedTuple):
    """One leaf's state.

    Attributes:
        window: the leaf's part of the window.
        mean: running average of updates, () without one.
    """

    window: WindowLeaf
    mean: Tensor | tuple[()]


@dataclass(frozen=True)
class PreconditionGGT(TreeTransform):
    """Updates times the inverse root of a window's second moment; made by ``precondition_ggt``."""

    accepts: ClassVar[tuple[type, ...]] = ANY_UPDATE
    normalize: ClassVar[str] = "capacity"

    window: int = static(100, at_least=1, steps=True)
    b2: Hyper = dynamic(0.999, within="(0, 1]")
    eps: Hyper = dynamic(1e-4, within="(0, inf)")
    compressor: Compressor | None = static(None)
    dtype: torch.dtype | None = static(None, choices=ROW_DTYPES)
    gram_reg: float = static(1e-6, within="(0, inf)")
    decay_basis: bool = static(True)
    max_bytes: int | None = static(None, at_least=1)
    nonfinite: Literal["ignore", "raise"] = static("ignore")

    @property
    def name(self) -> str:
        return "precondition_ggt"

    @property
    def rows(self) -> gradient_window:
        """The window that is kept."""
        return gradient_window(self.window, self.compressor, self.dtype, max_bytes=self.max_bytes)

    def first_mean(self, p: Tensor) -> Tensor | tuple[()]:
        """The running average at first."""
        return ()

    def query(self, u: Any, mean: Any, h: Values) -> Any:
        """What is preconditioned besides the newest row: the next average, () if nothing is."""
        return ()

    def init_tree(self, ps: list[Tensor], infos: list[LeafInfo]) -> tuple[list[Any], Any]:
        self.rows.require_room(self.name, ps)
        state = self.rows.init(ps)
        kept = [GGTLeaf(w, self.first_mean(p)) for w, p in zip(state.leaves, ps, strict=True)]
        return kept, state._replace(leaves=())

    def update_tree(
        self,
        us: list[Any],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Any], list[Any], Any]:
        assert leaves is not None
        if self.nonfinite == "raise":
            finite = [isfinite_leaf(u) for u in us]
            advice = "Skip such steps with gx.apply_if_finite"
            require_finite(self.name, h.names, finite, advice)
        state = shared._replace(leaves=[leaf.window for leaf in leaves])
        state = self.rows.push(state, us, reduce)
        means = [self.query(u, leaf.mean, h) for u, leaf in zip(us, leaves, strict=True)]
        kept = [GGTLeaf(w, mean) for w, mean in zip(state.leaves, means, strict=True)]
        return self.step(us, means, state, h, reduce), kept, state._replace(leaves=())

    def step(
        self, us: list[Any], means: list[Any], state: GradientWindowState, h: Values, reduce: Reduce
    ) -> list[Any]:
        """What comes of the newest row; all sums are those of weights, in float64."""
        newest = self.rows.newest(state).double()
        decay, gram, eps = self._decayed(state, h)
        if self.decay_basis:  # the newest row is in the span of the basis
            weights = decay * _root_function(gram, newest, eps, 1.0, self.gram_reg / eps)
        else:
            inside = _root_function(gram, state.gram @ newest, eps, 0.0, -1 / eps)
            weights = inside + newest / eps
        return self.rows.combine(state, weights, us)

    def _decayed(self, state: GradientWindowState, h: Values) -> tuple[Tensor, Tensor, Tensor]:
        """Weights b2^age of the rows, their Gram matrix with them, and eps, in float64."""
        like = state.gram
        b2, eps = (torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in (h.b2, h.eps))
        decay = b2 ** self.rows.ages(state)
        eye = torch.eye(self.window, dtype=like.dtype, device=like.device)
        return decay, decay[:, None] * like * decay + self.gram_reg * eye, eps


@dataclass(frozen=True)
class _WithMomentum(PreconditionGGT):
    """With a running average as what is preconditioned."""

    b1: Hyper = dynamic(0.9, within="[0, 1)")

    def first_mean(self, p: Tensor) -> Tensor:
        return state_zeros(p)

    def query(self, u: Any, mean: Any, h: Values) -> Tensor:
        return (h.b1 * mean + (1 - h.b1) * densify_leaf(u)).to(mean.dtype)

    def step(
        self, us: list[Any], means: list[Any], state: GradientWindowState, h: Values, reduce: Reduce
    ) -> list[Any]:
        """The part in the span of the rows, and the rest, divided by eps."""
        decay, gram, eps = self._decayed(state, h)
        basis = decay if self.decay_basis else torch.ones_like(decay)
        dots = reduce.sum(self.rows.dots(state, means))
        weights = basis * _root_function(gram, basis * dots, eps, 0.0, -1 / eps)
        inside = self.rows.combine(state, weights, means)
        return [v + m / eps.to(m.device, m.dtype) for v, m in zip(inside, means, strict=True)]


def _root_function(gram: Tensor, b: Tensor, eps: Tensor, first: Any, second: Any) -> Tensor:
    """``first (S + eps)^-1 b + second (S (S + eps))^-1 b`` with S the root of the Gram matrix.

    Eigenvectors are constants for automatic differentiation, which goes through S in their basis.
    """
    finite = torch.isfinite(gram).all()
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    gram = torch.where(finite, gram, eye)
    basis = torch.linalg.eigh(gram.detach()).eigenvectors
    inside = basis.mT @ gram @ basis  # (m, m)
    s = inside.detach().diagonal().clamp(min=torch.finfo(gram.dtype).tiny).sqrt()
    root = diagonal_root(inside, s)
    # Second derivatives of torch.linalg.solve are wrong where the inner one is by forward mode.
    x = torch.linalg.inv(root + eps * eye) @ (basis.mT @ b)
    x = first * x + second * (torch.linalg.inv(root) @ x)
    return torch.where(finite, basis @ x, torch.nan)


def precondition_ggt(
    window: int = 100,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-4,
    compressor: Compressor | None = None,
    dtype: torch.dtype | None = None,
    gram_reg: float = 1e-6,
    decay_basis: bool = True,
    query: Literal["momentum", "newest"] = "momentum",
    max_bytes: int | None = None,
    nonfinite: Literal["ignore", "raise"] = "ignore",
) -> PreconditionGGT:
    """Multiply updates by (root of G G^T + eps)^-1, G the last ``window`` of them, decayed.

    All leaves are one vector. With G = U S V^T, rows of age a times b2^a, the update is
    U (S + eps)^-1 U^T v + (v - U U^T v) / eps for the running average v of updates, or for the
    newest one, where no digits are lost. The root is that of the window's inner products plus
    ``gram_reg``.

    Args:
        window: updates that are remembered, >= 1.
        b1: decay of the running average, in [0, 1).
        b2: decay of older updates in the window, in (0, 1].
        eps: added to the root, > 0; outside the window's span steps are 1 / eps times v.
        compressor: what makes the updates that arrive, None for dense ones.
        dtype: of the window, None for at least float32, or bfloat16.
        gram_reg: added to the diagonal of the inner products, > 0.
        decay_basis: False decays the inner products alone, as the first published code does; U is
            then not orthonormal.
        query: "momentum", or "newest" without a running average (and without ``b1``).
        max_bytes: what the window may take, >= 1; None for any amount.
        nonfinite: "raise" for an update that is not finite, which waits for the device, or
            "ignore" it: it spoils the running average for good.

    Raises:
        ValueError: a value outside its range; from ``init``, a window of more than ``max_bytes``;
            from ``update``, an update that is not finite.
        TypeError: no compressor.

    Source: arXiv 1806.02958, arXiv 2306.06098.

    >>> import torch, gradtx as gx
    >>> tx = gx.precondition_ggt(2, eps=1.0, query="newest")
    >>> tx.update({"w": torch.tensor([3.0, 0.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([0.7500, 0.0000])}
    """
    if query not in ("momentum", "newest"):
        raise ValueError(f"precondition_ggt: query must be 'momentum' or 'newest', got {query!r}")
    options = (window, b2, eps, compressor, dtype, gram_reg, decay_basis, max_bytes, nonfinite)
    return _WithMomentum(*options, b1) if query == "momentum" else PreconditionGGT(*options)
