"""Step sizes from how far the parameters have come: DoG and DoWG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import LeafInfo
from ..core.reduce import Reduce
from ..core.roots import divide, root
from ..core.state import new_scalar
from ..core.transform import TreeTransform
from ..core.tree import accumulator, squared_norm, total


class DistanceLeaf(NamedTuple):
    """Attributes: ``p0``, the parameter at ``init``."""

    p0: Tensor


class DogShared(NamedTuple):
    """What leaves share in ``scale_by_dog``.

    Attributes:
        started: 0-d bool, whether there has been an update.
        distance: 0-d, largest distance from the start so far.
        squares: 0-d, sum of squared gradient norms.
    """

    started: Tensor
    distance: Tensor
    squares: Tensor


class DowgShared(NamedTuple):
    """What leaves share in ``scale_by_dowg``.

    Attributes:
        distance: 0-d, largest squared distance from the start so far.
        squares: 0-d, sum of squared gradient norms, each times the squared distance then.
    """

    distance: Tensor
    squares: Tensor


INIT_STEPS = ("distance", "heuristic", "learning_rate")


@dataclass(frozen=True)
class scale_by_dog(TreeTransform):
    """Multiply by the distance from the start over the root of summed squared gradient norms.

    r <- max(r, ||p - p0||);  G <- G + ||u||^2;  update = r / sqrt(G + eps) u.

    Args:
        init_step: what the first step follows from, and a number: ("distance", r),
            ("heuristic", c) for r = c (1 + ||p0||), or ("learning_rate", lr) for a first factor lr.
        eps: added to the sum of squares, > 0.

    Raises:
        ValueError: an unknown kind of first step, or a value outside its interval.

    Source: arXiv 2302.12022.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_dog(("distance", 0.5)), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 4.0)}, tx.init(params), params)[0]
    {'w': tensor([0.5000])}
    """

    requires_params: ClassVar[bool] = True

    init_step: tuple[str, float] = static(("heuristic", 1e-6))
    eps: Hyper = dynamic(1e-8, within="(0, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.init_step[0] if len(self.init_step) == 2 else None
        if kind not in INIT_STEPS or not self.init_step[1] > 0:
            raise ValueError(
                f"scale_by_dog: init_step must be one of {INIT_STEPS} and a number > 0, "
                f"got {self.init_step!r}"
            )

    def init_tree(
        self, ps: list[Tensor], infos: list[LeafInfo]
    ) -> tuple[list[DistanceLeaf], DogShared]:
        kind, value = self.init_step
        shared = DogShared(
            torch.zeros_like(new_scalar(ps), dtype=torch.bool),
            new_scalar(ps, value if kind == "distance" else 0.0),
            new_scalar(ps),
        )
        return _starts(ps), shared

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: DogShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, DogShared]:
        kind, value = self.init_step
        moved = root(_squared_distance(ps, leaves, reduce)).to(shared.distance.dtype)
        distance = torch.maximum(shared.distance, moved)
        if kind == "heuristic":  # not at init, where no process knows what others have
            assert leaves is not None
            size = root(reduce.sum(total([squared_norm(s.p0) for s in leaves])))
            first = (value * (1 + size)).to(distance.dtype)
            distance = torch.where(shared.started, distance, first)
        squares = shared.squares + _squares(us, reduce).to(shared.squares.dtype)
        factor = divide(distance, root(squares + h.eps))
        if kind == "learning_rate":
            factor = torch.where(shared.started, factor, value)
        started = torch.ones_like(shared.started)
        out = [u * factor.to(u) for u in us]
        return out, leaves, DogShared(started, distance, squares)


@dataclass(frozen=True)
class scale_by_dowg(TreeTransform):
    """Multiply by the squared distance from the start over the root of weighted squared norms.

    d <- max(d, ||p - p0||^2);  G <- G + d ||u||^2;  update = d / (sqrt(G) + eps) u.

    Args:
        init_distance: d at the start, > 0; None for ``eps``.
        eps: added to the root, > 0.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2305.16284.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.scale_by_dowg(0.25), {"w": torch.zeros(1)}
    >>> tx.update({"w": torch.full((1,), 4.0)}, tx.init(params), params)[0]
    {'w': tensor([0.5000])}
    """

    requires_params: ClassVar[bool] = True

    init_distance: float | None = static(None, within="(0, inf)")
    eps: Hyper = dynamic(1e-4, within="(0, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_distance is None and callable(self.eps) and not isinstance(self.eps, Tensor):
            raise ValueError("scale_by_dowg: eps is a schedule; give init_distance")

    def init_tree(
        self, ps: list[Tensor], infos: list[LeafInfo]
    ) -> tuple[list[DistanceLeaf], DowgShared]:
        start: Any = self.eps if self.init_distance is None else self.init_distance
        return _starts(ps), DowgShared(new_scalar(ps, start), new_scalar(ps))

    def update_tree(
        self,
        us: list[Tensor],
        leaves: list[Any] | None,
        shared: DowgShared,
        ps: list[Any],
        h: Values,
        reduce: Reduce,
    ) -> tuple[list[Tensor], list[Any] | None, DowgShared]:
        moved = _squared_distance(ps, leaves, reduce).to(shared.distance.dtype)
        distance = torch.maximum(shared.distance, moved)
        squares = shared.squares + distance * _squares(us, reduce).to(shared.squares.dtype)
        factor = divide(distance, root(squares) + h.eps)
        return [u * factor.to(u) for u in us], leaves, DowgShared(distance, squares)


def _starts(ps: list[Tensor]) -> list[DistanceLeaf]:
    return [DistanceLeaf(accumulator(p).clone()) for p in ps]


def _squared_distance(ps: list[Any], leaves: list[Any] | None, reduce: Reduce) -> Tensor:
    assert leaves is not None
    apart = [squared_norm(s.p0 - p) for p, s in zip(ps, leaves, strict=True)]
    return reduce.sum(total(apart))


def _squares(us: list[Tensor], reduce: Reduce) -> Tensor:
    return reduce.sum(total([squared_norm(u) for u in us]))
