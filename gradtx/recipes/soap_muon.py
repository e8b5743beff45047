"""Muon whose momentum is whitened in the eigenbasis of Shampoo's factors first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.functions import identity
from ..core.hyper import Hyper
from ..core.parallel import parallel
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients, quotient
from ..core.roots import divide_by_sum
from ..core.select import Labels
from ..precondition import eigenbasis, in_eigenbasis, kronecker_factors, orthogonalize
from ..precondition.newton_schulz import schatten4
from ..transforms import as_matrices, ema, second_moment_power
from ._matrix import matrices_and_others
from ._nonfinite import NonFinite, around, inside

NEWTON = (2.0, -1.5, 0.5)


def match_schatten4(magnitude: Tensor, direction: Tensor) -> Tensor:
    """The direction of one matrix with the Schatten-4 norm of another.

    >>> import torch
    >>> from gradtx.recipes.soap_muon import match_schatten4
    >>> match_schatten4(torch.eye(2), 4 * torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if not direction.numel():
        return direction
    want, have = (schatten4(x.reshape(-1, *x.shape[-2:]), eps=1e-8) for x in (magnitude, direction))
    return direction * divide_by_sum(want, have, 0.0).reshape(*direction.shape[:-2], 1, 1)


def soap_muon(
    lr: Hyper | None = 0.03,
    momentum: Hyper = 0.95,
    shampoo_beta: float = 0.9,
    weight_decay: Hyper = 0.01,
    precondition_frequency: int = 1,
    denominator_power: Hyper = 0.5,
    eps: float = 1e-8,
    coefficients: str | Sequence[Any] = NEWTON,
    ns_steps: int | None = 12,
    max_precond_dim: int | None = None,
    packed: bool = False,
    matrices: Labels | None = None,
    other: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """Muon after a SOAP step of the momentum.

    u is the momentum with Nesterov; a = Q_L^T u Q_R; v <- b v + (1 - b) a^2;
    w = Q_L (a / v^r) Q_R^T with the Schatten-4 norm of u; O = orthogonal factor of w;
    p <- p - lr (sqrt(max(1, R / C)) O + weight_decay p). Q are the eigenvectors of averages of
    G G^T and G^T G, found after the first step, which is Muon's, and refreshed after others.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: mu, in [0, 1).
        shampoo_beta: decay b of factors and second moment, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        precondition_frequency: steps between refreshes of the bases, >= 1.
        denominator_power: r, > 0.
        eps: root of the smallest v, >= 0.
        coefficients: of the iteration, see ``gx.orthogonalize``; default Newton's.
        ns_steps: iterations; None for as many as there are coefficients.
        max_precond_dim: longest side that has a factor, >= 1; None for any.
        packed: keep the upper triangles of the factors alone.
        matrices: which leaves are matrices, a predicate on ``LeafInfo`` or a tree of booleans;
            default those with at least two dimensions.
        other: what the other leaves get; default AdamW with lr 3e-4, betas 0.9 and 0.95.
        codec: how momentum and second moment are kept between steps.
        nonfinite: "raise" for a matrix whose gradient is not finite, "skip" such leaves, or
            "ignore" that, which spoils their factors for good.

    Raises:
        ValueError: a value outside its range; from ``update``, a gradient that is not finite.

    Source: modded-nanogpt (2026), arXiv 2409.11321.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.soap_muon(0.1, weight_decay=0.0), {"w": torch.zeros(2, 2)}
    >>> u, _ = tx.update({"w": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> u["w"].round(decimals=3) + 0.0
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])
    """
    whitened = in_eigenbasis(
        quotient(
            identity(),
            second_moment_power(
                shampoo_beta, power=denominator_power, floor=eps * eps, codec=codec
            ),
        ),
        kronecker_factors(shampoo_beta, max_dim=max_precond_dim, packed=packed),
        eigenbasis(every=precondition_frequency),
        first="pass",
        source="gradients",
        nonfinite=inside("soap_muon", nonfinite),
    )
    steps = chain(
        ema(momentum, debias=False, codec=codec, nesterov=True),
        parallel(identity(), whitened, merge=match_schatten4),
        orthogonalize(coefficients, ns_steps, "schatten4", eps=1e-7, scale="original"),
    )
    tx = matrices_and_others(
        as_matrices(as_gradients(steps)),
        lr=lr,
        weight_decay=weight_decay,
        matrices=matrices,
        other=other,
    )
    return around(tx, nonfinite)
