"""Adam, with L2 regularisation, with decoupled weight decay, and AMSGrad."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.select import Labels
from ..transforms import scale_by_adam
from ._assemble import assemble


def adam(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    nesterov: bool = False,
    amsgrad: str | None = None,
    eps_root: Hyper = 0.0,
    mu_codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Adam.

    p <- p - lr adam(g + weight_decay p); the moments are those of ``scale_by_adam``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.
        nesterov: look one step ahead.
        amsgrad: divide by the largest second moment so far: "raw" as torch.optim, "corrected"
            as Optax.
        eps_root: added inside the root.
        mu_codec: how the first moment is kept: a dtype or a codec; default at least float32.

    Raises:
        ValueError: a value outside its interval, or an unknown ``amsgrad``.

    Source: arXiv 1412.6980.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adam(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_adam(
        b1, b2, eps, eps_root, mu_codec=mu_codec, nesterov=nesterov, amsgrad=amsgrad
    )
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)


def adamw(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 1e-2,
    mask: Labels | None = None,
    nesterov: bool = False,
    amsgrad: str | None = None,
    eps_root: Hyper = 0.0,
    mu_codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Adam with decoupled weight decay.

    p <- p - lr (adam(g) + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        nesterov: look one step ahead.
        amsgrad: divide by the largest second moment so far: "raw" as torch.optim, "corrected"
            as Optax.
        eps_root: added inside the root.
        mu_codec: how the first moment is kept: a dtype or a codec; default at least float32.

    Raises:
        ValueError: a value outside its interval, or an unknown ``amsgrad``.

    Source: arXiv 1711.05101.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.adamw(0.5, weight_decay=0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.7500])}
    """
    moments = scale_by_adam(
        b1, b2, eps, eps_root, mu_codec=mu_codec, nesterov=nesterov, amsgrad=amsgrad
    )
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)


def amsgrad(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    eps_root: Hyper = 0.0,
    mu_codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Adam that divides by the largest second moment so far, its bias corrected first.

    v_max <- max(v_max, v');  p <- p - lr m' / (sqrt(v_max) + eps), with g + weight_decay p for g.
    ``adam(amsgrad="raw")`` corrects the bias afterwards.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.
        eps_root: added inside the root.
        mu_codec: how the first moment is kept: a dtype or a codec; default at least float32.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1904.09237.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.amsgrad(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments = scale_by_adam(b1, b2, eps, eps_root, mu_codec=mu_codec, amsgrad="corrected")
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=False)
