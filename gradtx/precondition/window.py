"""A window of the last updates: pushed, multiplied and combined, and the Fisher matrix they give.

M-FAC, GGT and pruning differ only in the weights with which the rows of a window are combined, and
those weights follow from the rows' inner products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..compressors import Compressor
from ..core import tree, woodbury
from ..core.declared import short_repr
from ..core.errors import TreeMismatchError
from ..core.fields import static
from ..core.leaves import densify_leaf
from ..core.plain import Plain
from ..core.reduce import LOCAL, Reduce
from ..core.state import advance, new_count
from ..core.tree import PyTree
from .window_rows import Layout, Rows, layout_of, rounded, row_dtype

ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float64, None)
_PIECE = 1 << 22  # elements of rows that are there in float64 at once


class WindowLeaf(NamedTuple):
    """One leaf's part of the rows.

    Attributes:
        rows: ``DenseRows``, ``SparseRows`` or ``LowRankRows``.
        written: int32 (size,), the push that wrote each row here. A leaf without an update is not
            written; what then stands in its row counts for nothing.
    """

    rows: Rows
    written: Tensor


class GradientWindowState(NamedTuple):
    """State of a ``gradient_window``.

    Attributes:
        leaves: a ``WindowLeaf`` per leaf.
        gram: float64 (size, size), inner products of the rows over all leaves.
        step: int32, pushes done so far; push t is in row (t - 1) mod size.
    """

    leaves: PyTree
    gram: Tensor
    step: Tensor


@dataclass(frozen=True, repr=False)
class gradient_window(Plain):
    """The last ``size`` vectors, and the Fisher matrix F = damping I + (1/size) sum g_i g_i^T.

    All leaves of a tree are one vector. Functions are pure; they take and give trees and states.
    Products with F^-1 need the rows' inner products, kept in float64, and a Cholesky factor of
    size x size, never a matrix of all parameters. For blocks of a vector, each with a Fisher
    matrix of its own, map over them with ``torch.func.vmap``.

    Args:
        size: rows, >= 1.
        compressor: what makes the updates that are pushed; ``top_k`` and the like are kept as
            entries, ``low_rank`` as factors. None: dense.
        dtype: of the rows; None is at least float32.
        normalize: what the sum is divided by: the "capacity", ``size``, or the "count" of vectors
            that are there.
        max_bytes: what rows and inner products may take, >= 1; None for any amount.

    Raises:
        ValueError: a value outside its range; from ``init``, more than ``max_bytes`` are needed,
            with how many, and how many rows there is room for.
        TypeError: no compressor.

    Source: arXiv 2107.03356, arXiv 2306.06098.

    >>> import torch, gradtx as gx
    >>> window = gx.gradient_window(2)
    >>> state = window.init({"w": torch.zeros(2)})
    >>> state = window.push(state, {"w": torch.tensor([2.0, 0.0])})
    >>> window.inverse_vector_product(state, {"w": torch.tensor([6.0, 1.0])}, damping=1.0)
    {'w': tensor([2., 1.])}
    >>> window.inverse_diagonal(state, 1.0, like={"w": torch.zeros(2)})
    {'w': tensor([0.3333, 1.0000])}
    """

    size: int = static(at_least=1)
    compressor: Compressor | None = None
    dtype: torch.dtype | None = static(None, choices=ROW_DTYPES)
    normalize: Literal["capacity", "count"] = "capacity"
    max_bytes: int | None = static(None, at_least=1)

    def __repr__(self) -> str:
        return short_repr("gradient_window", self)

    # -- the window itself ---------------------------------------------------------------------

    def init_leaf(self, p: Tensor) -> WindowLeaf:
        """One leaf's part of an empty window."""
        rows = self._layout(p).zeros(p, self.size, row_dtype(p, self.dtype))
        return WindowLeaf(rows, p.new_full((self.size,), -1, dtype=torch.int32))

    def nbytes(self, leaves: list[Any]) -> int:
        """Bytes of a window for some leaves: rows, when they were written, inner products."""
        return self.size * self._row_bytes(leaves) + 8 * self.size**2

    def require_room(self, who: str, leaves: list[Any]) -> None:
        """Raise unless a window for some leaves takes at most ``max_bytes``.

        Raises:
            ValueError: it takes more; says how many, and how many rows there is room for.
        """
        if self.max_bytes is None or (wanted := self.nbytes(leaves)) <= self.max_bytes:
            return
        row = self._row_bytes(leaves)  # size rows take row size + 8 size^2
        room = (math.isqrt(row**2 + 32 * self.max_bytes) - row) // 16
        raise ValueError(
            f"{who}: {self.size} rows take {wanted} bytes, max_bytes is {self.max_bytes}: "
            + (f"there is room for {room}" if room else "there is no room for one")
        )

    def _row_bytes(self, leaves: list[Any]) -> int:
        total = 0
        for p in leaves:
            if p is not None:
                like = torch.empty(p.shape, dtype=p.dtype, device="meta")
                row = self._layout(like).zeros(like, 1, row_dtype(like, self.dtype))
                total += sum(x.nbytes for x in row) + 4
        return total

    def init_shared(self, leaves: list[Any]) -> tuple[Tensor, Tensor]:
        """Gram matrix and step of an empty window."""
        step = new_count(leaves)
        return step.new_zeros((self.size, self.size), dtype=torch.float64), step

    def init(self, params: PyTree) -> GradientWindowState:
        """An empty window for vectors like ``params``."""
        leaves, spec = tree.flatten(params)
        self.require_room("gradient_window", leaves)
        kept = [() if p is None else self.init_leaf(p) for p in leaves]
        return GradientWindowState(spec.unflatten(kept), *self.init_shared(leaves))

    def push(
        self, state: GradientWindowState, updates: PyTree, reduce: Reduce = LOCAL
    ) -> GradientWindowState:
        """The window with ``updates`` in place of its oldest vector; None leaves count as zero.

        Raises:
            TreeMismatchError: they are not what the window keeps.
        """
        us, spec = tree.flatten(updates)
        kept = tree.flatten_like("gradient_window", spec, state.leaves, "state")
        here = self._slots(state) == state.step % self.size
        new = [
            old if u is None else self._written(old, here, u, state.step)
            for u, old in zip(us, kept, strict=True)
        ]
        moved = state._replace(
            leaves=spec.unflatten(new), step=advance(state.step, period=self.size)
        )
        # As the rows hold it, so that the gram is theirs.
        stored = [
            None if u is None else rounded(u, self._layout(u), row_dtype(u, self.dtype)) for u in us
        ]
        dots = reduce.sum(self.dots(moved, spec.unflatten(stored)))
        gram = torch.where(here, dots[:, None], state.gram)
        return moved._replace(gram=torch.where(here[:, None], dots, gram))

    def dots(self, state: GradientWindowState, x: PyTree) -> Tensor:
        """Inner products of all rows with the leaves of ``x`` that are there: float64 (size,)."""
        pairs = self._pairs(state, x)
        oldest = self._oldest(state)
        total = torch.zeros_like(state.gram[0])
        for at, leaf in pairs:
            part = self._layout(at).dots(leaf.rows, at).to(total.device)
            total = total + torch.where(leaf.written >= oldest, part, 0)
        return total

    def combine(self, state: GradientWindowState, weights: Tensor, like: PyTree) -> PyTree:
        """The sum of rows times float64 weights (size,), for the leaves of ``like``."""
        oldest = self._oldest(state)

        def of_leaf(x: Any, leaf: WindowLeaf) -> Tensor:
            there = torch.where(leaf.written >= oldest, weights.to(leaf.written.device), 0)
            return self._layout(x).combine(leaf.rows, there)

        xs, spec = tree.flatten(like)
        kept = tree.flatten_like("gradient_window", spec, state.leaves, "state")
        pairs = zip(xs, kept, strict=True)
        return spec.unflatten([None if x is None else of_leaf(x, leaf) for x, leaf in pairs])

    def newest(self, state: GradientWindowState) -> Tensor:
        """Where the row pushed last is, bool (size,)."""
        return self._slots(state) == torch.remainder(state.step - 1, self.size)

    def ages(self, state: GradientWindowState) -> Tensor:
        """How many pushes ago every row was written, int32 (size,); the newest has 0."""
        return torch.remainder(state.step - 1 - self._slots(state), self.size)

    def gradients(self, state: GradientWindowState, like: PyTree) -> PyTree:
        """The rows as trees hold them: (rows, *shape) for every leaf of ``like``.

        There are ``size`` of them, zeros where none has been pushed, if they are what sums are
        divided by (``normalize="capacity"``); otherwise as many as there are. Which row is the
        oldest does not matter to a Fisher matrix.
        """
        oldest = self._oldest(state)
        count = self.size if self.normalize == "capacity" else min(int(state.step), self.size)

        def of_leaf(x: Any, leaf: WindowLeaf) -> Tensor:
            rows = self._dense(x, leaf, oldest)
            return rows[:count].reshape(count, *x.shape)

        xs, spec = tree.flatten(like)
        kept = tree.flatten_like("gradient_window", spec, state.leaves, "state")
        pairs = zip(xs, kept, strict=True)
        return spec.unflatten([None if x is None else of_leaf(x, leaf) for x, leaf in pairs])

    # -- its Fisher matrix ---------------------------------------------------------------------

    def newest_weights(self, state: GradientWindowState, damping: Any) -> Tensor:
        """Weights of the rows in F^-1 times the newest row, without cancellation.

        With A = gram + size damping I and the newest row e, F^-1 g = size G^T A^-1 e.
        """
        return self._count(state) * self._solve(state, damping, self.newest(state).double())

    def newest_inverse_product(
        self, state: GradientWindowState, damping: Any, like: PyTree
    ) -> PyTree:
        """F^-1 times the newest row, accurate for any damping, for the leaves of ``like``."""
        return self.combine(state, self.newest_weights(state, damping), like)

    def inverse_weights(
        self, state: GradientWindowState, x: PyTree, damping: Any, reduce: Reduce = LOCAL
    ) -> Tensor:
        """Weights A^-1 G x of the rows in F^-1 x; NaN where A has no Cholesky factor."""
        return self._solve(state, damping, reduce.sum(self.dots(state, x)))

    def inverse_vector_product(
        self,
        state: GradientWindowState,
        x: PyTree,
        damping: Any,
        reduce: Reduce = LOCAL,
        weights: Tensor | None = None,
    ) -> PyTree:
        """F^-1 x = (x - G^T A^-1 G x) / damping.

        Where x lies in the span of the rows this loses digits: its relative error is that of
        the parameters' dtype times 1 + |x|^2 / (size damping). For the newest row use
        ``newest_inverse_product``. ``inverse_weights`` may be given where they are known.
        """
        if weights is None:
            weights = self.inverse_weights(state, x, damping, reduce)
        part = self.combine(state, weights, x)
        return tree.map(lambda a, b: (densify_leaf(a) - b) / _as_factor(damping, b), x, part)

    def product(
        self, state: GradientWindowState, x: PyTree, damping: Any, reduce: Reduce = LOCAL
    ) -> PyTree:
        """F x = damping x + G^T G x / size."""
        weights = reduce.sum(self.dots(state, x)) / self._count(state)
        part = self.combine(state, weights, x)
        return tree.map(lambda a, b: _as_factor(damping, b) * densify_leaf(a) + b, x, part)

    def inverse_diagonal(self, state: GradientWindowState, damping: Any, like: PyTree) -> PyTree:
        """The diagonal of F^-1 for the leaves of ``like``, in float64, at least 1e-12 / damping."""
        factor, _ = self._factor(state, damping)  # (size, size), lower
        oldest = self._oldest(state)

        def of_leaf(x: Tensor, leaf: WindowLeaf) -> Tensor:
            rows = self._dense(x, leaf, oldest)  # (size, n)
            pieces = [
                woodbury.inverse_diagonal(woodbury.whitened(factor, part), damping)
                for part in rows.split(max(_PIECE // self.size, 1), 1)
            ]
            return (
                torch.cat(pieces)
                .reshape(x.shape)
                .to(torch.promote_types(rows.dtype, torch.float32))
            )

        return tree.map(of_leaf, like, state.leaves)

    # -- parts ---------------------------------------------------------------------------------

    def _written(self, old: WindowLeaf, here: Tensor, u: Any, step: Tensor) -> WindowLeaf:
        if old == ():
            raise TreeMismatchError("gradient_window: a leaf has an update but no rows")
        here = here.to(old.written.device)
        rows = self._layout(u).write(old.rows, here, u)
        return WindowLeaf(rows, torch.where(here, step.to(here.device), old.written))

    def _layout(self, x: Any) -> Layout:
        return layout_of(self.compressor, tuple(x.shape))

    def _dense(self, x: Any, leaf: WindowLeaf, oldest: Tensor) -> Tensor:
        """The rows of one leaf, (size, numel); zeros where they do not count."""
        rows = self._layout(x).dense(leaf.rows)
        return torch.where((leaf.written >= oldest)[:, None], rows, 0)

    def _slots(self, state: GradientWindowState) -> Tensor:
        return torch.arange(self.size, dtype=torch.int32, device=state.step.device)

    def _oldest(self, state: GradientWindowState) -> Tensor:
        """The push that must have written every row for it to count."""
        return state.step - 1 - self.ages(state)

    def _count(self, state: GradientWindowState) -> Any:
        if self.normalize == "capacity":
            return self.size
        return state.step.clamp(1, self.size).double()

    def _factor(self, state: GradientWindowState, damping: Any) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of gram + count damping I, and whether there is one."""
        if isinstance(damping, Tensor):
            damping = damping.to(state.gram.device, torch.float64)
        return woodbury.factor(state.gram, self._count(state) * damping)

    def _solve(self, state: GradientWindowState, damping: Any, b: Tensor) -> Tensor:
        """A^-1 b; NaN where A is not positive."""
        return woodbury.solve(*self._factor(state, damping), b)

    def _pairs(self, state: GradientWindowState, x: PyTree) -> list[tuple[Any, WindowLeaf]]:
        xs, spec = tree.flatten(x)
        kept = tree.flatten_like("gradient_window", spec, state.leaves, "state")
        return [(at, leaf) for at, leaf in zip(xs, kept, strict=True) if at is not None]


def _as_factor(value: Any, x: Tensor) -> Any:
    return value.to(x.device, x.dtype) if isinstance(value, Tensor) else value
