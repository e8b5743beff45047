"""Parameters that stay sparse: masks as state, projections, thresholds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..core import masks as masks_
from ..core import tree
from ..core.errors import described
from ..core.execution import Execution
from ..core.hyper import Values, static
from ..core.leaf_states import map_leaf_states
from ..core.leaves import LeafInfo
from ..core.predicates import is_chosen
from ..core.reduce import Reduce
from ..core.transform import LeafTransform, TreeTransform
from ..core.tree import PyTree
from ..ops import top_mask
from .bits import pack, unpack

Prunable: TypeAlias = "Callable[[LeafInfo], bool]"


def prunable_field() -> Any:
    """Declare which leaves are pruned."""
    return static(masks_.matrices, check=_check_prunable)


def _check_prunable(who: str, name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{who}: {name} must be a predicate on gx.LeafInfo, got {described(value)}")


class MaskState(NamedTuple):
    """What is kept of a leaf's mask.

    Attributes:
        mask: bool, shaped like the parameter, True where it is kept; or its bits, uint8 (rows,
            ceil(columns / 8)), see ``gx.sparsity.acdc``; () for a leaf without a mask.
    """

    mask: Tensor | tuple[()]

    def of(self, p: Tensor) -> Tensor | None:
        """The mask as bool, shaped like its parameter; None without one."""
        if isinstance(self.mask, tuple):
            return None
        return unpack(self.mask, p) if self.mask.dtype == torch.uint8 else self.mask

    def with_mask(self, mask: Tensor) -> MaskState:
        """Another bool mask, in the form of this one."""
        packed = isinstance(self.mask, Tensor) and self.mask.dtype == torch.uint8
        return MaskState(pack(mask) if packed else mask)


@dataclass(frozen=True)
class _Masked(LeafTransform):
    execution: ClassVar[Execution] = Execution(cannot_raise=True, chooses=lambda tx: "prunable")

    prunable: Prunable = prunable_field()

    def init_leaf(self, p: Tensor, info: LeafInfo) -> MaskState:
        if not is_chosen(f"{self.name}: prunable", self.prunable, info):
            return MaskState(())
        return MaskState(torch.ones_like(p, dtype=torch.bool, requires_grad=False))


@dataclass(frozen=True)
class keep_params_sparse(_Masked):
    """Updates after which masked parameters are exactly zero; the last member of a chain.

    u <- u where the mask is True, -p elsewhere. Masks are state; ``gx.sparsity.replace_masks``
    puts others there.

    Args:
        prunable: predicate on ``LeafInfo``, which leaves have a mask; default those with two
            dimensions or more.

    Raises:
        ValueError: ``update`` got no parameters.

    >>> import torch, gradtx as gx
    >>> tx, p = gx.keep_params_sparse(), {"w": torch.tensor([[3.0, 4.0]])}
    >>> state = gx.sparsity.replace_masks(tx.init(p), {"w": torch.tensor([[True, False]])})
    >>> gx.apply_updates(p, tx.update({"w": torch.ones(1, 2)}, state, p)[0])
    {'w': tensor([[4., 0.]])}
    """

    requires_params: ClassVar[bool] = True

    def update_leaf(self, u: Tensor, s: MaskState, p: Any, h: Values) -> tuple[Tensor, MaskState]:
        return update_to_zero(u, p, s.mask), s


@dataclass(frozen=True)
class mask_updates(_Masked):
    """Updates that are zero where a mask is False, such as gradients of pruned weights.

    Args:
        prunable: predicate on ``LeafInfo``, which leaves have a mask; default those with two
            dimensions or more.

    >>> import torch, gradtx as gx
    >>> tx = gx.mask_updates()
    >>> state = tx.init({"w": torch.ones(1, 2)})
    >>> state = gx.sparsity.replace_masks(state, {"w": torch.tensor([[True, False]])})
    >>> tx.update({"w": torch.ones(1, 2)}, state)[0]
    {'w': tensor([[1., 0.]])}
    """

    def update_leaf(self, u: Tensor, s: MaskState, p: Any, h: Values) -> tuple[Tensor, MaskState]:
        return (u if isinstance(s.mask, tuple) else torch.where(s.mask, u, 0)), s


@dataclass(frozen=True)
class hard_threshold(TreeTransform):
    """Keep the k parameters of largest magnitude after the update, of all leaves together.

    u <- u where |p + u| is among the k largest, -p elsewhere: the projection of iterative hard
    thresholding. Of equal magnitudes the first are kept.

    Args:
        k: entries that are not zero, >= 1.

    Raises:
        ValueError: k < 1, or ``update`` got no parameters.

    Source: Blumensath and Davies, Iterative hard thresholding for compressed sensing, 2009.

    >>> import torch, gradtx as gx
    >>> p = {"w": torch.tensor([3.0, 1.0, -2.0])}
    >>> gx.hard_threshold(2).update({"w": torch.zeros(3)}, (), p)[0]
    {'w': tensor([ 0., -1.,  0.])}
    """

    execution: ClassVar[Execution] = Execution(reduces=False)
    requires_params: ClassVar[bool] = True

    k: int = static(1, at_least=1)

    def update_tree(
        self, us: list[Any], leaves: Any, shared: Any, ps: list[Any], h: Values, reduce: Reduce
    ) -> tuple[list[Any], Any, Any]:
        sizes = [(p.to(u.dtype) + u).abs() for u, p in zip(us, ps, strict=True)]
        wide = functools.reduce(torch.promote_types, [x.dtype for x in sizes])
        every = torch.cat([x.detach().reshape(-1).to(wide) for x in sizes])
        kept = top_mask(every, min(self.k, len(every)))
        parts = kept.split([x.numel() for x in sizes])
        out = [
            update_to_zero(u, p, keep.reshape(u.shape) | size.isnan())
            for keep, size, u, p in zip(parts, sizes, us, ps, strict=True)
        ]
        return out, leaves, shared


def update_to_zero(u: Tensor, p: Tensor, mask: Tensor | tuple[()]) -> Tensor:
    """An update that leaves zero where the mask is False; () is no mask."""
    return u if isinstance(mask, tuple) else torch.where(mask, u, -p.to(u.dtype))


def replace_masks(state: PyTree, masks: PyTree) -> PyTree:
    """A state with other masks, wherever a member keeps some.

    Args:
        state: of a chain with ``keep_params_sparse`` or ``mask_updates``.
        masks: tree like the parameters: bool tensors, None for leaves whose masks stay.

    Raises:
        ValueError: a mask of another shape or dtype than the one that is there, or none is there.
    """
    new, spec = tree.flatten(masks)
    names, placed = tree.names(spec), {i for i, m in enumerate(new) if m is None}

    def put(i: int, s: Any) -> Any:
        if not isinstance(s, MaskState):
            inside = tree.children(s)
            return tree.rebuild(s, [put(i, x) for _, x in inside]) if inside else s
        if new[i] is None:
            return s
        _check_new("replace_masks", names[i], new[i], s)
        placed.add(i)
        return s.with_mask(new[i])

    out = map_leaf_states(put, state, spec)
    if missing := [name for i, name in enumerate(names) if i not in placed]:
        raise ValueError(f"replace_masks: the state has no masks for {missing}")
    return out


def masks_of(state: PyTree, params: PyTree) -> PyTree:
    """The masks in a state, as a tree like the parameters; None where a leaf has none.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.ones(1, 2), "b": torch.ones(2)}
    >>> gx.sparsity.masks_of(gx.keep_params_sparse().init(params), params)
    {'w': tensor([[True, True]]), 'b': None}
    """
    leaves, spec = tree.flatten(params)
    found: list[Any] = [None] * len(leaves)

    def look(i: int, s: Any) -> Any:
        if isinstance(s, MaskState):
            found[i] = found[i] if leaves[i] is None else _first(s.of(leaves[i]), found[i])
        else:
            for _, x in tree.children(s) or ():
                look(i, x)
        return s

    map_leaf_states(look, state, spec)
    return spec.unflatten(found)


def project(params: PyTree, state: PyTree) -> PyTree:
    """The parameters with masked entries zero, such as a sparse phase's forward pass sees them.

    >>> import torch, gradtx as gx
    >>> tx, p = gx.keep_params_sparse(), {"w": torch.tensor([[3.0, 4.0]])}
    >>> state = gx.sparsity.replace_masks(tx.init(p), {"w": torch.tensor([[True, False]])})
    >>> gx.sparsity.project(p, state)
    {'w': tensor([[3., 0.]])}
    """
    return apply_masks(params, masks_of(state, params))


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters with zeros where a mask is False; leaves without a mask as they are."""
    leaves, spec = tree.flatten(params)
    every = tree.leaves_like("sparsity", spec, masks, "mask")
    return spec.unflatten(
        [
            p if p is None or m is None else torch.where(m, p, 0)
            for p, m in zip(leaves, every, strict=True)
        ]
    )


def _first(a: Any, b: Any) -> Any:
    return b if a is None else a


def _check_new(who: str, name: str, mask: Any, state: MaskState) -> None:
    """Raise unless a mask may take the place of another."""
    old = state.mask
    if isinstance(old, tuple) or old.dtype == torch.bool:
        check_mask(who, name, mask, old)
        return
    packed = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not packed or tuple(pack(mask).shape) != tuple(old.shape):
        got = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else repr(mask)
        raise ValueError(
            f"{who}: leaf {name!r} takes a bool tensor of the parameter's shape, got {got}"
        )


def check_mask(who: str, name: str, mask: Any, like: Any) -> None:
    """Raise unless a mask is a bool tensor shaped like another.

    Raises:
        ValueError: names the leaf.
    """
    shape = () if isinstance(like, tuple) else tuple(like.shape)
    good = isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape
    if isinstance(like, tuple) or not good:
        got = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else repr(mask)
        want = "no mask" if isinstance(like, tuple) else f"a bool tensor of shape {shape}"
        raise ValueError(f"{who}: leaf {name!r} takes {want}, got {got}")
