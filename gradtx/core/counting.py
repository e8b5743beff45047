"""One count of steps for all leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from . import tree
from .execution import Execution
from .leaf_states import map_fields, map_leaf_states
from .protocol import Wrapper
from .state import advance, new_count
from .tree import PyTree


class CountTogetherState(NamedTuple):
    """State of ``count_together``.

    Attributes:
        step: int32, calls so far.
        inner_state: state of the inner transform.
    """

    step: Tensor
    inner_state: PyTree


@dataclass(frozen=True)
class count_together(Wrapper):
    """Count steps once for all leaves, also for those that have missed some.

    By itself every leaf counts the updates that it got. In here one that gets an update again goes
    on from the number of calls so far: its bias corrections and refreshes follow the run, as in
    optimizers whose groups have one counter. Nothing else of a leaf without an update changes.

    Args:
        transform: the inner transform.

    >>> import torch, gradtx as gx
    >>> tx, g = gx.count_together(gx.ema(0.5)), torch.ones(1)
    >>> state = tx.init({"a": g, "b": g})
    >>> for grads in ({"a": g, "b": None}, {"a": g, "b": g}):
    ...     updates, state = tx.update(grads, state)
    >>> {name: round(u.item(), 3) for name, u in updates.items()}
    {'a': 1.0, 'b': 0.667}
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    def init(self, params: PyTree) -> CountTogetherState:
        return CountTogetherState(new_count(tree.leaves(params)), self.transform.init(params))

    def update(
        self, updates: PyTree, state: CountTogetherState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, CountTogetherState]:
        leaves, spec = tree.flatten(updates)

        def counted(field: str, role: str, x: Tensor) -> Tensor:
            # A leaf's state may be its counter alone.
            is_step = field == "step" or (field == "" and x.ndim == 0 and not x.is_floating_point())
            return state.step.to(x.device, x.dtype) if is_step else x

        def put(i: int, s: Any) -> Any:
            return s if leaves[i] is None else map_fields(counted, s)

        inner = map_leaf_states(put, state.inner_state, spec)
        new, inner = self.update_transform(updates, inner, params, extra)
        return new, CountTogetherState(advance(state.step), inner)
