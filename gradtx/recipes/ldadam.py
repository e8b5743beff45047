"""LDAdam: AdamW in a subspace that moves at every step."""

from __future__ import annotations

import torch

from ..codecs import Codec
from ..core.chain import Chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.random import Seed
from ..core.select import Labels
from ..subspace import Projector, Where, scale_by_ldadam
from ..transforms import scale_by_adam
from ._assemble import assemble
from ._subspace import make_projector

_SIDES = {"std": "std_left"}


def ldadamw(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.908,
    b2: Hyper = 0.99,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.0,
    mask: Labels | None = None,
    rank: int | None = 16,
    rho: Hyper = 0.908,
    proj_type: str = "std",
    proj_method: str | Projector = "power_iteration",
    error_feedback: bool = True,
    error_codec: Codec | torch.dtype | None = None,
    matricize: bool = False,
    where: Where | None = None,
    seed: Seed = 0,
) -> Chain:
    """AdamW in a subspace that follows the gradient, with feedback of what is left out.

    p <- p - lr (ldadam(g) + weight_decay p); the moments are those of ``scale_by_ldadam``.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        eps: added to the corrected root of the second moment.
        weight_decay: multiple of the parameter added to the update, >= 0.
        mask: which leaves decay; default all.
        rank: dimensions of the subspace, less where a matrix is smaller; None for AdamW.
        rho: how much the last subspace counts in the choice of the next, in [0, 1).
        proj_type: the compressed dimension: "std" the smaller one (of a square matrix the first),
            "reverse_std", "left" or "right".
        proj_method: "power_iteration", "svd", "svd_lowrank" or another kind of subspace with an
            orthonormal basis, or a projector of ``gx.subspace``.
        error_feedback: False forgets what is left out, and needs no memory for it.
        error_codec: how that is kept between steps: a codec, a dtype, or None for at least float32.
        matricize: take leaves with more than two dimensions as first against all others.
        where: predicate on ``LeafInfo``, which matrices are projected; default all.
        seed: of random subspaces.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2410.16103.

    >>> import torch, gradtx as gx
    >>> state = gx.ldadamw(rank=2, error_feedback=False).init({"w": torch.zeros(32, 8)})
    >>> gx.tree.get(state, "mu").shape
    torch.Size([32, 2])
    """
    moments: GradientTransformation = scale_by_adam(b1, b2, eps)
    if rank is not None or isinstance(proj_method, Projector):
        side = _SIDES.get(proj_type, proj_type)
        if side == "full":
            raise ValueError("ldadamw: proj_type must name one side, got 'full'")
        projector = make_projector("ldadamw", proj_method, rank, side, matricize, seed)
        moments = scale_by_ldadam(projector, b1, b2, eps, rho, error_feedback, error_codec, where)
    return assemble(moments, lr=lr, weight_decay=weight_decay, mask=mask, decoupled=True)
