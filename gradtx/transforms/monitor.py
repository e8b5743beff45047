"""Look at updates inside a chain: copies and metrics, kept in the state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree, tree_math
from ..core.averages import average
from ..core.checks import check_tensors
from ..core.leaves import STRUCTURED, densify_leaf
from ..core.plain import Plain
from ..core.protocol import GradientTransformation
from ..core.reduce import LOCAL, Reduce
from ..core.state import advance, new_count, new_scalar
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


_STATES = "measure_states"


class MeasureState(NamedTuple):
    """Attributes: ``step``, int32, measurements so far; ``ema``, the average, a tree."""

    step: Tensor
    ema: PyTree


@dataclass(frozen=True)
class measure_with_ema(Plain):
    """Measure the updates and average what is measured over steps, for ``gx.monitor``.

    a <- decay a + (1 - decay) measure(updates), divided by ``1 - decay^t`` with ``debias``; of
    shards, the mean of what they measure.

    Args:
        measure: function of the updates that returns a tree of tensors; truth values count as
            zero and one.
        decay: how much of the average is kept, in [0, 1).
        debias: correct for the average having started at zero.
        accumulator_dtype: what the average is kept in; None for that of the measurement, of truth
            values that of the updates.

    Raises:
        ValueError: ``decay`` outside its interval.
        TypeError: a measure that is no function.

    >>> import torch, gradtx as gx
    >>> tx = gx.monitor({"big": gx.measure_with_ema(lambda u: gx.tree.norm(u) > 1, decay=0.5)})
    >>> state = tx.init({"w": torch.zeros(1)})
    >>> for size in (2.0, 0.5):
    ...     _, state = tx.update({"w": torch.tensor([size])}, state)
    >>> gx.tree.get(state, "big")
    tensor(0.3333)
    """

    measure: Callable[[PyTree], PyTree]
    decay: float
    debias: bool = True
    accumulator_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not callable(self.measure):
            raise TypeError(
                "measure_with_ema: measure must be a function of the updates, "
                f"got {type(self.measure).__name__}"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"measure_with_ema: decay must be in [0, 1), got {self.decay}")

    def init(self, params: PyTree) -> MeasureState:
        """The state for updates like these."""
        return MeasureState(new_count(tree.leaves(params)), tree.zeros_like(self._measured(params)))

    def update(
        self, updates: PyTree, state: MeasureState, reduce: Reduce = LOCAL
    ) -> tuple[PyTree, MeasureState]:
        """The average with these updates in it, and the new state."""
        measured, step = self._measured(updates), advance(state.step)
        new = tree.map(
            lambda x, old: average(old, reduce.mean(x.to(old.dtype)), self.decay),
            measured,
            state.ema,
        )
        out = tree_math.bias_correction(new, self.decay, step) if self.debias else new
        return out, MeasureState(step, new)

    def _measured(self, updates: PyTree) -> PyTree:
        wide = new_scalar(tree.leaves(updates)).dtype

        def number(x: Tensor) -> Tensor:
            return x.to(self.accumulator_dtype or (x.dtype if x.is_floating_point() else wide))

        return tree.map(number, self.measure(updates))


@dataclass(frozen=True)
class monitor(GradientTransformation):
    """Compute named metrics of the updates at every step and keep them in the state.

    Updates pass unchanged. ``gx.tree.get(state, name)`` reads a metric; before the first update it
    is zero. Metrics stay tensors: nothing is copied to the host until you ask. Measures with a
    state of their own keep it in ``state["measure_states"]``.

    Args:
        measures: name -> function of ``updates``, or of ``updates`` and ``params``, that returns a
            tensor or a number; or ``gx.measure_with_ema``.

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

    measures: Mapping[str, Callable[..., Any] | measure_with_ema]

    def __post_init__(self) -> None:
        for name, measure in self.measures.items():
            _check_name(self.name, name)
            if name == _STATES:
                raise ValueError(f"monitor: {_STATES!r} is what states are kept under")
            if not isinstance(measure, measure_with_ema) and not callable(measure):
                raise TypeError(
                    f"monitor: metric {name!r} must be a function of the updates, "
                    f"got {type(measure).__name__}"
                )

    def __hash__(self) -> int:
        return hash(tuple(self.measures.items()))

    @property
    def _averaged(self) -> dict[str, measure_with_ema]:
        """The measures that have a state."""
        return {k: m for k, m in self.measures.items() if isinstance(m, measure_with_ema)}

    def init(self, params: PyTree) -> PyTree:
        zero = _zero_updates(params)
        metrics = self._measure(zero, params)
        out: dict[str, Any] = {name: torch.zeros_like(metric) for name, metric in metrics.items()}
        states = []
        for name, measure in self._averaged.items():
            states.append(measure.init(zero))
            out[name] = measure.update(zero, states[-1])[0]
        return {**out, _STATES: tuple(states)} if states else out

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        dense = _dense(updates)
        metrics = self._measure(dense, params)
        out: dict[str, Any] = {n: x.to(state[n].dtype, copy=True) for n, x in metrics.items()}
        states = []
        for i, (name, measure) in enumerate(self._averaged.items()):
            out[name], after = measure.update(dense, state[_STATES][i], extra.get("reduce", LOCAL))
            states.append(after)
        return updates, {**out, _STATES: tuple(states)} if states else out

    def _measure(self, updates: PyTree, params: PyTree) -> dict[str, Tensor]:
        out = {}
        for name, measure in self.measures.items():
            if isinstance(measure, measure_with_ema):
                continue
            if not _wants_params(measure):
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
