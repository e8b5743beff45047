"""AdamW with quantised moments."""

from __future__ import annotations

from ..codecs import blockwise
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adam
from ._assemble import assemble


def adamw8bit(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    mask: Labels | None = None,
    block_size: int = 256,
    min_size: int = 4096,
) -> Chain:
    """AdamW with 8-bit moments: 2.03 bytes of state a parameter.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        block_size: elements that share a scale.
        min_size: leaves with fewer elements keep dense moments.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2110.02861.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adamw8bit(0.5, weight_decay=0.0), {"w": torch.ones(4096)}
    >>> tx.update({"w": torch.full((4096,), 3.0)}, tx.init(params), params)[0]["w"][:2]
    tensor([-0.5000, -0.5000])
    """
    codec = blockwise(8, block_size, min_size)
    moments = scale_by_adam(b1, b2, eps, mu_codec=codec, nu_codec=codec)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)


def adamw4bit(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    mask: Labels | None = None,
    block_size: int = 128,
    min_size: int = 4096,
) -> Chain:
    """AdamW with 4-bit moments: 1.06 bytes of state a parameter.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        block_size: elements that share a scale.
        min_size: leaves with fewer elements keep dense moments.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2309.01507.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adamw4bit(0.5, weight_decay=0.0), {"w": torch.ones(4096)}
    >>> tx.update({"w": torch.full((4096,), 3.0)}, tx.init(params), params)[0]["w"][:2]
    tensor([-0.5000, -0.5000])
    """
    codec = blockwise(4, block_size, min_size)
    moments = scale_by_adam(b1, b2, eps, mu_codec=codec, nu_codec=codec)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
