"""Muon and NorMuon: orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.hyper import Hyper
from ..core.protocol import GradientTransformation
from ..core.select import Labels
from ..precondition import normalize_neurons, orthogonalize, scale_by_shape
from ..transforms import as_matrices, ema, split_rows, trace
from ._matrix import matrices_and_others

CONVOLUTIONS = ("flatten", "batch", "kernel")


def muon(
    lr: Hyper | None = 1e-3,
    momentum: Hyper = 0.95,
    weight_decay: Hyper = 0.1,
    nesterov: bool = True,
    average: bool = True,
    coefficients: str | Sequence[Any] = "quintic5",
    ns_steps: int | None = 5,
    ns_scaling: str | None = "clamp",
    ns_eps: float = 1e-7,
    ns_dtype: torch.dtype | None = None,
    scale: str = "original",
    convolutions: Literal["flatten", "batch", "kernel"] = "flatten",
    split_sizes: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    cautious_decay: bool = False,
    matrices: Labels | None = None,
    other: GradientTransformation | None = None,
    codec: Codec | torch.dtype | None = None,
    neuron_b2: Hyper | None = None,
) -> Chain:
    """Momentum whose matrices are replaced by their orthogonal factors.

    m <- mu m + (1 - mu) g; u = mu m + (1 - mu) g with Nesterov, else m; O = orthogonal factor of u;
    p <- p - lr (s O + weight_decay p), s from the shape. The defaults are those of torch.optim.Muon
    except for the dtype of the iteration. Keller Jordan's form is ns_scaling="add", lr=0.02,
    weight_decay=0 and convolutions="kernel"; Moonlight's scales by "match_rms_adamw".

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: mu, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        nesterov: look one step ahead.
        average: False for heavy-ball momentum m <- mu m + g, of the same direction.
        coefficients: of the iteration, see ``gx.orthogonalize``; "svd" is exact.
        ns_steps: iterations in 1..99, None for as many as there are coefficients.
        ns_scaling: "add", "clamp" or "rows"; None for what suits the coefficients.
        ns_eps: of the scaling, > 0.
        ns_dtype: dtype of the iteration; None for at least float32, on a GPU bfloat16 for bfloat16
            parameters. torch.optim.Muon always takes torch.bfloat16, which is up to twice as fast.
        scale: "original", "match_rms_adamw", "spectral_norm" or "none", see ``gx.scale_by_shape``.
        convolutions: a leaf of more than two dimensions is one matrix ("flatten"), a batch of
            matrices ("batch"), or one matrix with the scale of its last two dimensions, a batch if
            it has three ("kernel").
        split_sizes: blocks of rows that are matrices of their own.
        num_heads: that many blocks of equal size instead.
        cautious_decay: decay only where the update shrinks the parameter too.
        matrices: which leaves are matrices, a predicate on ``LeafInfo`` or a tree of booleans;
            default those with at least two dimensions.
        other: what the other leaves get; default AdamW with lr 3e-4, betas 0.9 and 0.95.
        codec: how the momentum is kept; default at least float32.
        neuron_b2: normalise rows as ``normuon`` does, with this decay.

    Raises:
        ValueError: a value outside its range, or a vector among the matrices (names the leaf).

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

    >>> import torch, gradtx as gx
    >>> tx = gx.muon(0.1, weight_decay=0.0, coefficients="svd")
    >>> params = {"w": torch.zeros(2, 2)}
    >>> tx.update({"w": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)[0]["w"]
    tensor([[-0.1000, -0.0000],
            [-0.0000, -0.1000]])
    """
    if convolutions not in CONVOLUTIONS:
        raise ValueError(f"muon: convolutions must be one of {CONVOLUTIONS}, got {convolutions!r}")
    steps = None if coefficients == "svd" else ns_steps
    sized, whole = scale_by_shape(scale), convolutions == "kernel"
    at_once = "none" if whole or neuron_b2 is not None else scale
    directions: GradientTransformation = chain(
        orthogonalize(coefficients, steps, ns_scaling, None, ns_eps, ns_dtype, scale=at_once),
        *([] if neuron_b2 is None else [normalize_neurons(neuron_b2)]),
        *([] if neuron_b2 is None or whole else [sized]),
    )
    if split_sizes is not None or num_heads is not None:
        directions = split_rows(directions, split_sizes, num_heads)
    if convolutions != "batch":
        directions = as_matrices(directions, 3 if convolutions == "flatten" else 4)
    moved = (
        ema(momentum, debias=False, codec=codec, nesterov=nesterov)
        if average
        else trace(momentum, nesterov=nesterov, codec=codec)
    )
    return matrices_and_others(
        *(moved, directions, *([sized] if whole else [])),
        lr=lr,
        weight_decay=weight_decay,
        matrices=matrices,
        other=other,
        cautious=cautious_decay,
    )


def normuon(
    lr: Hyper | None = 0.01,
    momentum: Hyper = 0.95,
    b2: Hyper = 0.95,
    weight_decay: Hyper = 0.01,
    nesterov: bool = False,
    coefficients: str | Sequence[Any] = "polar_express5",
    ns_steps: int | None = 5,
    ns_eps: float = 1e-8,
    ns_dtype: torch.dtype | None = None,
    scale: str = "spectral_norm",
    split_sizes: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    cautious_decay: bool = False,
    matrices: Labels | None = None,
    other: GradientTransformation | None = None,
) -> Chain:
    """Muon whose rows, one neuron each, get steps of the same size.

    m <- mu m + g; O = orthogonal factor of m; v <- b2 v + (1 - b2) mean_j O_ij^2;
    O' = O / sqrt(v), scaled to the norm of O; p <- p - lr (s O' + weight_decay p).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        momentum: mu, in [0, 1).
        b2: decay of the rows' second moments, in [0, 1).
        weight_decay: multiple of the parameter added to the update, >= 0.
        nesterov: look one step ahead.
        coefficients: of the iteration, see ``gx.orthogonalize``; "svd" is exact.
        ns_steps: iterations in 1..99, None for as many as there are coefficients.
        ns_eps: of the scaling, > 0.
        ns_dtype: dtype of the iteration, see ``gx.orthogonalize``.
        scale: see ``gx.scale_by_shape``.
        split_sizes: blocks of rows that are matrices of their own.
        num_heads: that many blocks of equal size instead.
        cautious_decay: decay only where the update shrinks the parameter too.
        matrices: which leaves are matrices, a predicate on ``LeafInfo`` or a tree of booleans;
            default those with at least two dimensions.
        other: what the other leaves get; default AdamW with lr 3e-4, betas 0.9 and 0.95.

    Raises:
        ValueError: a value outside its range, or a vector among the matrices (names the leaf).

    Source: arXiv 2510.05491.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.normuon(0.1, weight_decay=0.0), {"w": torch.zeros(2, 2)}
    >>> updates, _ = tx.update({"w": torch.eye(2)}, tx.init(params), params)
    >>> bool(updates["w"][0, 0] == updates["w"][1, 1])
    True
    """
    return muon(
        lr,
        momentum,
        weight_decay,
        nesterov,
        average=False,
        coefficients=coefficients,
        ns_steps=ns_steps,
        ns_scaling=None,
        ns_eps=ns_eps,
        ns_dtype=ns_dtype,
        scale=scale,
        split_sizes=split_sizes,
        num_heads=num_heads,
        cautious_decay=cautious_decay,
        matrices=matrices,
        other=other,
        neuron_b2=b2,
    )
