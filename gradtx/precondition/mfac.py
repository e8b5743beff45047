"""M-FAC: the inverse of the Fisher matrix of the last gradients, never formed."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..compressors import Compressor, low_rank
from ..core import tree
from ..core.checks import can_read
from ..core.declared import ScheduledState
from ..core.fields import is_readable
from ..core.finite import not_finite
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import ANY_UPDATE, LeafInfo, isfinite_leaf
from ..core.reduce import Reduce
from ..core.transform import TreeTransform
from ..core.tree import PyTree
from .window import ROW_DTYPES, GradientWindowState, gradient_window

logger = logging.getLogger("gradtx")


@dataclass(frozen=True)
class PreconditionMFAC(TreeTransform):
    """Updates times the inverse Fisher matrix; made by ``precondition_mfac``."""

    accepts: ClassVar[tuple[type, ...]] = ANY_UPDATE

    window: int = static(1024, at_least=1, steps=True)
    damping: Hyper = dynamic(1e-5, within="(0, inf)")
    compressor: Compressor | None = static(None)
    dtype: torch.dtype | None = static(None, choices=ROW_DTYPES)
    normalize: Literal["capacity", "count"] = static("capacity")
    query: Literal["newest", "gradient", "decayed"] = static("newest")
    fisher: Literal["model", "leaf"] = static("model")
    nonfinite: Literal["ignore", "raise"] = static("ignore")
    max_bytes: int | None = static(None, at_least=1)

    @property
    def name(self) -> str:
        return "precondition_mfac"

    @property
    def needs_grad(self) -> bool:  # type: ignore[override]
        return self.query == "gradient"

    @property
    def rows(self) -> gradient_window:
        """The window that is kept."""
        options = (self.window, self.compressor, self.dtype, self.normalize)
        return gradient_window(*options, self.max_bytes)

    def init_tree(self, ps: list[Tensor], infos: list[LeafInfo]) -> tuple[list[Any], Any]:
        self.rows.require_room(self.name, ps)
        if isinstance(self.compressor, low_rank):
            for info in infos:
                _warn_of_rank(self.name, info.name, tuple(info.shape), self.compressor.rank)
        if self.fisher == "leaf":
            return [self.rows.init([p]) for p in ps], ()
        state = self.rows.init(ps)
        return state.leaves, state._replace(leaves=())

    def gradients(self, state: Any, params: PyTree) -> PyTree:
        """The updates that the window holds, (rows, *shape) a leaf; see ``gradient_window``.

        A pruning event takes them at no further backward pass:
        ``gx.sparsity.obs_prune(0.5)(params, masks, tx.gradients(state, params))``.

        Args:
            state: of this transform.
            params: tree of tensors, as ``init`` got it.
        """
        state = state.state if isinstance(state, ScheduledState) else state
        leaves, spec = tree.flatten(params)
        kept = tree.flatten_like(self.name, spec, state.leaves, "state")
        if self.fisher == "model":
            window = state.shared._replace(leaves=kept)
            return spec.unflatten(self.rows.gradients(window, leaves))
        pairs = zip(leaves, kept, strict=True)
        each = [None if p is None else self.rows.gradients(s, [p])[0] for p, s in pairs]
        return spec.unflatten(each)

    def update_tree(
        self,
        us: list[Any],
        leaves: list[Any] | None,
        shared: Any,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Any], list[Any], Any]:
        check_damping(self.name, h.damping)
        assert leaves is not None
        if self.fisher == "model":
            state = shared._replace(leaves=leaves)
            out, state = self.step(us, state, self.queries(us, ps, h), h, reduce)
            return out, state.leaves, state._replace(leaves=())
        queries = self.queries(us, ps, h) or [None] * len(us)
        outs, states = [], []
        for u, state, query, name in zip(us, leaves, queries, h.names, strict=True):
            asked = None if query is None else [query]
            here = Values({**vars(h), "names": [name]})
            out, state = self.step([u], state, asked, here, reduce)
            outs.append(out[0])
            states.append(state)
        return outs, states, shared

    def queries(self, us: list[Any], ps: list[Any], h: Values) -> list[Any] | None:
        """What F^-1 is applied to by its general formula, None if to the newest row alone."""
        return h.grads if self.query == "gradient" else None

    def step(
        self,
        us: list[Any],
        state: GradientWindowState,
        queries: list[Any] | None,
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Any], GradientWindowState]:
        """Push updates, and multiply."""
        rows = self.rows
        state = rows.push(state, us, reduce)
        if queries is None:
            weights = rows.newest_weights(state, h.damping)
        else:
            weights = rows.inverse_weights(state, queries, h.damping, reduce)
        weights = self._checked(weights, state, us, h.names)
        if queries is None:
            return rows.combine(state, weights, us), state
        return rows.inverse_vector_product(state, queries, h.damping, reduce, weights), state

    def _checked(
        self, weights: Tensor, state: GradientWindowState, us: list[Any], names: list[str]
    ) -> Tensor:
        """Weights of the rows, zeros where rows are finite and their matrix has no factor.

        Raises:
            ValueError: the newest row is not finite, as its square, which is there, says; or there
                are no weights.
        """
        squares = state.gram.diagonal()
        square = torch.where(self.rows.newest(state), squares, 0).sum()
        if self.nonfinite == "raise" and can_read(square):
            total = weights.sum() if can_read(weights) else torch.zeros_like(square)
            there = torch.where(square.isfinite(), total.isfinite(), 2).detach().item()
            if there == 2:
                finite = [bool(isfinite_leaf(u)) for u in us]
                raise self.not_finite(names[finite.index(False)])
            if not there:
                raise self.no_factor("nothing has been changed")
        return self.without_factor(weights, squares)

    def without_factor(self, weights: Tensor, squares: Tensor) -> Tensor:
        """Zeros for weights that are not finite while the squares of all rows are."""
        none = torch.isfinite(squares.sum()) & ~torch.isfinite(weights.sum())
        return torch.where(none, 0.0, weights)

    def no_factor(self, changed: str) -> ValueError:
        """The error where the Gram matrix has no Cholesky factor."""
        return ValueError(
            f"{self.name}: the inner products of the last gradients plus window times damping have "
            "no Cholesky factor: gradients are about 3e7 sqrt(window damping) or more and repeat "
            f"themselves; {changed}. Take more damping, or clip gradients"
        )

    def not_finite(self, name: str) -> ValueError:
        """The error for a leaf whose update is not finite."""
        return not_finite(self.name, name, "Skip such steps with gx.apply_if_finite")


@dataclass(frozen=True)
class _Decayed(PreconditionMFAC):
    """With weight decay in the query alone."""

    requires_params: ClassVar[bool] = True

    weight_decay: Hyper = dynamic(0.0, within="[0, inf)")

    def queries(self, us: list[Any], ps: list[Any], h: Values) -> list[Any]:
        return [h.weight_decay * p for p in ps]

    def step(
        self, us: list[Any], state: GradientWindowState, queries: Any, h: Values, reduce: Reduce
    ) -> tuple[list[Any], GradientWindowState]:
        """Both terms by themselves: only the decay's loses digits."""
        own, state = super().step(us, state, None, h, reduce)
        weights = self.rows.inverse_weights(state, queries, h.damping, reduce)
        weights = self.without_factor(weights, state.gram.diagonal())
        rows = self.rows
        decay = rows.inverse_vector_product(state, queries, h.damping, reduce, weights)
        return [a + b for a, b in zip(own, decay, strict=True)], state


def precondition_mfac(
    window: int = 1024,
    damping: Hyper = 1e-5,
    compressor: Compressor | None = None,
    dtype: torch.dtype | None = None,
    normalize: Literal["capacity", "count"] = "capacity",
    query: Literal["newest", "gradient", "decayed"] = "newest",
    weight_decay: Hyper = 0.0,
    fisher: Literal["model", "leaf"] = "model",
    nonfinite: Literal["ignore", "raise"] = "ignore",
    max_bytes: int | None = None,
) -> PreconditionMFAC:
    """Multiply updates by the inverse Fisher matrix of the last ``window`` of them.

    With g_i the last updates, all leaves one vector, F = damping I + (1/window) sum_i g_i g_i^T;
    the update is F^-1 g for the newest g. It is computed as window G^T (G G^T + window damping
    I)^-1 e, which loses no digits, with inner products and factor in float64. No matrix of all
    parameters is formed; the window takes ``window`` numbers a parameter, or what a compressor
    keeps of them. Behind ``gx.error_feedback`` with the same compressor this is sparse or low-rank
    M-FAC. A leaf without a gradient counts as zero in that row.

    Args:
        window: gradients that are remembered, >= 1.
        damping: > 0; the first steps are about 1 / damping times the gradient.
        compressor: what makes the updates that arrive, None for dense ones.
        dtype: of the rows, None for at least float32, or bfloat16.
        normalize: what the sum is divided by, "capacity" or the "count" of gradients so far.
        query: what F^-1 is applied to. "newest": the update that was pushed. "gradient": the
            gradient that entered the chain. "decayed": the update plus weight_decay times the
            parameter. What is not the newest row loses digits where damping is small.
        weight_decay: of the "decayed" query, >= 0.
        fisher: one Fisher matrix of the whole "model", or one of every "leaf".
        nonfinite: "raise" for an update that is not finite, and where gradients are so large that
            the matrix of their inner products cannot be factored, which waits for the device; or
            "ignore": the former spoils ``window`` steps, the latter gives a step of zero.
        max_bytes: what the window may take, >= 1; None for any amount.

    Raises:
        ValueError: a value outside its range; from ``init``, a window of more than ``max_bytes``
            (says how many, and how many rows there is room for); from ``update``, damping that has
            fallen to zero, an update that is not finite, or inner products that have no Cholesky
            factor.
        TypeError: no compressor.

    Source: arXiv 2107.03356, arXiv 2306.06098.

    >>> import torch, gradtx as gx
    >>> tx = gx.precondition_mfac(window=2, damping=1.0)
    >>> tx.update({"w": torch.tensor([2.0, 0.0])}, tx.init({"w": torch.zeros(2)}))[0]
    {'w': tensor([0.6667, 0.0000])}
    """
    options = (window, damping, compressor, dtype, normalize, query, fisher, nonfinite, max_bytes)
    return _Decayed(*options, weight_decay) if query == "decayed" else PreconditionMFAC(*options)


@cache
def _warn_of_rank(who: str, name: str, shape: tuple[int, ...], rank: int) -> None:
    """Say in the log, once, that a matrix has no such rank."""
    if len(shape) > 1 and 0 < (most := min(shape[0], math.prod(shape[1:]))) < rank:
        logger.warning(
            "%s: leaf %r of shape %s is kept at rank %d, not %d", who, name, shape, most, rank
        )


def check_damping(who: str, damping: Any) -> None:
    """Raise where damping has fallen to zero, as a schedule may let it.

    Raises:
        ValueError: it has, or it is not finite.
    """
    if isinstance(damping, Tensor) and is_readable(damping):
        damping = float(damping.detach())
    if isinstance(damping, (int, float)) and not 0 < damping < float("inf"):
        raise ValueError(f"{who}: damping must be in (0, inf), got {damping}; F has no inverse")
