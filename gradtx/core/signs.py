"""Signs in which what is not a number shows."""

from __future__ import annotations

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """The sign of every entry; NaN stays NaN, which ``torch.sign`` makes zero.

    >>> import torch
    >>> from gradtx.core.signs import sign
    >>> sign(torch.tensor([-2.0, 0.0, torch.nan, torch.inf]))
    tensor([-1.,  0., nan,  1.])
    """
    return torch.where(torch.isnan(x), x, torch.sign(x))
