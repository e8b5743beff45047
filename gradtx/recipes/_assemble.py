"""What recipes have in common: weight decay and the learning rate around the moments."""

from __future__ import annotations

from typing import Any

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..transforms import add_decayed_weights
from ._learning_rate import with_learning_rate


def assemble(
    *moments: GradientTransformation,
    lr: Hyper | None,
    weight_decay: Hyper,
    mask: Labels | None,
    decoupled: bool,
) -> Chain:
    """Weight decay before the moments (L2) or after them (decoupled), then the learning rate.

    The decay is there even when it is zero, so that a call or a parameter group may set it.
    """
    decay = add_decayed_weights(weight_decay, mask)
    members = (*moments, decay) if decoupled else (decay, *moments)
    return with_learning_rate(chain(*members), lr)


def is_off(value: Any) -> bool:
    """Whether an optional hyperparameter is None or the number zero: its member is left out.

    >>> import torch
    >>> from fractions import Fraction
    >>> from gradtx.recipes._assemble import is_off
    >>> is_off(Fraction(0)), is_off(0.1), is_off(torch.tensor(0.0))
    (True, False, False)
    """
    value = plain(value)
    return value is None or (isinstance(value, (int, float)) and value == 0)
