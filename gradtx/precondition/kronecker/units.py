"""The blocks of all leaves of a tree, in batches by shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import TreeMismatchError
from .blocks import BlockPlan, blocks
from .factors import kronecker_factors
from .stacks import together


class Kind(NamedTuple):
    """What blocks of one batch have in common.

    Attributes:
        block: shape of a block.
        sides: those that have a factor.
        dtype, device: of the updates.
    """

    block: tuple[int, ...]
    sides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Unit(NamedTuple):
    """The blocks of one region of one leaf.

    Attributes:
        leaf: position of the leaf.
        region: position in its plan.
        kind: what they are.
    """

    leaf: int
    region: int
    kind: Kind


class Units:
    """The units of the leaves that are there, and their plans.

    Args:
        cut: how leaves are cut.
        factors: which sides have a factor.
        leaves: tensors, or None where there is none.
    """

    def __init__(self, cut: blocks, factors: kronecker_factors, leaves: Sequence[Any]) -> None:
        self.plans: list[BlockPlan | None] = [
            None if x is None else cut.plan(x.shape) for x in leaves
        ]
        self.all: list[Unit] = []
        for i, plan in enumerate(self.plans):
            for j, region in enumerate(plan.regions if plan is not None else ()):
                x, sides = leaves[i], factors.of(region.shape)
                self.all.append(Unit(i, j, Kind(region.shape, sides, x.dtype, x.device)))

    def count(self, unit: Unit) -> int:
        """How many blocks it has."""
        plan = self.plans[unit.leaf]
        assert plan is not None
        return torch.Size(plan.regions[unit.region].counts).numel()

    def check(
        self, who: str, name: str, unit: Unit, found: Sequence[Any], whole: Callable[..., Tensor]
    ) -> None:
        """Raise unless a leaf's stacks of square matrices are what the unit needs.

        Args:
            who: for the error.
            name: of the leaf, for the error.
            unit: the unit.
            found: per region of the leaf's plan, the matrices of its sides.
            whole: gives a matrix in full.

        Raises:
            TreeMismatchError: the state is that of another shape or of other options.
        """
        plan, kind, n = self.plans[unit.leaf], unit.kind, self.count(unit)
        assert plan is not None
        want = [(n, kind.block[side], kind.block[side]) for side in kind.sides]
        fits = len(found) == len(plan.regions)
        got = [tuple(whole(x).shape) for x in found[unit.region]] if fits else None
        if got != want:
            raise TreeMismatchError(
                f"{who}: leaf {name!r} of shape {plan.shape} needs matrices of shapes {want} for "
                f"its blocks, its state has {got}; options that cut leaves must stay what they "
                "were when the state was made"
            )

    def gather(self, leaves: Sequence[Any]) -> list[Any]:
        """The stacks of every unit; None where a leaf is not there."""
        cut: list[Any] = [
            None if x is None or plan is None else plan.gather(x)
            for x, plan in zip(leaves, self.plans, strict=True)
        ]
        return [None if cut[u.leaf] is None else cut[u.leaf][u.region] for u in self.all]

    def scatter(self, stacks: Sequence[Any]) -> list[Any]:
        """The leaves with these stacks; None where there are none."""
        parts: list[list[Any]] = [[] for _ in self.plans]
        for unit, x in zip(self.all, stacks, strict=True):
            parts[unit.leaf].append(x)
        return [
            None if plan is None or any(x is None for x in xs) else plan.scatter(xs)
            for plan, xs in zip(self.plans, parts, strict=True)
        ]

    def each(
        self,
        where: Sequence[int],
        fn: Callable[..., Any],
        *columns: Sequence[Any],
        large: int = 1,
    ) -> dict[int, Any]:
        """``fn(kind, ...)`` of some units in batches: by unit, what it gives.

        Args:
            where: positions of the units.
            fn: function of a kind and of trees of stacks.
            columns: per argument, a tree for every unit.
            large: how many units of large blocks are a batch.
        """
        by_kind: dict[Kind, list[int]] = {}
        for i in where:
            by_kind.setdefault(self.all[i].kind, []).append(i)
        out: dict[int, Any] = {}
        for kind, mine in by_kind.items():
            chosen = [[column[i] for i in mine] for column in columns]

            def of_kind(*xs: Any, kind: Kind = kind) -> Any:
                return fn(kind, *xs)

            out |= zip(mine, together(of_kind, *chosen, large=large), strict=True)
        return out
