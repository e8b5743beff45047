"""Look at updates inside a chain: copies and metrics, kept in the state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.checks import check_tensors
from ..core.leaves import STRUCTURED, densify_leaf
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree


@dataclass(frozen=True)
class snapshot(GradientTransformation):
    """Keep a copy of the updates, or something computed from them, in the state.

    Updates pass unchanged. ``gx.tree.get(state, measure_name)`` reads it; before the first update
    it is zero.

    Args:
        measure_name: the key in the state.
        measure: function of the updates that returns a tree of tensors; default the updates
            themselves (a leaf without an update keeps its last copy).

    Raises:
        ValueError: an empty name.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.snapshot("raw"), gx.scale(2.0), gx.snapshot("norm", gx.tree.global_norm))
    >>> updates, state = tx.update({"w": torch.ones(4)}, tx.init({"w": torch.zeros(4)}))
    >>> gx.tree.get(state, "raw"), gx.tree.get(state, "norm")
    ({'w': tensor([1., 1., 1., 1.])}, tensor(4.))
    """

    measure_name: str
    measure: Callable[[PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name, self.measure_name)

    def init(self, params: PyTree) -> PyTree:
        check_tensors(self.name, params, what="parameter")
        kept = _zero_updates(params)
        if self.measure is not None:
            kept = tree.zeros_like(self.measure(kept))
        return {self.measure_name: kept}

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        check_tensors(self.name, updates, accepts=(Tensor, *STRUCTURED))
        old, new = state[self.measure_name], _dense(updates)
        if self.measure is not None:
            new = self.measure(new)
        check_tensors(self.name, new, old)
        leaves, spec = tree.flatten(new)
        olds = tree.flatten_like(self.name, spec, old, "state")
        kept = [
            o if x is None else x.to(o.dtype, copy=True) for x, o in zip(leaves, olds, strict=True)
        ]
        return updates, {self.measure_name: spec.unflatten(kept)}


@dataclass(frozen=True)
class monitor(GradientTransformation):
    """Compute named metrics of the updates at every step and keep them in the state.

    Updates pass unchanged. ``gx.tree.get(state, name)`` reads a metric; before the first update it
    is zero. Metrics stay tensors: nothing is copied to the host until you ask.

    Args:
        measures: name -> function of ``updates``, or of ``updates`` and ``params``, that returns a
            tensor or a number.

    Raises:
        ValueError: an empty name; or a metric needs the parameters and ``update`` got none.
        TypeError: a measure is not callable, or returns something else.

    >>> import torch, gradtx as gx
    >>> tx = gx.monitor({"norm": gx.tree.global_norm, "angle": lambda u, p: gx.tree.vdot(u, p)})
    >>> params = {"w": torch.ones(4)}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> state
    {'norm': tensor(2.), 'angle': tensor(4.)}
    """

    measures: Mapping[str, Callable[..., Any]]
    _with_params: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, measure in self.measures.items():
            _check_name(self.name, name)
            if not callable(measure):
                raise TypeError(
                    f"monitor: metric {name!r} must be a function of the updates, "
                    f"got {type(measure).__name__}"
                )
        wanting = frozenset(name for name, fn in self.measures.items() if _wants_params(fn))
        object.__setattr__(self, "_with_params", wanting)

    def __hash__(self) -> int:
        return hash(tuple(self.measures.items()))

    def init(self, params: PyTree) -> PyTree:
        metrics = self._measure(_zero_updates(params), params)
        return {name: torch.zeros_like(metric) for name, metric in metrics.items()}

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        metrics = self._measure(_dense(updates), params)
        return updates, {n: x.to(state[n].dtype, copy=True) for n, x in metrics.items()}

    def _measure(self, updates: PyTree, params: PyTree) -> dict[str, Tensor]:
        out = {}
        for name, measure in self.measures.items():
            if name not in self._with_params:
                metric = measure(updates)
            elif params is None:
                raise ValueError(
                    f"monitor: metric {name!r} needs the parameters; "
                    "call update(updates, state, params)"
                )
            else:
                metric = measure(updates, params)
            if not isinstance(metric, (Tensor, int, float)):
                raise TypeError(
                    f"monitor: metric {name!r} must return a tensor or a number, "
                    f"got {type(metric).__name__}"
                )
            out[name] = metric if isinstance(metric, Tensor) else _number(metric, updates)
        return out


def _number(metric: float, updates: PyTree) -> Tensor:
    """A number as a tensor on the device of the first leaf."""
    dtype = {bool: torch.bool, int: torch.int64}.get(type(metric), torch.float32)
    device = next((u.device for u in tree.leaves(updates)), torch.device("cpu"))
    return torch.full((), metric, dtype=dtype, device=device)


def _check_name(who: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{who}: a name must be a non-empty string, got {name!r}")


def _wants_params(measure: Callable[..., Any]) -> bool:
    """Whether a function has a second positional parameter without a default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p
        for p in inspect.signature(measure).parameters.values()
        if p.kind in positional and p.default is p.empty
    ]
    return len(needed) > 1


def _dense(updates: PyTree) -> PyTree:
    """The updates as tensors in the dtype in which they travel."""
    return tree.map(lambda u: tree.accumulator(densify_leaf(u)), updates)


def _zero_updates(params: PyTree) -> PyTree:
    return tree.zeros_like(_dense(params))
