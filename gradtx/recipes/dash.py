"""DASH: Shampoo on blocks of one size, all of whose roots are one batch."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.counting import count_together
from ..core.functions import identity
from ..core.hyper import Hyper, check_value
from ..core.parallel import parallel
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients, on_gradients, quotient
from ..core.select import partition
from ..precondition import blocks, grafted, kronecker_factors, scale_by_inverse_roots
from ..precondition.inverse_roots import RootMethod, newton_db
from ..transforms import (
    add_decayed_weights,
    ema,
    root_second_moment,
    scale,
    scale_by_adam,
    trace,
    undo_bias,
)
from ._assemble import is_off
from ._learning_rate import with_learning_rate
from .shampoo import COUNTS, by_dimensions, is_matrix

logger = logging.getLogger("gradtx")

NESTEROV_FORMS = ("p_plus_mu_m", "mu_p_plus_m")


def dash(
    lr: Hyper | None = 1e-3,
    beta_g: Hyper = 0.9,
    beta_lr: float = 0.95,
    beta_graft: Hyper = 0.95,
    weight_decay: Hyper = 0.0,
    block_size: int = 1024,
    inv_root_freq: int = 10,
    start_prec_step: int = 1,
    inv_root_method: str | RootMethod = "evd",
    eps_inv_root: float = 1e-10,
    eps_mode: Literal["absolute", "relative"] = "absolute",
    eps_grafting: Hyper = 1e-8,
    mu: Hyper = 0.0,
    use_nesterov: bool = True,
    nesterov_form: Literal["p_plus_mu_m", "mu_p_plus_m"] = "p_plus_mu_m",
    correct_bias: bool = True,
    one_dim: Literal["adamw", "shampoo"] = "adamw",
    adamw_b1: Hyper = 0.9,
    adamw_b2: Hyper = 0.95,
    adamw_eps: Hyper = 1e-8,
    staggered: bool = False,
    packed: bool = False,
    codec: Codec | torch.dtype | None = None,
    counts: Literal["leaf", "group"] = "leaf",
) -> Chain:
    """Shampoo on a grid of blocks, with Adam's norm on every block.

    Leaves are matrices, the first dimension against all others, cut into blocks G with strips at
    the right and at the bottom. L <- lerp(L, G G^T, 1 - beta_lr), likewise R;
    U = L^(-1/4) H R^(-1/4) with H the average of G; P = U |A| / |U| with A Adam's step;
    M <- mu M + P; p <- (1 - lr wd) p - lr D with D = P, or P + mu M with Nesterov, or M. All roots
    of one size are one batch, whatever leaf they are of.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        beta_g: decay of the average of gradients, in [0, 1); the number 0 leaves it out.
        beta_lr: decay of the factors, in (0, 1]; 1 sums up.
        beta_graft: decay of the second moment whose step's norm is taken, in [0, 1).
        weight_decay: share taken off matrices, times lr, >= 0.
        block_size: longest side of a block, >= 1.
        inv_root_freq: steps between new roots, >= 1.
        start_prec_step: first step with roots; before it the step is Adam's; below 1 counts as 1.
        inv_root_method: how roots are computed, see ``gx.matrix_root``.
        eps_inv_root: ridge under the factors, >= 0.
        eps_mode: "absolute", or "relative" to the norm of the factor.
        eps_grafting: added to the root of the second moment, >= 0.
        mu: momentum of the direction, in [0, 1); the number 0 leaves it out.
        use_nesterov: look one step ahead in the momentum.
        nesterov_form: "p_plus_mu_m", or M + mu P, which one published class has.
        correct_bias: correct averages for having started at zero.
        one_dim: what leaves with one dimension get: AdamW without decay, or factors.
        adamw_b1: decay of its first moment, in [0, 1).
        adamw_b2: decay of its second moment, in [0, 1).
        adamw_eps: added to its root, >= 0.
        staggered: refresh every leaf at a phase of its own, which spreads the cost.
        packed: keep the upper triangles of factors and roots alone: 16 bytes a parameter for
            square blocks, not 24.
        codec: how averages and momentum are kept between steps, such as ``gx.codecs.dynamic8()``.
        counts: "leaf" counts the gradients of every leaf, for bias corrections and refreshes;
            "group" the steps, also those in which a leaf had no gradient, as published.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2602.02016.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.dash(0.1, block_size=2), {"w": torch.zeros(2, 2)}
    >>> u, _ = tx.update({"w": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> u["w"].round(decimals=3) + 0.0
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])
    """
    for name, given, known in (
        ("one_dim", one_dim, ("adamw", "shampoo")),
        ("nesterov_form", nesterov_form, NESTEROV_FORMS),
        ("counts", counts, COUNTS),
    ):
        if given not in known:
            raise ValueError(f"dash: {name} must be one of {known}, got {given!r}")
    if not 0 < beta_lr <= 1:
        raise ValueError(f"dash: beta_lr must be in (0, 1], got {beta_lr}")
    check_value("dash", "beta_graft", beta_graft, "(0, 1)")
    check_value("dash", "mu", mu, "[0, 1)")
    if isinstance(inv_root_method, newton_db) and inv_root_method.matmul_dtype is not None:
        logger.warning(
            "dash: newton_db with products in %s is not stable; take coupled_newton",
            inv_root_method.matmul_dtype,
        )
    if getattr(inv_root_method, "rule", None) == "abs" and eps_inv_root == 0:
        raise ValueError("dash: eps_inv_root must be > 0 with the rule 'abs', got 0")
    start = max(1, start_prec_step)
    cut = blocks(block_size, view="matrix")
    factors = kronecker_factors(beta_lr, one_dim=one_dim == "shampoo", packed=packed)
    direction = scale_by_inverse_roots(
        *(factors, inv_root_method, eps_inv_root, eps_mode, inv_root_freq, start, staggered),
        cut=cut,
        source="gradients",
    )
    averaged = not is_off(beta_g)
    magnitude = quotient(
        undo_bias(beta_g) if averaged and correct_bias else identity(),
        on_gradients(root_second_moment(beta_graft, eps_grafting, correct_bias, codec=codec)),
    )
    members: list[GradientTransformation] = []
    if averaged:
        members.append(ema(beta_g, debias=False, codec=codec))
    members.append(grafted(direction, magnitude, cut, start=start))
    if not is_off(mu):
        if use_nesterov and nesterov_form == "mu_p_plus_m":
            members.append(parallel(trace(mu, codec=codec), scale(mu)))
        else:
            members.append(trace(mu, nesterov=use_nesterov, codec=codec))
    tx = as_gradients(*members)
    if one_dim == "adamw":
        adam = scale_by_adam(adamw_b1, adamw_b2, adamw_eps, mu_codec=codec, nu_codec=codec)
        tx = partition({"matrix": tx, "vector": adam}, by_dimensions())  # type: ignore[assignment]
    if counts == "group":
        tx = count_together(tx)  # type: ignore[assignment]
    return with_learning_rate(chain(tx, add_decayed_weights(weight_decay, is_matrix)), lr)
