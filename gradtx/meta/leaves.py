"""Functions of trees as functions of the tensors in them, which is what torch.func takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..core import tree
from ..core.errors import TreeMismatchError, described, shape_mismatch
from ..core.tree import PyTree


class Split(NamedTuple):
    """A tree as two lists of tensors and what else it holds.

    Attributes:
        floats: floating-point tensors.
        others: other tensors, such as counters.
        rebuild: the tree from two such lists.
    """

    floats: list[Tensor]
    others: list[Tensor]
    rebuild: Callable[[Sequence[Tensor], Sequence[Tensor]], PyTree]


def split(whole: PyTree) -> Split:
    """Take a tree apart."""
    leaves, spec = tree.flatten(whole)
    floats = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]
    taken = frozenset(floats)
    others = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and i not in taken]
    rest = [None if isinstance(x, Tensor) else x for x in leaves]

    def rebuild(new_floats: Sequence[Tensor], new_others: Sequence[Tensor]) -> PyTree:
        out = list(rest)
        for i, x in (*zip(floats, new_floats, strict=True), *zip(others, new_others, strict=True)):
            out[i] = x
        return spec.unflatten(out)

    return Split([leaves[i] for i in floats], [leaves[i] for i in others], rebuild)


def of_floats(fn: Callable[[PyTree], Any], at: PyTree) -> tuple[Callable[..., Any], list[Tensor]]:
    """``fn`` as a function of the floating-point tensors of a tree, and those tensors."""
    parts = split(at)
    return lambda *floats: fn(parts.rebuild(floats, parts.others)), parts.floats


def floats_like(who: str, what: str, like: PyTree, given: PyTree) -> list[Tensor]:
    """The floating-point tensors of ``given`` where ``like`` has them.

    Raises:
        TreeMismatchError: another structure, or a tensor of another shape.
    """
    leaves, spec = tree.flatten(like)
    others = tree.leaves_like(who, spec, given, what, "parameter")
    out = []
    for name, x, g in zip(tree.names(spec), leaves, others, strict=True):
        if isinstance(x, Tensor) and x.is_floating_point():
            if not isinstance(g, Tensor):
                raise TreeMismatchError(f"{who}: leaf {name!r} has no {what}, got {described(g)}")
            if g.shape != x.shape:
                raise shape_mismatch(who, name, what, g.shape, "parameter", x.shape)
            out.append(g)
    return out


vjp: Any = torch.func.vjp  # its declared type leaves out what it returns without auxiliary data


def jvp(fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """``torch.func.jvp``, without the warning that torch gives of itself at the first call."""
    if torch.compiler.is_compiling():
        return torch.func.jvp(fn, tuple(primals), tuple(tangents))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        return torch.func.jvp(fn, tuple(primals), tuple(tangents))


class NoCaptures(TorchFunctionMode):
    """Refuses tensors of an outer transform that a function uses without having got them.

    Inside a ``torch.autograd.Function`` they would count as constants, silently.
    """

    def __init__(self, who: str, through: str) -> None:
        super().__init__()
        self._message = (
            f"{who}: the function uses a tensor from outside that is being transformed; pass "
            f"everything that is differentiated or mapped over through {through}"
        )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        functorch = torch._C._functorch
        now = functorch.maybe_current_level() or 0
        for x in (*args, *(kwargs or {}).values()):
            if isinstance(x, Tensor) and functorch.maybe_get_level(x) > now:
                raise ValueError(self._message)
        return func(*args, **(kwargs or {}))
