"""What is zero in a model, and masks as torch's own pruning tools keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..core import tree
from ..core.tree import PyTree


def report(params: PyTree | nn.Module, masks: PyTree = None) -> str:
    """A table of the share of zeros in every leaf.

    Args:
        params: tree of tensors, or a module, whose parameters are taken.
        masks: a tree like them, as ``masks_of`` gives; adds the share that masks hold at zero.

    >>> import torch, gradtx as gx
    >>> print(gx.sparsity.report({"w": torch.tensor([[1.0, 0.0]]), "b": torch.ones(2)}))
    leaf                                    entries   zeros  masked
    w                                             2   50.0%       -
    b                                             2    0.0%       -
    all                                           4   25.0%       -
    """
    if isinstance(params, nn.Module):
        params = {name: p.detach() for name, p in params.named_parameters()}
    leaves, spec = tree.flatten(params)
    given = [None] * len(leaves)
    if masks is not None:
        given = tree.leaves_like("report", spec, masks, "mask")
    lines = [f"{'leaf':<36}{'entries':>11}{'zeros':>8}{'masked':>8}"]
    total = [0, 0, 0]
    for name, p, m in zip(tree.names(spec), leaves, given, strict=True):
        if p is None:
            continue
        counts = [p.numel(), int((p == 0).sum()), 0 if m is None else int((~m).sum())]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        lines.append(_line(name, counts, m is not None))
    return "\n".join([*lines, _line("all", total, masks is not None)])


def _line(name: str, counts: list[int], has_mask: bool) -> str:
    entries, zeros, gone = counts
    share = gone / max(entries, 1)
    masked = f"{share:.1%}" if has_mask else "-"
    return f"{name:<36}{entries:>11,}{zeros / max(entries, 1):>8.1%}{masked:>8}"


def to_torch_prune(module: nn.Module, masks: Mapping[str, Tensor | None]) -> nn.Module:
    """Put masks into a module as ``torch.nn.utils.prune`` keeps them.

    Parameters become ``weight_orig`` with a buffer ``weight_mask``; ``prune.remove`` makes them
    ordinary ones again, with zeros.

    Args:
        module: changed in place, and returned.
        masks: bool masks by the name of the parameter; None for those that stay.

    Raises:
        ValueError: the module has no parameter of that name and shape.

    >>> import torch, gradtx as gx
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> gx.sparsity.to_torch_prune(layer, {"weight": torch.tensor([[True, False]])})
    Linear(in_features=2, out_features=1, bias=False)
    >>> layer.weight_mask
    tensor([[1., 0.]])
    """
    params = dict(module.named_parameters())
    for name, mask in masks.items():
        if mask is None:
            continue
        if name not in params or params[name].shape != mask.shape:
            raise ValueError(
                f"to_torch_prune: the module has no parameter {name!r} of shape {tuple(mask.shape)}"
            )
    for name, mask in masks.items():
        if mask is not None:
            path, _, last = name.rpartition(".")
            prune.custom_from_mask(module.get_submodule(path), last, mask)
    return module


def to_semi_structured(params: PyTree, masks: PyTree) -> Any:
    """Matrices whose mask keeps at most 2 of 4 as torch's semi-structured tensors.

    Args:
        params: tree of tensors on a device that takes them.
        masks: tree like them; leaves without a mask, and no matrices, stay as they are.

    Raises:
        ValueError: a matrix keeps more than 2 of 4 consecutive entries of a row.
        RuntimeError: what torch raises where the device does not take them.
    """
    leaves, spec = tree.flatten(params)
    given = tree.leaves_like("to_semi_structured", spec, masks, "mask")
    out = []
    for name, p, m in zip(tree.names(spec), leaves, given, strict=True):
        if m is None or p.ndim != 2:
            out.append(p)
            continue
        if p.shape[1] % 4 or bool((m.reshape(-1, 4).sum(dim=1) > 2).any()):
            raise ValueError(
                f"to_semi_structured: leaf {name!r} keeps more than 2 of 4; use nm_support(2, 4)"
            )
        out.append(torch.sparse.to_sparse_semi_structured(torch.where(m, p, 0)))
    return spec.unflatten(out)
