"""The last member of every recipe."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..transforms import scale_by_learning_rate


def with_learning_rate(tx: GradientTransformation, lr: Hyper | None) -> Chain:
    """Append ``scale_by_learning_rate(lr)``; nothing for None."""
    return chain(tx) if lr is None else chain(tx, scale_by_learning_rate(lr))
