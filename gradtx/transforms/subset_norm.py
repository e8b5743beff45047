"""One second moment for a subset of a leaf's entries."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.averages import newest_weight
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, one_minus_power, static
from ..core.leaves import LeafInfo
from ..core.roles import SecondMoment
from ..core.roots import nonzero, root
from ..core.state import advance, new_count
from ..core.sums import sum_over
from ..core.transform import LeafTransform
from ..core.tree import accumulator_dtype

SUBSETS = ("heuristics", "matrix", "leaf")


class SubsetNormState(NamedTuple):
    """State of ``root_subset_norm`` and ``scale_by_subset_norm``.

    Attributes:
        step: int32, updates done for this leaf; () without debiasing.
        nu: sums of squares over subsets, averaged over steps; at least float32.
    """

    step: Tensor | tuple[()]
    nu: SecondMoment


@dataclass(frozen=True)
class _SubsetNorm(LeafTransform):
    needs_unit: ClassVar[bool] = True
    execution: ClassVar[Execution] = Execution(
        positive=True,
        matrix_view=lambda tx: tx.matrix_view(),
    )

    subset: int | str | None = static("heuristics")
    b2: Hyper = dynamic(0.999, within="[0, 1]")
    eps: Hyper = dynamic(1e-6, within="[0, inf)")
    debias: bool = static(True)
    ragged: bool = static(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        subset = self.subset
        whole = isinstance(subset, int) and not isinstance(subset, bool) and subset != 0
        if not whole and subset is not None and subset not in SUBSETS:
            raise ValueError(
                f"{self.name}: subset must be a non-zero integer, one of {SUBSETS} or None, "
                f"got {subset!r}"
            )

    def matrix_view(self) -> runs | None:
        """How a leaf becomes a matrix with a subset in every row."""
        return runs(self.subset) if isinstance(self.subset, int) and not self.ragged else None

    def init_leaf(self, p: Tensor, info: LeafInfo) -> SubsetNormState:
        grid = subsets_of(tuple(p.shape), self.subset, self.ragged)
        if isinstance(self.subset, int) and p.numel():
            asked = _run_length(p.numel(), self.subset)
            if 4 * grid.grid[-1] < asked:
                warnings.warn(
                    f"{self.name}: leaf {info.name!r} has {p.numel()} elements, which no number "
                    f"near {asked} divides; subsets have {grid.grid[-1]}. ragged=True allows any",
                    stacklevel=2,
                )
        nu = p.new_zeros(grid.kept, dtype=accumulator_dtype(p.dtype))
        return SubsetNormState(new_count([p]) if self.debias else (), nu)

    def _root(self, u: Tensor, s: SubsetNormState, h: Values) -> tuple[Tensor, SubsetNormState]:
        """The denominator of every entry, and the new state."""
        grid = subsets_of(tuple(u.shape), self.subset, self.ragged)
        nu = h.b2 * s.nu.to(u.dtype) + newest_weight(h.b2) * grid.sum_of(u * u)
        size, step = root(nu) + nonzero(h.eps * h.unit, u.dtype), s.step
        if isinstance(step, Tensor):
            step = advance(step)
            size = size / root(_gathered(h.b2, step, u.dtype))
        return grid.spread(size), SubsetNormState(step, nu)


@dataclass(frozen=True)
class root_subset_norm(_SubsetNorm):
    """The root of one second moment per subset of entries, a denominator.

    v <- b2 v + (1 - b2) sum of u^2 over the subset, or v <- v + that sum with b2 = 1 (AdaGrad);
    update = (sqrt(v) + eps) / sqrt(1 - b2^t), without the correction if b2 = 1 or not ``debias``.
    A sum, not a mean: steps are smaller by the root of the subset's size.

    Args:
        subset: which entries share: "heuristics", for a matrix those of a row or of a column so
            that the larger dimension is kept, for leaves of more dimensions the same test on the
            first two; "matrix", the same of the first dimension against all others; "leaf", all; a
            positive integer, runs of that many entries; a negative one -j, runs of sqrt(n) / j;
            None, every entry has its own. Runs have the largest length that divides the number n
            of entries. Leaves with fewer than two dimensions have no rows: every entry its own.
        b2: decay of the average, in [0, 1]; 1 sums up.
        eps: added to the root, >= 0, in the unit of the updates.
        debias: correct for the average having started at zero.
        ragged: runs have the length that was asked for, the last one may be shorter.

    Raises:
        ValueError: a value outside its interval, or an unknown subset.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> tx = gx.root_subset_norm("heuristics", eps=0.0)
    >>> tx.update({"w": torch.tensor([[3.0, 4.0]] * 2)}, tx.init({"w": torch.ones(2, 2)}))[0]
    {'w': tensor([[5., 5.],
            [5., 5.]])}
    """

    def update_leaf(
        self, u: Tensor, s: SubsetNormState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SubsetNormState]:
        return self._root(u, s, h)


@dataclass(frozen=True)
class scale_by_subset_norm(_SubsetNorm):
    """Divide updates by the root of one second moment per subset of entries.

    update = u / root_subset_norm(u), whose arguments these are.

    Raises:
        ValueError: a value outside its interval, or an unknown subset.

    Source: arXiv 2411.07120.

    >>> import torch, gradtx as gx
    >>> tx = gx.scale_by_subset_norm("heuristics", eps=0.0)
    >>> tx.update({"w": torch.tensor([[3.0, 4.0]] * 2)}, tx.init({"w": torch.ones(2, 2)}))[0]
    {'w': tensor([[0.6000, 0.8000],
            [0.6000, 0.8000]])}
    """

    def update_leaf(
        self, u: Tensor, s: SubsetNormState, p: Tensor | None, h: Values
    ) -> tuple[Tensor, SubsetNormState]:
        size, new = self._root(u, s, h)
        return u / size, new


@dataclass(frozen=True)
class Subsets:
    """How a leaf is cut: viewed as ``grid``, and summed over ``dims``.

    Attributes:
        shape: of the leaf.
        grid: shape in which the subsets are slices; it may have more entries than the leaf.
        dims: dimensions of the grid that a subset runs over.
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...]
    dims: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Shape of one number per subset."""
        return tuple(1 if i in self.dims else n for i, n in enumerate(self.grid))

    @property
    def padding(self) -> int:
        """Entries that the leaf lacks to fill the grid."""
        return math.prod(self.grid) - math.prod(self.shape)

    def sum_of(self, x: Tensor) -> Tensor:
        """The sum over every subset, of shape ``kept``."""
        if self.padding:
            x = torch.cat([x.reshape(-1), x.new_zeros(self.padding)])
        x = x.reshape(self.grid)
        return sum_over(x, self.dims) if self.dims else x

    def spread(self, y: Tensor) -> Tensor:
        """Numbers of subsets at every entry of the leaf."""
        flat = y.expand(self.grid).reshape(-1)
        return flat[: flat.numel() - self.padding].reshape(self.shape)


def subsets_of(shape: tuple[int, ...], subset: int | str | None, ragged: bool = False) -> Subsets:
    """The subsets of a leaf of this shape.

    >>> from gradtx.transforms.subset_norm import subsets_of
    >>> subsets_of((4, 6), "heuristics").kept, subsets_of((4, 6), -1).kept
    ((1, 6), (6, 1))
    """
    n = math.prod(shape)
    if subset == "leaf":
        return Subsets(shape, shape, tuple(range(len(shape))))
    if subset is None or n == 0:
        return Subsets(shape, shape, ())
    if isinstance(subset, str):
        if len(shape) < 2:
            return Subsets(shape, shape, ())
        grid = shape if subset == "heuristics" else (shape[0], math.prod(shape[1:]))
        return Subsets(shape, grid, (1,) if grid[0] >= grid[1] else (0,))
    if ragged:
        target = _run_length(n, subset)
        return Subsets(shape, (-(-n // target), target), (1,))
    return Subsets(shape, runs(subset)(shape), (1,))


@dataclass(frozen=True)
class runs:
    """The matrix whose rows are runs of entries of the flat leaf.

    Args:
        subset: how long they are, an integer as ``root_subset_norm`` takes it.

    >>> from gradtx.transforms.subset_norm import runs
    >>> runs(5)((4, 6)), runs(-1)((4, 6))
    ((6, 4), (6, 4))
    """

    subset: int

    def __call__(self, shape: tuple[int, ...]) -> tuple[int, int]:
        n = math.prod(shape)
        target = _run_length(n, self.subset)
        size = next((k for k in range(target, 0, -1) if n % k == 0), 1)
        return n // size, size


def _run_length(n: int, subset: int) -> int:
    """How many of n entries an integer asks to share."""
    return min(max(subset if subset > 0 else int(math.sqrt(n) / -subset), 1), n)


def _gathered(b2: Any, step: Tensor, dtype: torch.dtype) -> Tensor:
    """What the average has gathered, ``1 - b2^t``; 1 for a sum."""
    share = one_minus_power(b2, step, dtype)
    if isinstance(b2, Tensor):
        return torch.where(b2 < 1, share, torch.ones_like(share))
    return share if b2 < 1 else torch.ones_like(share)
