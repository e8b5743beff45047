"""Complex leaves as two real ones, for transforms that know real numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import tree
from .execution import Execution
from .extra import map_trees
from .protocol import Wrapper
from .tree import PyTree

_PARTS = ("real", "imaginary")


@dataclass(frozen=True)
class split_real_and_imaginary(Wrapper):
    """Run a transform on the real and the imaginary part of every complex leaf.

    The transform sees ``{"real": ..., "imaginary": ...}`` in place of a complex leaf, and real
    leaves as they are. Gradients are torch's: the direction of steepest ascent, not its conjugate.

    Args:
        transform: the inner transform.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.split_real_and_imaginary(gx.scale_by_sign()), {"z": torch.tensor([1 - 2j])}
    >>> tx.update({"z": torch.tensor([3 - 4j])}, tx.init(params), params)[0]
    {'z': tensor([1.-1.j])}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(_split(params))

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        leaves, spec = tree.flatten(updates)
        complexes = [isinstance(u, Tensor) and u.is_complex() for u in leaves]
        inner = map_trees(_split, extra, updates)
        ps = None if params is None else _split(params)
        new, state = self.update_transform(_split(updates), state, ps, inner)
        outs = tree.flatten_like(self.name, spec, new, "result")
        pairs = zip(outs, complexes, strict=True)
        return spec.unflatten([_join(x) if yes else x for x, yes in pairs]), state


def _split(whole: PyTree) -> PyTree:
    leaves, spec = tree.flatten(whole)
    return spec.unflatten([_parts(x) for x in leaves])


def _parts(x: Any) -> Any:
    if not isinstance(x, Tensor) or not x.is_complex():
        return x
    return dict(zip(_PARTS, (x.real, x.imag), strict=True))


def _join(parts: dict[str, Tensor]) -> Tensor:
    return torch.complex(*(parts[name] for name in _PARTS))
