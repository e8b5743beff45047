"""GGT: full-matrix adaptive steps from a window of gradients, whole or compressed."""

from __future__ import annotations

import torch

from ..compressors import top_k
from ..core.chain import Chain, chain
from ..core.flatten import flatten
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..precondition import precondition_ggt
from ..transforms import add_decayed_weights, error_feedback
from ._assemble import is_off
from ._learning_rate import with_learning_rate
from ._nonfinite import NonFinite, around_steps, inside


def ggt(
    lr: Hyper | None = 1e-3,
    window: int = 100,
    b1: Hyper | None = 0.9,
    b2: Hyper = 0.999,
    eps: Hyper = 1e-4,
    weight_decay: Hyper = 0.0,
    density: float | None = None,
    gram_reg: float = 1e-6,
    decay_basis: bool = True,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """Steps along (root of G G^T + eps)^-1, G the last gradients of the whole model, decayed.

    g' = g + weight_decay p;  p <- p - lr precondition_ggt(g').

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        window: gradients that are remembered, >= 1.
        b1: decay of the running average that is preconditioned, in [0, 1); None or 0 takes the
            newest gradient, for which no digits are lost.
        b2: decay of older gradients in the window, in (0, 1].
        eps: added to the root, > 0.
        weight_decay: multiple of the parameter added to the gradient, >= 0.
        density: share of all entries that the window keeps, in (0, 1], rounded down: the largest
            of g' plus what was dropped before, and they alone are preconditioned. None keeps all.
        gram_reg: added to the diagonal of the inner products, > 0.
        decay_basis: False decays the inner products alone, as the first published code does.
        dtype: of the window, None for at least float32, or bfloat16.
        max_bytes: what the window may take, >= 1; None for any amount.
        nonfinite: what happens to a gradient that is not finite: "raise", "skip" the step, or
            "ignore" it, which spoils the running average for good.

    Raises:
        ValueError: a value outside its range; from ``init``, a window of more than ``max_bytes``;
            from ``update``, a gradient that is not finite.

    Source: arXiv 1806.02958, arXiv 2306.06098.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.ggt(1.0, 2, b1=None, eps=1.0), {"w": torch.ones(2)}
    >>> tx.update({"w": torch.tensor([3.0, 0.0])}, tx.init(params), params)[0]
    {'w': tensor([-0.7500, -0.0000])}
    """
    keep = None if density is None else top_k(density, rounding="down")
    momentum = b1 is not None and not is_off(b1)
    precondition: GradientTransformation = precondition_ggt(
        window,
        b1 if momentum and b1 is not None else 0.0,
        b2,
        eps,
        keep,
        dtype,
        gram_reg,
        decay_basis,
        "momentum" if momentum else "newest",
        max_bytes,
        inside("ggt", nonfinite),
    )
    if keep is not None:
        precondition = flatten(error_feedback(keep, inner=precondition))
    tx = with_learning_rate(chain(add_decayed_weights(weight_decay), precondition), lr)
    return around_steps(tx, nonfinite)
