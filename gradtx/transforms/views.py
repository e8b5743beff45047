"""Show a transform other leaves: matrices, blocks of rows, coordinates in a basis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import tree
from ..core.checks import check_tensors
from ..core.declared import widen
from ..core.errors import TreeMismatchError
from ..core.execution import Execution, Stacked, holds, low_rank_form
from ..core.extra import map_trees, without_trees
from ..core.hyper import static
from ..core.leaves import ANY_UPDATE, LowRankUpdate, densify_leaf
from ..core.protocol import Wrapper, members
from ..core.tree import PyTree
from ..ops.basis import BASES, SIDES, TRANSFORMS, axis_of, basis_vectors, rotate

_FEW = 64  # vectors of a basis with which a product is faster than a transform


@dataclass(frozen=True)
class as_matrices(Wrapper):
    """Show a transform every leaf as a matrix: its first dimension against all others.

    Leaves with fewer dimensions than ``at_least`` are shown as they are.

    Args:
        transform: the inner transform.
        at_least: dimensions from which on a leaf is reshaped, >= 3.

    Raises:
        ValueError: ``at_least`` below 3.

    >>> import torch, gradtx as gx
    >>> tx = gx.as_matrices(gx.orthogonalize("svd"))
    >>> u = tx.update({"conv": torch.ones(1, 2, 2)}, ())[0]["conv"]
    >>> u.shape, round(u.norm().item(), 5)
    (torch.Size([1, 2, 2]), 1.0)
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True, cannot_raise=True, low_rank_form=lambda tx: tx.low_rank_form()
    )

    at_least: int = static(3, at_least=3)

    def init(self, params: PyTree) -> PyTree:
        check_tensors(self.name, params, what="parameter")
        return self.transform.init(tree.map(self._view, params))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        updates = tree.map(densify_leaf, updates)
        seen = None if params is None else tree.map(self._view, params)
        extra = map_trees(lambda t: tree.map(self._view, t), extra, updates)
        new, state = self.update_transform(tree.map(self._view, updates), state, seen, extra)
        return tree.map(self._back, updates, new), state

    def low_rank_form(self) -> as_matrices | None:
        """The same transform for executors, whose updates may be products."""
        form = low_rank_form(self.transform)
        if form is None or not all(holds(m, "cannot_raise") for _, m in members(form)):
            return None
        return _Products(form, self.at_least)

    def _back(self, u: Tensor, new: Any) -> Any:
        """An update in the shape that it came in."""
        new = densify_leaf(new)
        return new if u.ndim < self.at_least else new.reshape(u.shape)

    def _view(self, x: Tensor) -> Tensor:
        x = densify_leaf(x)
        return x if x.ndim < self.at_least else x.flatten(1)


@dataclass(frozen=True)
class _Products(as_matrices):
    """Matrices are not multiplied out."""

    @property
    def name(self) -> str:
        return "as_matrices"

    def _back(self, u: Tensor, new: Any) -> Any:
        return new if isinstance(new, LowRankUpdate) else super()._back(u, new)


@dataclass(frozen=True)
class split_rows(Wrapper):
    """Show a transform every leaf as several leaves, blocks of its rows.

    For fused projections such as query, key and value, or heads, which are matrices of their own.

    Args:
        transform: the inner transform; it sees a tuple of blocks in the place of a leaf.
        sizes: rows of each block, at least two.
        blocks: how many blocks of equal size instead, at least two.

    Raises:
        ValueError: both or neither given, or a leaf whose rows cannot be cut like that.

    >>> import torch, gradtx as gx
    >>> tx = gx.split_rows(gx.normalize_by_update_norm(), sizes=(1, 2))
    >>> tx.update({"w": torch.tensor([[3.0], [3.0], [4.0]])}, ())[0]["w"].T
    tensor([[0.5145, 0.5145, 0.6860]])
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True,
        cannot_raise=True,
        stacked=Stacked(
            lambda tx, shape: tx.blocks,
            lambda tx, first, count: _Share(tx.transform, blocks=tx.blocks, first=first, own=count),
        ),
    )

    sizes: tuple[int, ...] | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        if (self.sizes is None) == (self.blocks is None):
            raise ValueError("split_rows: give either sizes or blocks")
        count = self.blocks if self.sizes is None else len(self.sizes)
        if count < 2 or any(n < 1 for n in self.sizes or ()):  # type: ignore[operator]
            raise ValueError(
                "split_rows: at least two blocks of at least one row, got "
                f"{self.sizes if self.blocks is None else self.blocks}"
            )

    def init(self, params: PyTree) -> PyTree:
        check_tensors(self.name, params, what="parameter")
        return self.transform.init(tree.map_with_name(self._cut, params))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        updates = tree.map(densify_leaf, updates)
        seen = None if params is None else self._cut_like(updates, params)
        extra = map_trees(lambda t: self._cut_like(updates, t), extra, updates)
        if extra.get("hyper"):
            extra["hyper"] = {k: self._repeat(updates, v) for k, v in extra["hyper"].items()}
        blocks = tree.map_with_name(self._cut, updates)
        new, state = self.update_transform(blocks, state, seen, extra)
        return tree.map(_joined, updates, new), state

    def _cut_like(self, updates: PyTree, other: PyTree) -> PyTree:
        """The blocks of the leaves of ``other``; one without an update is None."""
        there, spec = tree.flatten(updates)
        leaves = tree.leaves_like(self.name, spec, other, "parameter")
        triples = zip(tree.names(spec), there, leaves, strict=True)
        return spec.unflatten(
            [None if u is None or x is None else self._cut(name, x) for name, u, x in triples]
        )

    def _cut(self, name: str, x: Tensor) -> tuple[Tensor | None, ...]:
        rows = x.shape[0] if x.ndim else 0
        sizes = self.sizes
        if sizes is None:
            assert self.blocks is not None
            sizes = () if rows % self.blocks else (rows // self.blocks,) * self.blocks
        if sum(sizes) != rows:
            what = (
                f"sizes {self.sizes} do not sum"
                if self.sizes
                else f"{self.blocks} blocks do not fit"
            )
            raise ValueError(
                f"split_rows: leaf {name!r} of shape {tuple(x.shape)}: {what} to its {rows} rows"
            )
        return x.split(list(sizes))

    def _repeat(self, updates: PyTree, value: Any) -> Any:
        """A hyperparameter as the blocks see it: a leaf's own value is that of all its blocks."""
        if isinstance(value, (int, float, Tensor)):
            return value
        count = self.blocks or len(self.sizes or ())
        there, spec = tree.flatten(updates)
        try:
            values = tree.flatten_like(self.name, spec, value, "hyper")
        except TreeMismatchError:
            return value  # the member that has the hyperparameter refuses it by its name
        return spec.unflatten(
            [v if u is None else (v,) * count for u, v in zip(there, values, strict=True)]
        )


def _joined(u: Tensor, parts: tuple[Any, ...]) -> Tensor:
    there = [densify_leaf(x) for x in parts if x is not None]
    return torch.cat(there) if there else u


@dataclass(frozen=True)
class _Share(split_rows):
    """Some of the blocks of equal size; the others are not here.

    Args:
        first: of them.
        own: how many.
    """

    first: int = 0
    own: int = 0

    @property
    def name(self) -> str:
        return "split_rows"

    def _cut(self, name: str, x: Tensor) -> tuple[Tensor | None, ...]:
        here = x.split([x.shape[0] // self.own] * self.own) if self.own else ()
        assert self.blocks is not None
        after = self.blocks - self.first - self.own
        return (None,) * self.first + tuple(here) + (None,) * after


@dataclass(frozen=True)
class in_basis(Wrapper):
    """Run a transform on the coordinates of matrices in an orthonormal basis: ``T(u Q) Q^T``.

    The basis is of the rows' or the columns' space and needs no memory. The inner transform gets
    no parameters: theirs are other coordinates.

    Args:
        transform: the inner transform.
        basis: "dct2", cosines of rising frequency; "dct3", their transpose; "released_matmul",
            dct3 on the right and dct2 on the left; "hadamard", for powers of two.
        transform_by: how a cosine transform is computed: "fft", "matmul", or "auto" by length.
        side: which dimension Q is of: "right" u Q, "left" Q^T u, "std" the smaller one (right for
            square matrices), "std_left" too (left for square ones).

    Raises:
        ValueError: an unknown name, or a leaf that is no matrix.

    Source: arXiv 2505.17967.

    >>> import torch, gradtx as gx
    >>> tx = gx.in_basis(gx.scale(2.0))
    >>> tx.update({"w": torch.ones(2, 2)}, tx.init({"w": torch.ones(2, 2)}))[0]["w"].round()
    tensor([[2., 2.],
            [2., 2.]])
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True, cannot_raise=True, low_rank_form=lambda tx: tx.low_rank_form()
    )

    basis: str = static("dct2", choices=BASES)
    transform_by: str = static("auto", choices=TRANSFORMS)
    side: str = static("std", choices=SIDES)

    def init(self, params: PyTree) -> PyTree:
        self._check(params, None, "parameter")
        return self.transform.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        self._check(updates, params, "update", ANY_UPDATE)
        extra = without_trees(self, extra, updates)

        def turn(x: Any, inverse: bool) -> Tensor:
            return rotate(densify_leaf(x), self.basis, self.side, self.transform_by, inverse)

        there = tree.map(lambda u: turn(widen(u), False), updates)
        new, state = self.update_transform(there, state, None, extra)
        return tree.map(lambda x: self._few(x) or turn(x, True), new), state

    def low_rank_form(self) -> in_basis | None:
        """The same transform for executors, with what it wraps in its form for them."""
        form = low_rank_form(self.transform)
        return None if form is None else replace(self, transform=form)

    def _few(self, x: Any) -> LowRankUpdate | None:
        """An update that has few coordinates of the basis, as a product with its vectors."""
        if not isinstance(x, LowRankUpdate) or x.basis.is_floating_point():
            return None
        axis = axis_of(self.side, *x.shape)
        if len(x.basis) > _FEW or x.side != ("left", "right")[axis]:
            return None
        vectors = basis_vectors(self.basis, axis, x.shape[axis], x.basis, x.dtype)
        return LowRankUpdate(x.factor, vectors, x.shape, x.side, x.basis)

    def _check(
        self, leaves: PyTree, like: PyTree, what: str, accepts: tuple[type, ...] = (Tensor,)
    ) -> None:
        check_tensors(self.name, leaves, like, what, accepts)

        def check(name: str, x: Any) -> None:
            if len(x.shape) != 2:
                raise ValueError(
                    f"{self.name}: leaf {name!r} of shape {tuple(x.shape)} is no matrix; use "
                    "gx.as_matrices for more dimensions, gx.partition for vectors"
                )
            n = x.shape[axis_of(self.side, *x.shape)]
            if self.basis == "hadamard" and n & (n - 1):
                raise ValueError(
                    f"{self.name}: leaf {name!r}: 'hadamard' needs a power of two, got {n}"
                )

        tree.map_with_name(check, leaves)
