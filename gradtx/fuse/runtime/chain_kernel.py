"""Leaves of a chain that one hand-written operator updates; tried before anything is traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import is_

from torch import Tensor

from ...core import tree
from ...core.execution import ChainStep, chain_kernels
from ...core.protocol import GradientTransformation
from ..frontend.memory import Spans
from ..ir.errors import CannotFuseError
from .batch import Batch
from .door import Gradients, Owned, order


class KernelPlan:
    """A chain's leaves bound to the operator that updates them.

    Args:
        kernel: the operator's name.
        step: its step.
        batch: the leaves, validated: ordinary dense tensors on one device.
        spans: all that is written.
    """

    def __init__(self, kernel: str, step: ChainStep, batch: Batch, spans: Spans) -> None:
        self.label = kernel
        self._step = step
        self._spec, self._positions = batch.spec, batch.positions
        self._lists = (batch.params, batch.states, batch.shared)
        self._owned = Owned(batch.params, batch.every_state())
        self._dtypes = [g.dtype for g in batch.grads]
        strides = [order(p, True) for p in batch.params]
        self._gradients = Gradients(batch.params, self._dtypes, strides, spans)

    @property
    def fails_late(self) -> bool:
        """Whether what ``prepare`` gives may raise."""
        return self._step.may_raise

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the same tensors at the same addresses."""
        lists = (batch.params, batch.states, batch.shared)
        if not all(map(is_, lists, self._lists)) and not self._same(batch):
            return False
        return self._owned.lies_still()

    def _same(self, batch: Batch) -> bool:
        return len(batch.params) == len(self._dtypes) and self._owned.is_(batch.owned())

    def prepare(self, batch: Batch) -> Callable[[], None]:
        """Check gradients and hyperparameters; the result steps."""
        if any(isinstance(v, Tensor) and v.ndim for row in batch.hyper for v in row.values()):
            raise CannotFuseError("", "a hyperparameter has one value an entry")
        grads, at = self._gradients.admit(batch.grads)
        return partial(self._step.run, batch, grads, at, self._name)

    def moved(self) -> int:
        """Bytes that a step reads and writes."""
        return self._step.moved()

    def _name(self, i: int) -> str:
        return tree.names(self._spec)[self._positions[i]]


def match(
    tx: GradientTransformation, batch: Batch, spans: Spans
) -> tuple[KernelPlan | None, dict[str, str]]:
    """The leaves bound to an operator for their whole chain, and why others were passed over."""
    passed_over: dict[str, str] = {}
    for kernel in chain_kernels():
        found = kernel.match(tx)
        if found is None:
            continue
        step = found if isinstance(found, str) else kernel.bind(found, batch)
        if not isinstance(step, str):
            return KernelPlan(kernel.name, step, batch, spans), {}
        passed_over[kernel.name] = step
    return None, passed_over
