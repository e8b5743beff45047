"""Schedule-free AdamW and gradient descent."""

from __future__ import annotations

from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..transforms import add_decayed_weights, scale_by_adam, scale_by_rms, schedule_free
from ._assemble import is_off


def schedule_free_adamw(
    lr: Hyper = 2.5e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    inner_momentum: Hyper = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """AdamW without a learning rate schedule: ``gx.schedule_free`` around the direction of Adam.

    n = g' / (sqrt(v') + eps) + weight_decay y, where v' is the debiased average of g^2 and g' is
    the gradient, or its debiased average if ``inner_momentum`` is not zero.

    Args:
        lr: learning rate >= 0.
        b1: how far the parameters stand towards the average, in (0, 1].
        b2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: multiple of the parameter y added to the direction, >= 0.
        mask: which leaves decay; default all.
        inner_momentum: decay of an average of gradients, in [0, 1); zero for none. It is the
            ``b1`` of the member ``scale_by_adam``, so name the members to override one of them.
        warmup_steps: updates over which the learning rate grows to ``lr``.
        r: power of the step count in the weights of the average, >= 0.
        weight_lr_power: power of the learning rate in the weights, >= 0.

    Returns:
        A chain whose parameters are y; evaluate with ``gx.schedule_free_eval_params``.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2405.15682.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.schedule_free_adamw(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-0.5000])}
    """
    moments: GradientTransformation = scale_by_adam(inner_momentum, b2, eps)
    if is_off(inner_momentum):
        moments = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    inner = chain(moments, add_decayed_weights(weight_decay, mask))
    return schedule_free(inner, lr, b1, warmup_steps, r, weight_lr_power)


def schedule_free_sgd(
    lr: Hyper = 1.0,
    b1: Hyper = 0.9,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """Gradient descent without a learning rate schedule: ``gx.schedule_free`` of the gradient.

    n = g + weight_decay y.

    Args:
        lr: learning rate >= 0.
        b1: how far the parameters stand towards the average, in (0, 1].
        weight_decay: multiple of the parameter y added to the gradient, >= 0.
        mask: which leaves decay; default all.
        warmup_steps: updates over which the learning rate grows to ``lr``.
        r: power of the step count in the weights of the average, >= 0.
        weight_lr_power: power of the learning rate in the weights, >= 0.

    Returns:
        A chain whose parameters are y; evaluate with ``gx.schedule_free_eval_params``.

    Raises:
        ValueError: a value outside its interval.

    Source: arXiv 2405.15682.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.schedule_free_sgd(0.5), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.full((1,), 3.0)}, tx.init(params), params)[0]
    {'w': tensor([-1.5000])}
    """
    inner = add_decayed_weights(weight_decay, mask)
    return schedule_free(inner, lr, b1, warmup_steps, r, weight_lr_power)
