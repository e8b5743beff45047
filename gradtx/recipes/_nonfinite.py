"""What recipes whose state a gradient that is not finite would spoil do with one."""

from __future__ import annotations

from typing import Literal

from ..core.chain import Chain, chain
from ..core.conditional import apply_if_finite
from ..core.finite import apply_if_leaf_finite

NonFinite = Literal["raise", "skip", "ignore"]


def inside(who: str, nonfinite: NonFinite) -> Literal["raise", "ignore"]:
    """What the transform with the state does.

    Raises:
        ValueError: no such option.
    """
    if nonfinite not in ("raise", "skip", "ignore"):
        raise ValueError(f"{who}: nonfinite must be 'raise', 'skip' or 'ignore', got {nonfinite!r}")
    return "raise" if nonfinite == "raise" else "ignore"


def around(tx: Chain, nonfinite: NonFinite) -> Chain:
    """The chain, which leaves alone what is to be skipped."""
    return chain(apply_if_leaf_finite(tx, "skip")) if nonfinite == "skip" else tx


def around_steps(tx: Chain, nonfinite: NonFinite) -> Chain:
    """The same where all leaves are skipped together."""
    return chain(apply_if_finite(tx)) if nonfinite == "skip" else tx
