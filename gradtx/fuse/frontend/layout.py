"""A state cut into what belongs to one leaf and what all leaves share.

Initialising a chain on a tree that is one special container shows where per-leaf states stand: the
*sites*. A leaf is then described by flat lists of tensors, in site order, and by their structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import optree
import torch
from torch import Tensor

from ...core import tree
from ...core.protocol import GradientTransformation
from ...core.tree import NAMESPACE, PyTree, children, rebuild
from ..ir.errors import CannotFuseError


class Leaves:
    """The tree on which chains are traced and tested: some leaves of one kind, nothing else."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = list(values)


class Key(str):
    """A leaf's name in ``Leaves``; notes when it is read."""

    read = False

    def __str__(self) -> str:
        Key.read = True
        return str.__str__(self)


def _flatten(leaves: Any) -> tuple[list[Any], None, tuple[str, ...]]:
    return leaves.values, None, tuple(Key(i) for i in range(len(leaves.values)))


def _unflatten(_: Any, values: Iterable[Any]) -> Any:
    return Leaves(values)


optree.register_pytree_node(
    Leaves,  # type: ignore[arg-type]
    _flatten,
    _unflatten,
    namespace=NAMESPACE,
)


@dataclass(frozen=True)
class Structure:
    """The structure of one leaf's states, site by site; tensors are left out."""

    specs: tuple[Any, ...]
    constants: tuple[tuple[int, Any], ...]
    count: int
    _parts: dict[tuple[int, int], Any] = field(default_factory=dict, compare=False, repr=False)

    def subtrees(self, tensors: Sequence[Any]) -> list[PyTree]:
        """The states at every site from the flat list of tensors."""
        values: list[Any] = list(tensors)
        for at, constant in self.constants:
            values.insert(at, constant)
        out, start = [], 0
        for spec in self.specs:
            out.append(spec.unflatten(values[start : start + spec.num_leaves]))
            start += spec.num_leaves
        return out

    def part(self, first: int, stop: int) -> tuple[Structure, slice]:
        """The structure of some of the sites, and where its tensors are in the flat list."""
        if (first, stop) not in self._parts:
            self._parts[first, stop] = self._part(first, stop)
        return self._parts[first, stop]

    def _part(self, first: int, stop: int) -> tuple[Structure, slice]:
        start = sum(spec.num_leaves for spec in self.specs[:first])
        end = start + sum(spec.num_leaves for spec in self.specs[first:stop])
        constants = tuple((at - start, v) for at, v in self.constants if start <= at < end)
        before = start - sum(at < start for at, _ in self.constants)
        count = end - start - len(constants)
        part = Structure(self.specs[first:stop], constants, count)
        return part, slice(before, before + count)

    def flat(self, subtrees: Sequence[PyTree]) -> list[Any]:
        """The flat list of values, constants left out.

        Raises:
            CannotFuseError: the structure is another one.
        """
        values: list[Any] = []
        for spec, subtree in zip(self.specs, subtrees, strict=True):
            leaves, got = tree.flatten(subtree)
            if got != spec:
                raise CannotFuseError("", f"the state changes its structure from {spec} to {got}")
            values.extend(leaves)
        constants = {at for at, _ in self.constants}
        return [v for i, v in enumerate(values) if i not in constants]


def structure_of(subtrees: Sequence[PyTree]) -> tuple[Structure, list[Tensor]]:
    """Structure and tensors of one leaf's states."""
    specs, values = [], []
    for subtree in subtrees:
        leaves, spec = tree.flatten(subtree)
        specs.append(spec)
        values.extend(leaves)
    constants = tuple((i, v) for i, v in enumerate(values) if not isinstance(v, Tensor))
    tensors = [v for v in values if isinstance(v, Tensor)]
    return Structure(tuple(specs), constants, len(tensors)), tensors


def skeleton_of(tx: GradientTransformation, like: Tensor) -> PyTree:
    """A state of one leaf, whose ``Leaves`` mark the sites; made without memory where possible."""
    try:
        return tx.init(Leaves([torch.empty_like(like, device="meta")]))
    except (NotImplementedError, RuntimeError):
        return tx.init(Leaves([torch.zeros_like(like, device="cpu")]))


def sites_in(skeleton: PyTree) -> int:
    """How many places of a state hold something per leaf."""
    if isinstance(skeleton, Leaves):
        return 1
    return sum(sites_in(child) for _, child in children(skeleton) or [])


def shared_in(skeleton: PyTree) -> int:
    """How many tensors of a state are shared by all leaves."""
    if isinstance(skeleton, Leaves):
        return 0
    below = children(skeleton)
    if below is None:
        return int(isinstance(skeleton, Tensor))
    return sum(shared_in(child) for _, child in below)


def split(skeleton: PyTree, state: PyTree, spec: Any) -> tuple[list[list[PyTree]], list[Any]]:
    """Per site the states of all leaves, and the shared values.

    Args:
        skeleton: what ``skeleton_of`` gave.
        state: the state of a tree.
        spec: the structure of that tree.
    """
    if isinstance(skeleton, Leaves):
        return [tree.flatten_like("fuse", spec, state, "state")], []
    below = children(skeleton)
    if below is None:
        return [], [state] if isinstance(skeleton, Tensor) else []
    actual = children(state) or []
    if len(actual) != len(below):
        raise tree.TreeMismatchError(
            f"fuse: the state has entries {[k for k, _ in actual]}, "
            f"the transform makes {[k for k, _ in below]}"
        )
    by_name = dict(actual)
    sites, shared = [], []
    for name, child in below:
        s, t = split(child, by_name[name], spec)
        sites.extend(s)
        shared.extend(t)
    return sites, shared


def join(skeleton: PyTree, sites: list[Any], shared: list[Any]) -> PyTree:
    """The inverse of ``split``; consumes the lists, ``sites`` holding finished trees."""
    if isinstance(skeleton, Leaves):
        return sites.pop(0)
    below = children(skeleton)
    if below is None:
        return shared.pop(0) if isinstance(skeleton, Tensor) else skeleton
    return rebuild(skeleton, [join(child, sites, shared) for _, child in below])


@dataclass(frozen=True)
class Paths:
    """Where the values of one parameter stand in nested dicts of its state.

    Attributes:
        structure: of the per-leaf part.
        leaf: path of every per-leaf tensor, in the order of ``Structure``.
        shared: path of every shared tensor.
        states: the per-leaf tensors, without values.
    """

    structure: Structure
    leaf: tuple[tuple[str, ...], ...]
    shared: tuple[tuple[str, ...], ...]
    states: tuple[Tensor, ...]


def paths_of(skeleton: PyTree) -> Paths:
    """Structure and paths for a skeleton with one leaf."""
    sites: list[PyTree] = []
    leaf: list[tuple[str, ...]] = []
    shared: list[tuple[str, ...]] = []

    def visit(node: PyTree, path: tuple[str, ...], inside: bool) -> None:
        if isinstance(node, Leaves):
            sites.append(node.values[0])
            visit(node.values[0], path, True)
            return
        below = children(node)
        if below is None:
            if isinstance(node, Tensor):
                (leaf if inside else shared).append(path)
            return
        for name, child in below:
            visit(child, (*path, name), inside)

    visit(skeleton, (), False)
    structure, tensors = structure_of(sites)
    states = tuple(torch.empty_like(x, device="meta") for x in tensors)
    return Paths(structure, tuple(leaf), tuple(shared), states)
