"""Parameter groups of a module: matrices, and what must not be treated as one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .options import COMMON, check_unknown
from .recipe_optimizer import RecipeOptimizer

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def matrix_groups(
    model: nn.Module,
    matrices: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
    heads: Iterable[str] | None = None,
) -> list[dict[str, Any]]:
    """Groups for optimizers of matrices such as ``gx.optim.Muon``.

    Weights with at least two dimensions are matrices, but for embeddings and heads, which map to
    classes or tokens. A head is a linear layer with as many outputs as the largest embedding has
    entries, and without one the last linear layer. Shared weights count as embeddings.

    Args:
        model: the module.
        matrices: options of the group of matrices.
        others: options of the groups of others; default ``lr=3e-4, weight_decay=0.0``.
        heads: names of the modules that are heads instead, such as ``["lm_head"]``; () for none.

    Returns:
        Groups with the keys ``params`` (named parameters), ``kind`` ("matrix", "embedding", "head"
        or "vector"), ``matrix`` (True for the first) and the options; empty ones are left out.

    Raises:
        ValueError: a head that the model does not have, or an option that nothing is called.
        TypeError: no module.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    >>> groups = gx.matrix_groups(model, {"lr": 0.02})
    >>> [(g["kind"], [name for name, _ in g["params"]]) for g in groups]
    [('matrix', ['0.weight']), ('head', ['1.weight']), ('vector', ['0.bias', '1.bias'])]
    >>> opt = gx.optim.Muon(groups)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            "matrix_groups: needs the module, to tell embeddings and heads from other matrices, "
            f"got a {type(model).__name__}; write matrix_groups(model)"
        )
    for options in (matrices or {}, others or {}):
        check_unknown("matrix_groups", options, options_known())
    modules = dict(model.named_modules())
    embedded = {id(m.weight) for m in modules.values() if isinstance(m, _EMBEDDINGS)}
    head_weights = _heads(modules, heads)
    kinds: dict[str, list[tuple[str, nn.Parameter]]] = {
        kind: [] for kind in ("matrix", "embedding", "head", "vector")
    }
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim < 2:
            kind = "vector"
        elif id(p) in embedded:
            kind = "embedding"
        else:
            kind = "head" if id(p) in head_weights else "matrix"
        kinds[kind].append((name, p))
    rest = {"lr": 3e-4, "weight_decay": 0.0, **(others or {})}
    return [
        {
            "params": params,
            "kind": kind,
            "matrix": kind == "matrix",
            **((matrices or {}) if kind == "matrix" else rest),
        }
        for kind, params in kinds.items()
        if params
    ]


@functools.cache
def options_known() -> tuple[str, ...]:
    """The options of all classes that tell matrices from others."""
    kinds: list[type[RecipeOptimizer]] = [RecipeOptimizer]
    known = dict.fromkeys(COMMON)
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith(__package__ or ""):
            known |= dict.fromkeys(kind.signature)
    return tuple(known)


def _heads(modules: Mapping[str, nn.Module], names: Iterable[str] | None) -> set[int]:
    """The weights of heads, by id."""
    if names is not None:
        found = set()
        for name in names:
            if name not in modules:
                raise ValueError(f"matrix_groups: the model has no module {name!r}")
            found |= {id(p) for p in modules[name].parameters()}
        return found
    linear = [m for m in modules.values() if isinstance(m, nn.Linear)]
    entries = [m.num_embeddings for m in modules.values() if isinstance(m, _EMBEDDINGS)]
    wide = [m for m in linear if entries and m.out_features == max(entries)]
    return {id(m.weight) for m in wide or linear[-1:]}
