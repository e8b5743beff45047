"""What to do with a gradient that is not finite, leaf by leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import optree
import torch
from torch import Tensor

from . import tree
from .checks import check_tensors
from .execution import Execution
from .hyper import static
from .leaves import ANY_UPDATE, isfinite_leaf, leaf_if
from .protocol import Wrapper
from .tree import PyTree

_ADVICE = "Skip such leaves with otherwise='skip'"


@dataclass(frozen=True)
class apply_if_leaf_finite(Wrapper):
    """Update only the leaves whose incoming update is finite; refuse or skip the others.

    A leaf that is skipped keeps its state, counters included, and gets a zero update. Use it around
    chains in which one infinity would spoil the state for good, such as quantised error feedback.

    Args:
        transform: the inner transform.
        otherwise: "raise" an error that names the leaf, or "skip" it. Raising reads the values,
            which waits for the device; where that is impossible (under ``vmap`` and
            ``torch.compile``, while a CUDA graph is captured) the leaf is skipped.

    Raises:
        ValueError: another ``otherwise``; from ``update``, a leaf that is not finite.

    >>> import torch, gradtx as gx
    >>> tx = gx.apply_if_leaf_finite(gx.trace(0.9), "skip")
    >>> grads = {"w": torch.tensor([torch.nan]), "b": torch.ones(1)}
    >>> tx.update(grads, tx.init(grads))[0]
    {'w': tensor([0.]), 'b': tensor([1.])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    otherwise: Literal["raise", "skip"] = static("raise", choices=("raise", "skip"))

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, params, accepts=ANY_UPDATE)
        leaves, spec = tree.flatten(updates)
        finite = [None if u is None else isfinite_leaf(u) for u in leaves]
        checked = self.otherwise == "raise" and require_finite(
            self.name, tree.names(spec), finite, _ADVICE
        )
        if not checked:  # zeros, at which nothing inside takes offence, nor keeps for all leaves
            pairs = zip(finite, leaves, strict=True)
            updates = spec.unflatten([u if ok is None else leaf_if(ok, u) for ok, u in pairs])
        extra.setdefault("grads", updates)
        out, new = self.update_transform(updates, state, params, extra)
        if checked:
            return out, new
        outs = tree.leaves_like(self.name, spec, out, "inner update")
        kept = [u if ok is None else leaf_if(ok, u) for ok, u in zip(finite, outs, strict=True)]
        return spec.unflatten(kept), _choose(finite, spec, new, state)


def require_finite(who: str, names: list[str], finite: list[Any], advice: str) -> bool:
    """Raise for the first leaf that is not finite; False where values cannot be read.

    Args:
        who: for the error.
        names: of the leaves.
        finite: per leaf a 0-d bool tensor, or None where there is none.
        advice: the last sentence of the error.

    Raises:
        ValueError: a leaf is not finite.
    """
    there = [ok for ok in finite if ok is not None]
    if not there or not _readable(there):
        return not there
    try:
        if bool(torch.stack([ok.to(there[0].device) for ok in there]).all()):
            return True
    except RuntimeError:  # under vmap, or without values
        return False
    bad = next(n for n, ok in zip(names, finite, strict=True) if ok is not None and not ok)
    raise not_finite(who, bad, advice)


def not_finite(who: str, name: str, advice: str = _ADVICE) -> ValueError:
    """The error for a leaf whose update is not finite."""
    return ValueError(
        f"{who}: leaf {name!r}: the update has a NaN or an infinity; nothing has been "
        f"changed. {advice}"
    )


def _readable(flags: list[Tensor]) -> bool:
    if torch.compiler.is_compiling():
        return False
    return not (any(f.is_cuda for f in flags) and torch.cuda.is_current_stream_capturing())


def _choose(finite: list[Any], spec: Any, new: PyTree, old: PyTree) -> PyTree:
    """The new state, with the old one of the leaves that are not finite."""

    def is_per_leaf(node: PyTree) -> bool:
        return tree.matches(spec, node)

    def choose(now: PyTree, before: PyTree) -> PyTree:
        if not is_per_leaf(now):
            return now
        pairs = zip(finite, spec.flatten_up_to(now), spec.flatten_up_to(before), strict=True)
        return spec.unflatten([a if ok is None else tree.where(ok, a, b) for ok, a, b in pairs])

    return optree.tree_map(
        choose, new, old, is_leaf=is_per_leaf, none_is_leaf=True, namespace=tree.NAMESPACE
    )
