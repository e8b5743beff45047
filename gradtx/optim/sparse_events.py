"""Sparse training between the steps of an optimizer: events, projections, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optree
import torch
from torch import Tensor

from ..core import tree
from ..core.chain import Chain
from ..core.tree import PyTree
from ..sparsity import Acdc, masks_of
from .leaves import Leaves, storage_of, to_nested, with_own_memory
from .optimizer import Optimizer

Event = Callable[[dict[str, Tensor], PyTree], tuple[PyTree, PyTree]]


@torch._disable_dynamo
@torch.no_grad()
def apply_event(optimizer: Optimizer, event: Event) -> None:
    """Change the parameters and the state of an optimizer between two steps.

    Args:
        optimizer: one of ``gx.optim``.
        event: ``event(params, state)`` gives both anew. ``params`` is a dict by parameter name,
            ``state`` that of the chain; groups with chains of their own come one after the other.

    Raises:
        TypeError: no optimizer of ``gx.optim``.
        ValueError: the event gives parameters of other shapes. Nothing has changed.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 1.0]]))
    >>> opt = gx.optim.from_transform(gx.chain(gx.adamw(0.1), gx.keep_params_sparse()), [("w", w)])
    >>> def prune(params, state):
    ...     pruned = gx.sparsity.obs_prune(0.5, score="magnitude", update="none")(
    ...         params, gx.sparsity.masks_of(state, params))
    ...     return pruned.params, gx.sparsity.replace_masks(state, pruned.masks)
    >>> gx.optim.apply_event(opt, prune)
    >>> w.data, gx.optim.masks(opt)
    (tensor([[3., 0.]]), {'w': tensor([[ True, False]])})
    """
    names = _names("apply_event", optimizer)
    changes = []
    for tx, groups in optimizer._buckets():
        own = {names[p]: p.detach() for p in groups}
        state = _with(dict, optimizer._gather(tx, groups, groups, names), own)
        new, state = event(own, state)
        for p in groups:
            x = new[names[p]]
            if x.shape != p.shape:
                raise ValueError(
                    f"apply_event: leaf {names[p]!r} has shape {tuple(p.shape)}, the event gives "
                    f"{tuple(x.shape)}"
                )
        changes.append((groups, new, _with(Leaves, state, own)))
    for groups, new, state in changes:
        foreign = {storage_of(p) for p in groups} | {storage_of(new[names[p]]) for p in groups}
        for p in groups:
            optimizer.state[p] = with_own_memory(to_nested(state, names[p]), foreign)
        for p in groups:
            if new[names[p]].data_ptr() != p.data_ptr():
                p.copy_(new[names[p]])


@torch._disable_dynamo
@torch.no_grad()
def project(optimizer: Optimizer) -> None:
    """Put what the next forward pass is to see into the parameters of an optimizer with AC/DC.

    Those that the next step masks become zero, with new masks if that step prunes; masks
    themselves change in ``step``. At other steps nothing changes, so that it may be called before
    every forward pass, or only where the schedule prunes.

    Args:
        optimizer: one of ``gx.optim``, whose chain is ``gx.acdc`` or has it as a member.

    Raises:
        TypeError: no optimizer of ``gx.optim``.
        ValueError: it has none.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 1.0]]))
    >>> tx = gx.acdc(gx.adamw(0.1), gx.sparsity.phases(("sparse", 9)),
    ...              gx.sparsity.magnitude_support(0.5, count="exact"))
    >>> opt = gx.optim.from_transform(tx, [w])
    >>> gx.optim.project(opt)
    >>> w.data
    tensor([[3., 0.]])
    """
    names, found = _names("project", optimizer), False
    for tx, groups in optimizer._buckets():
        for path, member in tx if isinstance(tx, Chain) else [("", tx)]:
            if not isinstance(member, Acdc):
                continue
            found = True
            state = optimizer._gather(tx, groups, groups, names)
            params = Leaves({names[p]: p.detach() for p in groups})
            seen = member.project(params, state[path] if path else state)
            for p in groups:
                p.copy_(seen[names[p]])
    if not found:
        raise ValueError(f"project: {type(optimizer).__name__} has no acdc in its chain")


@torch.no_grad()
def masks(optimizer: Optimizer) -> dict[str, Tensor | None]:
    """The masks of an optimizer by parameter name, True where a weight is kept; None without one.

    ``gx.sparsity.report`` and ``to_torch_prune`` take them. Parameters without names of their own
    go by their position; with ``model.named_parameters()`` they have those of the model.

    Raises:
        TypeError: no optimizer of ``gx.optim``.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = gx.optim.ACDC(model.named_parameters(), schedule=gx.sparsity.phases(("sparse", 9)))
    >>> gx.optim.masks(opt)
    {'weight': tensor([[True, True]]), 'bias': None}
    """
    names = _names("masks", optimizer)
    out: dict[str, Tensor | None] = dict.fromkeys(names.values())
    for tx, groups in optimizer._buckets():
        params = Leaves({names[p]: p.detach() for p in groups})
        out |= masks_of(optimizer._gather(tx, groups, groups, names), params)
    return out


def _names(who: str, optimizer: Optimizer) -> dict[Tensor, str]:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{who}: expected an optimizer of gx.optim, got {type(optimizer).__module__}."
            f"{type(optimizer).__name__}"
        )
    return optimizer._names()


def _with(kind: type[dict[str, Any]], state: PyTree, params: Mapping[str, Tensor]) -> PyTree:
    """A state with another kind of dict wherever it has something by parameter name."""

    def by_name(x: Any) -> bool:
        return isinstance(x, dict) and x.keys() == params.keys()

    def visit(x: Any) -> Any:
        return kind((name, x[name]) for name in params) if by_name(x) else x

    return optree.tree_map(
        visit, state, is_leaf=by_name, none_is_leaf=True, namespace=tree.NAMESPACE
    )
