"""AdamW and Lion that leave out what points against the gradient."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.quotient import quotient
from ..core.select import Labels
from ..transforms import cautious_mask, root_second_moment, scale_by_lion, undo_bias
from ._advanced import Moments, Numerator, finish
from ._assemble import is_off


def c_adamw(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    bias_correction: bool = True,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """AdamW with a mask on the first moment where it points against the gradient.

    p <- p - lr (m k / mean(k) / (1 - b1^t) * sqrt(1 - b2^t) / (sqrt(v) + eps) + weight_decay p)
    with k = (m g > 0); the mean is at least 0.001.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment before its correction.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        bias_correction: correct for moments having started at zero.
        codec: how moments are kept; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2411.16085.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.c_adamw(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    numerator = Numerator(b1, Moments(False, codec=codec), cautious=True)
    denominator = root_second_moment(b2, eps, bias_correction, "root", codec)
    after = (undo_bias(b1),) if bias_correction and not is_off(b1) else ()
    step = quotient(numerator.build(), denominator)
    return finish(step, *after, lr=lr, weight_decay=weight_decay, mask=mask)


def c_lion(
    lr: Hyper | None = 1e-4,
    b1: Hyper = 0.95,
    b2: Hyper = 0.98,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Lion with a mask where its sign points against the gradient.

    x = sign(b1 m + (1 - b1) g), k = (x g > 0); p <- p - lr (x k n / (sum(k) + 1) + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        codec: how the momentum is kept; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2411.16085.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.c_lion(0.5), {"w": torch.ones(3)}
    >>> tx.update({"w": torch.full((3,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.3750, -0.3750, -0.3750])}
    """
    lion = scale_by_lion(b1, b2, mu_codec=codec)
    return finish(lion, cautious_mask("sum_plus_one"), lr=lr, weight_decay=weight_decay, mask=mask)
