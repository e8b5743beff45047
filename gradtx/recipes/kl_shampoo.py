"""KL-Shampoo, KL-SOAP and REKLS: factors of the nearest covariance in the KL divergence."""

from __future__ import annotations

from typing import Literal

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.functions import identity
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients, on_gradients, quotient
from ..core.select import partition
from ..precondition import blocks, eigenbasis, in_eigenbasis, kronecker_factors, spectrum
from ..transforms import (
    add_decayed_weights,
    decay_after,
    ema,
    first_moment,
    keep_norm,
    normalize_by_block_rms,
    root_second_moment,
    scale_by_learning_rate,
    skip_first,
    undo_bias,
)
from ._learning_rate import with_learning_rate
from ._nonfinite import NonFinite, around, inside
from .shampoo import by_dimensions
from .soap import factor_decay


def kl_shampoo(
    lr: Hyper | None = 1e-4,
    b1: Hyper = 0.9,
    shampoo_beta: float = 0.98,
    eps: float = 1e-8,
    weight_decay: Hyper = 0.01,
    precondition_frequency: int = 10,
    init_factor: float = 0.1,
    clamp: float = 4000.0,
    bound: Literal["side", "fixed", "relative"] = "side",
    damping: bool = False,
    normalize_grads: bool = False,
    max_precond_dim: int | None = None,
    vector_b2: Hyper = 0.98,
    vector_eps: Hyper = 1e-8,
    staggered: bool = False,
    packed: bool = False,
    codec: Codec | torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """Shampoo whose factors fit the covariance jointly; no grafting, no second moment an entry.

    L <- b L + (1 - b) G R^-1 G^T / n and R <- b R + (1 - b) G^T L^-1 G / m, with the inverses of
    before; their eigenvalues are followed at every step in bases that are refreshed every so many;
    m <- b1 m + (1 - b1) G; p <- p - lr L^(-1/2) m R^(-1/2); p <- (1 - lr wd) p. The first call
    finds the bases and changes no parameter. Inverse roots are bounded absolutely, whatever the
    scale of the gradients, unless ``bound`` is "relative". Leaves with one dimension get Adam.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it and the decay out.
        b1: decay of the average of gradients, in [0, 1).
        shampoo_beta: decay b of factors and eigenvalues, in [0, 1).
        eps: the product E of the inverse roots counts as E / (1 + eps E), >= 0.
        weight_decay: share of the parameter taken off after the step, times lr, >= 0.
        precondition_frequency: steps between refreshes of the bases, >= 1.
        init_factor: first eigenvalues, > 0.
        clamp: largest inverse root of an eigenvalue, >= 10.
        bound: how it depends on the side, see ``gx.spectrum``.
        damping: add eps times the mean inverse eigenvalues of the other sides to eigenvalues.
        normalize_grads: bring every leaf's step to root mean square one.
        max_precond_dim: longest side that has a factor, >= 1; None for any.
        vector_b2: decay of the second moments of leaves with one dimension, in [0, 1).
        vector_eps: added to their roots, >= 0.
        staggered: refresh every leaf at a phase of its own, which spreads the cost.
        packed: keep the upper triangles of the factors alone.
        codec: how moments are kept between steps.
        nonfinite: "raise" for a matrix whose gradient is not finite, "skip" such leaves, or
            "ignore" that, which spoils factors for good.

    Raises:
        ValueError: a value outside its range; from ``update``, a gradient that is not finite.

    Source: arXiv 2509.03378.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.kl_shampoo(0.1, weight_decay=0.0), {"w": torch.zeros(2, 2)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.eye(2)}, state, params)
    >>> updates["w"].round(decimals=3) + 0.0
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])
    """
    track = spectrum(
        init=init_factor,
        clamp=clamp,
        bound=bound,
        damping=eps if damping else 0.0,
        precondition=True,
        eps=eps,
    )
    direction = in_eigenbasis(
        first_moment(b1, codec),
        _factors(shampoo_beta, max_precond_dim, packed),
        eigenbasis(refresh="qr", every=precondition_frequency, staggered=staggered),
        track,
        blocks(view="squeeze"),
        nonfinite=inside("kl_shampoo", nonfinite),
    )
    tx = _with_vectors(direction, b1, vector_b2, vector_eps, codec)
    return around(_finished(tx, lr, weight_decay, normalize_grads), nonfinite)


def kl_soap(
    lr: Hyper | None = 1e-4,
    b1: Hyper = 0.9,
    b2: Hyper = 0.98,
    shampoo_beta: float | None = None,
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0.01,
    precondition_frequency: int = 10,
    init_factor: float = 0.1,
    clamp: float = 4000.0,
    bound: Literal["side", "fixed", "relative"] = "side",
    damping: float = 0.0,
    normalize_grads: bool = False,
    max_precond_dim: int | None = None,
    staggered: bool = False,
    packed: bool = False,
    inner: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
    matmul_dtype: torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """Adam in the eigenbasis of KL-Shampoo's factors.

    The bases are those of ``gx.kl_shampoo``; g' = Q_L^T G Q_R; m <- b1 m + (1 - b1) g',
    v <- b2 v + (1 - b2) g'^2, neither corrected for having started at zero;
    p <- p - lr Q_L (m / (sqrt(v) + eps)) Q_R^T; p <- (1 - lr wd) p. The first call finds the bases
    and changes no parameter. Leaves with one dimension get Adam.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it and the decay out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        shampoo_beta: decay of factors and eigenvalues, in [0, 1); None for b2, then a number.
        eps: added to the root of the second moment, >= 0.
        weight_decay: share of the parameter taken off after the step, times lr, >= 0.
        precondition_frequency: steps between refreshes of the bases, >= 1.
        init_factor: first eigenvalues, > 0.
        clamp: largest inverse root of an eigenvalue, >= 10.
        bound: how it depends on the side, see ``gx.spectrum``.
        damping: see ``gx.spectrum``, >= 0.
        normalize_grads: bring every leaf's step to root mean square one.
        max_precond_dim: longest side that has a factor, >= 1; None for any.
        staggered: refresh every leaf at a phase of its own, which spreads the cost.
        packed: keep the upper triangles of the factors alone.
        inner: what runs in the basis in place of Adam.
        codec: how moments are kept between steps, such as ``gx.codecs.dynamic8()``.
        matmul_dtype: torch.bfloat16 for the products with gradients and directions; bases, factors
            and moments stay in float32.
        nonfinite: "raise" for a matrix whose gradient is not finite, "skip" such leaves, or
            "ignore" that, which spoils factors for good.

    Raises:
        ValueError: a value outside its range; from ``update``, a gradient that is not finite.

    Source: arXiv 2509.03378.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.kl_soap(0.1, b1=0.0, b2=0.0, shampoo_beta=0.9), {"w": torch.zeros(2, 2)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.eye(2)}, state, params)
    >>> updates["w"].round(decimals=3) + 0.0
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])
    """
    beta = factor_decay("kl_soap", shampoo_beta, b2)
    direction = in_eigenbasis(
        inner or quotient(first_moment(b1, codec), root_second_moment(b2, eps, False, codec=codec)),
        _factors(beta, max_precond_dim, packed, matmul_dtype=matmul_dtype),
        eigenbasis(refresh="qr", every=precondition_frequency, staggered=staggered),
        spectrum(init=init_factor, clamp=clamp, bound=bound, damping=damping),
        blocks(view="squeeze"),
        matmul_dtype=matmul_dtype,
        nonfinite=inside("kl_soap", nonfinite),
    )
    tx = _with_vectors(direction, b1, b2, eps, codec)
    return around(_finished(tx, lr, weight_decay, normalize_grads), nonfinite)


def kl_soap_h(
    lr: Hyper = 0.018,
    b1: Hyper = 0.95,
    b2: Hyper = 0.9,
    shampoo_beta: float = 0.9,
    eps: Hyper = 1e-8,
    precondition_frequency: int = 1,
    init_factor: float = 0.1,
    clamp: float = 4000.0,
    max_precond_dim: int | None = None,
    packed: bool = False,
    codec: Codec | torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """KL-SOAP on the sphere of the parameter's own norm, without weight decay.

    As ``gx.kl_soap`` with u its direction, but that first factors count in full and inverse roots
    are bounded by ``clamp`` on every side; q = p - lr |p| u / |u|; p <- q |p| / |q|. The first call
    finds the bases and changes no parameter.

    Args:
        lr: angle of a step, >= 0, or a schedule.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        shampoo_beta: decay of factors and eigenvalues, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        precondition_frequency: steps between refreshes of the bases, >= 1.
        init_factor: first eigenvalues, > 0.
        clamp: largest inverse root of an eigenvalue, >= 10.
        max_precond_dim: longest side that has a factor, >= 1; None for any.
        packed: keep the upper triangles of the factors alone.
        codec: how moments are kept between steps.
        nonfinite: "raise" for a matrix whose gradient is not finite, "skip" such leaves, or
            "ignore" that, which spoils factors for good.

    Raises:
        ValueError: a value outside its range; from ``update``, a gradient that is not finite.

    Source: modded-nanogpt (2026), arXiv 2509.03378.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.kl_soap_h(0.1), {"w": torch.eye(2)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.ones(2, 2)}, state, params)
    >>> (params["w"] + updates["w"]).norm().round(decimals=3)
    tensor(1.4140)
    """
    factors = kronecker_factors(
        shampoo_beta, form="kl", whole_first=True, max_dim=max_precond_dim, packed=packed
    )
    direction = in_eigenbasis(
        quotient(first_moment(b1, codec), root_second_moment(b2, eps, False, codec=codec)),
        factors,
        eigenbasis(refresh="qr", every=precondition_frequency),
        spectrum(init=init_factor, clamp=clamp, bound="fixed", floor=1e-30),
        blocks(view="squeeze"),
        nonfinite=inside("kl_soap_h", nonfinite),
    )
    tx = chain(_with_vectors(direction, b1, b2, eps, codec), keep_norm(lr), skip_first())
    return around(tx, nonfinite)


def rekls(
    lr: Hyper | None = 1e-3,
    b1: Hyper = 0.9,
    b2: Hyper = 0.95,
    shampoo_beta: float = 0.95,
    eps: float = 1e-8,
    weight_decay: Hyper = 0.01,
    init_factor: float = 0.1,
    refresh: Literal["eigh", "qr"] = "eigh",
    precondition_frequency: int = 1,
    max_precond_dim: int | None = None,
    packed: bool = False,
    codec: Codec | torch.dtype | None = None,
    nonfinite: NonFinite = "raise",
) -> Chain:
    """KL-SOAP in the basis of the current factors, without a skipped call.

    The factors of ``gx.kl_shampoo``, corrected for having started at zero and with eigenvalues
    max(diag(Q^T L Q), eps) of the last step; their eigenvectors are found anew before every update,
    which is Adam's of the rotated average and gradient, with bias correction. Leaves with one
    dimension get Adam.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        shampoo_beta: decay of the factors, in [0, 1).
        eps: added to the root of the second moment, and smallest eigenvalue, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        init_factor: first eigenvalues, >= 0; the published form has 0, which eps is the bound of.
        refresh: "eigh" finds eigenvectors; "qr" does so at first and then takes one QR
            decomposition at a refresh, sorted.
        precondition_frequency: steps between refreshes of the bases, >= 1.
        max_precond_dim: longest side that has a factor, >= 1; None for any.
        packed: keep the upper triangles of the factors alone.
        codec: how moments are kept between steps.
        nonfinite: "raise" for a matrix whose gradient is not finite, "skip" such leaves, or
            "ignore" that, which spoils factors for good.

    Raises:
        ValueError: a value outside its range; from ``update``, a gradient that is not finite.

    Source: Emerging-Optimizers (NVIDIA 2025), arXiv 2509.03378.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.rekls(0.1, weight_decay=0.0), {"w": torch.zeros(2, 2)}
    >>> g = {"w": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}
    >>> tx.update(g, tx.init(params), params)[0]["w"].round(decimals=3) + 0.0
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])
    """
    if refresh not in ("eigh", "qr"):
        raise ValueError(f"rekls: refresh must be 'eigh' or 'qr', got {refresh!r}")
    adam = quotient(identity(), on_gradients(root_second_moment(b2, eps, codec=codec)))
    direction = in_eigenbasis(
        adam,
        _factors(shampoo_beta, max_precond_dim, packed, True),
        eigenbasis(
            "eigh",
            "eigh" if refresh == "eigh" else "qr_sorted",
            precondition_frequency,
            "before",
            start=1,
        ),
        spectrum("factors", init_factor, floor=eps),
        blocks(view="squeeze"),
        source="gradients",
        nonfinite=inside("rekls", nonfinite),
    )
    tx = chain(as_gradients(ema(b1, codec=codec), direction), add_decayed_weights(weight_decay))
    return around(with_learning_rate(tx, lr), nonfinite)


def _factors(
    b: float,
    max_dim: int | None,
    packed: bool,
    bias_correction: bool = False,
    matmul_dtype: torch.dtype | None = None,
) -> kronecker_factors:
    return kronecker_factors(
        *(b, "kl", bias_correction),
        max_dim=max_dim,
        packed=packed,
        matmul_dtype=matmul_dtype,
    )


def _with_vectors(
    matrices: in_eigenbasis,
    b1: Hyper,
    b2: Hyper,
    eps: Hyper,
    codec: Codec | torch.dtype | None,
) -> GradientTransformation:
    """Leaves with one dimension by Adam, in which their first gradients have no part either."""
    adam = quotient(
        chain(first_moment(b1, codec), undo_bias(b1)), root_second_moment(b2, eps, codec=codec)
    )
    none = kronecker_factors(max_dim=1)
    vectors = in_eigenbasis(adam, none)
    return partition({"matrix": matrices, "vector": vectors}, by_dimensions())


def _finished(
    tx: GradientTransformation, lr: Hyper | None, weight_decay: Hyper, normalize: bool
) -> Chain:
    members = [tx, *([normalize_by_block_rms()] if normalize else [])]
    if lr is not None:
        members += [scale_by_learning_rate(lr), decay_after(lr, weight_decay)]
    return chain(*members, skip_first())
