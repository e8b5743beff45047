"""Steps in proportion to the norms of the parameters: LAMB and LARS."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels, masked
from ..transforms import add_decayed_weights, scale_by_adam, scale_by_trust_ratio, trace
from ._learning_rate import with_learning_rate


def lamb(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-6,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    eps_root: Hyper = 0.0,
) -> Chain:
    """Adam with decoupled decay, each leaf's step scaled to its parameter's norm.

    u = adam(g) + weight_decay p;  p <- p - lr |p| / |u| u.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        eps_root: added inside the root.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1904.00962.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.lamb(0.5), {"w": torch.full((1,), 2.0)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    return with_learning_rate(
        chain(
            scale_by_adam(b1, b2, eps, eps_root),
            add_decayed_weights(weight_decay, mask),
            scale_by_trust_ratio(),
        ),
        lr,
    )


def lars(
    lr: Hyper | None = 0.1,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    trust_coefficient: Hyper = 1e-3,
    eps: Hyper = 0.0,
    trust_ratio_mask: Labels | None = None,
    momentum: Hyper = 0.9,
    nesterov: bool = False,
) -> Chain:
    """Gradient descent, each leaf's step scaled to its parameter's norm before the momentum.

    u = g + weight_decay p;  t <- momentum t + lr trust_coefficient u |p| / (|u| + eps);
    p <- p - t.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        mask: which leaves decay; default all.
        trust_coefficient: the ratio of norms, >= 0.
        eps: added to the norm of u.
        trust_ratio_mask: which leaves are scaled; default all.
        momentum: decay of the sum of steps, in [0, 1].
        nesterov: look one step ahead.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 1708.03888.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.lars(0.5, trust_coefficient=1.0), {"w": torch.full((1,), 2.0)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.])}
    """
    ratio: GradientTransformation = scale_by_trust_ratio(
        trust_coefficient=trust_coefficient, eps=eps
    )
    if trust_ratio_mask is not None:
        ratio = masked(ratio, trust_ratio_mask)
    scaled = with_learning_rate(chain(add_decayed_weights(weight_decay, mask), ratio), lr)
    return chain(scaled, trace(momentum, nesterov))
