"""Chains whose leaves need each other, when processes have some of them each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.execution import holds
from ..core.protocol import GradientTransformation, members
from ..fuse.frontend.specialize import selectors


def independent(tx: GradientTransformation) -> bool:
    """Whether leaves need nothing of each other."""
    return all(_alone(member) for _, member in members(tx))


def sums(tx: GradientTransformation) -> bool:
    """Whether all that leaves need of each other is sums."""
    return all(_alone(m) or holds(m, "reduces") for _, m in members(tx))


def sums_of_all(tx: GradientTransformation) -> bool:
    """Whether it is sums over all leaves.

    What sees leaves of some names or shapes alone does not sum where there is none of them, as on
    a rank that has others.
    """
    chosen = [m for selector in selectors(tx) for m in selector.inner.values()]
    return sums(tx) and all(map(independent, chosen))


def check_purely(who: str, tx: GradientTransformation, groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise where a chain that no rank runs in kernels must run in them.

    Raises:
        RuntimeError: it must.
    """
    if any(group["fused"] for group in groups):
        raise RuntimeError(
            f"{who}: fused=True, but chain {list(tx.inner) or [tx.name]} sums over leaves that "
            "ranks have some of each, and kernels do not do all of them alike; make its groups "
            "with fused=None"
        )


def _alone(member: GradientTransformation) -> bool:
    return holds(member, "leaves_independent") and member.execution.next_shared is None
