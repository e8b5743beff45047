"""Adapters as pure functions of weights and factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..core import tree
from ..core.random import fold_in, make_key, uniform
from ..core.tree import PyTree, accumulator_dtype
from .config import AdapterConfig, Scaling, check_rank, scale

Targets: TypeAlias = "Callable[[str], bool] | Sequence[str] | str | None"


class Adapter(NamedTuple):
    """The factors of one layer: ``A`` (in, r) and ``B`` (r, out)."""

    A: Tensor
    B: Tensor


def matryoshka_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, P: Tensor
) -> Tensor:
    """A linear layer with an adapter in training: ``x W^T + b + ((x A) P) B``.

    P multiplies A where there are at least as many rows in x as A has, else x A; both are float32
    products that are rounded once.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        A: (in, r).
        B: (r, out).
        P: (r,), see ``adapter_diagonal``.

    Returns:
        (..., out).

    Raises:
        ValueError: factors that do not fit the weight, or are not floating.

    Source: arXiv 2605.07850.

    >>> import torch, gradtx as gx
    >>> x, W, A, B = torch.ones(1, 2), torch.ones(1, 2), torch.ones(2, 2), torch.ones(2, 1)
    >>> gx.adapters.matryoshka_linear(x, W, None, A, B, torch.tensor([2.0, 1.0]))
    tensor([[8.]])
    """
    check_factors("matryoshka_linear", "", weight, Adapter(A, B), None)
    if P.shape != (A.shape[1],):
        raise ValueError(
            f"matryoshka_linear: P has shape {tuple(P.shape)}, A of shape {tuple(A.shape)} needs "
            f"({A.shape[1]},)"
        )
    return add_adapter(F.linear(x, weight, bias), x, A, B, P)


def add_adapter(base: Tensor, x: Tensor, A: Tensor, B: Tensor, P: Tensor | float) -> Tensor:
    """``base + ((x A) P) B``; a number P costs nothing."""
    rows = x.reshape(-1, x.shape[-1])  # (tokens, in)
    out = base.reshape(-1, base.shape[-1])  # (tokens, out)
    if not isinstance(P, Tensor):
        return torch.addmm(out, rows @ A, B, alpha=P).reshape(base.shape)
    if rows.shape[0] < A.shape[0]:
        inner = rows @ A  # (tokens, r)
        inner = (inner * P).to(inner.dtype)
    else:
        inner = rows @ (A * P).to(A.dtype)
    return torch.addmm(out, inner, B).reshape(base.shape)


def slice_adapter(
    A: Tensor, B: Tensor, rank: int, scaling: Scaling = "sqrt", alpha: float = 1.0
) -> Adapter:
    """The adapter at a lower rank, to be added as it is: ``A[:, :b]`` and ``alpha s(b) B[:b]``.

    Args:
        A: (in, r).
        B: (r, out).
        rank: b, in [1, r], trained or not.
        scaling: s, see ``AdapterConfig``; not the one of rank r.
        alpha: multiplies s.

    Raises:
        ValueError: a rank outside [1, r], an unknown scaling, factors that do not fit.

    Source: arXiv 2605.07850.

    >>> import torch, gradtx as gx
    >>> gx.adapters.slice_adapter(torch.ones(1, 4), torch.ones(4, 1), 2, "rank")
    Adapter(A=tensor([[1., 1.]]), B=tensor([[0.5000],
            [0.5000]]))
    """
    check_pair("slice_adapter", "", A, B)
    check_rank("slice_adapter", "rank", rank, A.shape[1])
    return Adapter(A[:, :rank], alpha * scale(rank, scaling) * B[:rank])


def merge(
    weight: Tensor, A: Tensor, B: Tensor, rank: int, scaling: Scaling = "sqrt", alpha: float = 1.0
) -> Tensor:
    """The weight of a plain layer that does what the adapted one does at a rank.

    W + alpha s(b) (A[:, :b] B[:b])^T, in at least float32, rounded once to the weight's dtype.

    Args:
        weight: (out, in).
        A: (in, r).
        B: (r, out).
        rank: b, in [1, r].
        scaling: s, see ``AdapterConfig``.
        alpha: multiplies s.

    Raises:
        ValueError: a rank outside [1, r], an unknown scaling, factors that do not fit.

    Source: arXiv 2605.07850.

    >>> import torch, gradtx as gx
    >>> gx.adapters.merge(torch.ones(1, 1), torch.ones(1, 4), torch.ones(4, 1), 4, "rank")
    tensor([[2.]])
    """
    check_factors("merge", "", weight, Adapter(A, B), None)
    return _add_product(weight, slice_adapter(A, B, rank, scaling, alpha), None)


def apply_adapters(
    frozen: PyTree, adapters: Mapping[str, Adapter], config: AdapterConfig, rank: int | None = None
) -> PyTree:
    """The parameters with adapters added, for ``torch.func.functional_call``.

    Only the tree ``adapters`` is trained: give it to ``init`` and ``update`` of a chain, and there
    is no state for frozen leaves. Weights in half precision are rounded after the addition; the
    layers of ``wrap`` add activations instead.

    Args:
        frozen: parameters, such as ``dict(model.named_parameters())``.
        adapters: by layer, which is a leaf's dotted name without ".weight"; see ``init_adapters``.
        config: what they have in common.
        rank: None for what is trained: W + (A P B)^T. A number for the adapters at that rank, which
            for "dylora" is also the rank that was drawn.

    Returns:
        A tree like ``frozen``.

    Raises:
        ValueError: a layer that is not there, factors that do not fit, a rank outside [1, r], or
            "dylora" without a rank.

    Source: arXiv 2605.07850.

    >>> import torch, gradtx as gx
    >>> model, config = torch.nn.Linear(2, 1), gx.adapters.AdapterConfig(rank=1)
    >>> frozen = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}
    >>> adapters = {"weight": gx.adapters.Adapter(torch.ones(2, 1), torch.ones(1, 1))}
    >>> params = gx.adapters.apply_adapters(frozen, adapters, config)
    >>> torch.func.functional_call(model, params, torch.ones(1, 2)).tolist()
    [[4.0]]
    """
    leaves, spec = tree.flatten(frozen)
    names = [layer_of(name) for name in tree.names(spec)]
    missing = [layer for layer in adapters if layer not in names]
    if missing:
        raise ValueError(f"apply_adapters: no parameter belongs to the layers {missing}")
    if rank is not None:
        config.check("apply_adapters", rank)
    elif config.kind == "dylora":
        raise ValueError("apply_adapters: kind 'dylora' needs rank, the one that was drawn")
    out = []
    for name, leaf in zip(names, leaves, strict=True):
        if leaf is None or name not in adapters:
            out.append(leaf)
            continue
        adapter = Adapter(*adapters[name])
        check_factors("apply_adapters", name, leaf, adapter, config.rank)
        if rank is None:
            out.append(_add_product(leaf, adapter, config.diagonal(leaf.device)))
        else:
            cut = slice_adapter(*adapter, rank, config.scaling, config.alpha)
            out.append(_add_product(leaf, cut, None))
    return spec.unflatten(out)


def init_adapters(
    params: PyTree, config: AdapterConfig, targets: Targets = None
) -> dict[str, Adapter]:
    """New adapters for the matrices of a tree: A uniform, B zero, in their dtype and device.

    Args:
        params: parameters; matrices (out, in) among them get adapters.
        config: rank, start and seed. Every layer has numbers of its own.
        targets: which layers: a predicate of the dotted name, one or several last components of it,
            or None for all matrices. A layer is a leaf's name without ".weight".

    Returns:
        Adapters by layer.

    Raises:
        ValueError: no matrix is meant.

    >>> import torch, gradtx as gx
    >>> params = {"mlp.up.weight": torch.zeros(4, 3), "mlp.down.weight": torch.zeros(3, 4)}
    >>> made = gx.adapters.init_adapters(params, gx.adapters.AdapterConfig(rank=2), "up")
    >>> {layer: (a.A.shape, a.B.shape) for layer, a in made.items()}
    {'mlp.up': (torch.Size([3, 2]), torch.Size([2, 4]))}
    """
    chosen = selector(targets)
    leaves, spec = tree.flatten(params)
    matrices = {
        layer_of(name): leaf
        for name, leaf in zip(tree.names(spec), leaves, strict=True)
        if isinstance(leaf, Tensor) and leaf.ndim == 2 and leaf.is_floating_point()
    }
    found = {n: init_adapter(n, w, config) for n, w in matrices.items() if chosen(n)}
    if not found:
        raise ValueError(f"init_adapters: targets match none of the matrices {list(matrices)}")
    return found


def init_adapter(layer: str, weight: Tensor, config: AdapterConfig) -> Adapter:
    """A new adapter of one layer, in the dtype and on the device of its weight."""
    out, into = weight.shape
    bound = 1.0 / math.sqrt(config.rank if config.init_A == "reference" else into)
    key = fold_in(make_key(config.seed, device=weight.device), layer)
    wide = accumulator_dtype(weight.dtype)
    first = bound * (2.0 * uniform(key, (into, config.rank), wide) - 1.0)
    return Adapter(first.to(weight.dtype), weight.new_zeros((config.rank, out)))


def selector(targets: Targets) -> Callable[[str], bool]:
    """Targets as a predicate of layer names."""
    if targets is None:
        return lambda name: True
    if callable(targets):
        return targets
    last = {targets} if isinstance(targets, str) else set(targets)
    return lambda name: name.rpartition(".")[2] in last


def layer_of(name: str) -> str:
    """The layer of a weight."""
    return name.removesuffix(".weight")


def check_pair(who: str, layer: str, A: Tensor, B: Tensor) -> None:
    """Raise unless both factors are floating matrices of one rank.

    Raises:
        ValueError: names the layer and both shapes.
    """
    where = f" of {layer!r}" if layer else ""
    if not A.is_floating_point() or not B.is_floating_point():
        raise ValueError(f"{who}: A and B{where} must be floating, got {A.dtype} and {B.dtype}")
    if A.ndim != 2 or B.ndim != 2 or A.shape[1] != B.shape[0]:
        raise ValueError(
            f"{who}: A and B{where} must have shapes (in, r) and (r, out), got {tuple(A.shape)} "
            f"and {tuple(B.shape)}"
        )


def check_factors(who: str, layer: str, weight: Tensor, pair: Adapter, rank: int | None) -> None:
    """Raise unless an adapter fits a weight, and has the rank, if there is one.

    Raises:
        ValueError: names the layer and all shapes.
    """
    check_pair(who, layer, *pair)
    where = f" of {layer!r}" if layer else ""
    into, out = pair.A.shape[0], pair.B.shape[1]
    if tuple(weight.shape) != (out, into):
        raise ValueError(
            f"{who}: A and B{where} have shapes {tuple(pair.A.shape)} and {tuple(pair.B.shape)}, "
            f"the weight {tuple(weight.shape)}; it must be (out, in)"
        )
    if rank is not None and pair.A.shape[1] != rank:
        raise ValueError(f"{who}: A and B{where} have rank {pair.A.shape[1]}, config says {rank}")


def _add_product(weight: Tensor, pair: Adapter, diagonal: Tensor | None) -> Tensor:
    """``weight + (A P B)^T`` in at least float32, in the weight's dtype."""
    wide = torch.promote_types(accumulator_dtype(weight.dtype), accumulator_dtype(pair.A.dtype))
    left = pair.A.to(wide) if diagonal is None else pair.A.to(wide) * diagonal
    return torch.addmm(weight.to(wide), pair.B.mT.to(wide), left.mT).to(weight.dtype)
