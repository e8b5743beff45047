"""An optimizer's twin that works on tensors of this rank alone."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.agreed import Agreed, DifferError
from .counting import count_step
from .leaves import Nested
from .migration import Form
from .numbering import number_options
from .rows import ByRows, RowSkeletons


class Part(NamedTuple):
    """Leaves of a group that go through one chain.

    Attributes:
        group: of the optimizer.
        chain: what they go through, all of the group's chain or a part of it.
        tensors: by parameter what is updated.
        names: of these.
        options: those of the group as they are for this.
    """

    group: dict[str, Any]
    chain: GradientTransformation
    tensors: Mapping[Any, Tensor]
    names: Sequence[str]
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = dict


class Inner:
    """An optimizer of the same class with some tensors as its parameters, and chains for them.

    Args:
        optimizer: the one that has the groups.
        parts: what it updates.

    Attributes:
        tensors: by parameter, what is updated for it.
    """

    def __init__(self, optimizer: Any, parts: Iterable[Part]) -> None:
        self._parts = [part for part in parts if part.tensors]
        self.tensors: dict[Any, Tensor] = {}
        self._active: set[Tensor] = set()
        self._agreed: list[tuple[Agreed, list[Tensor]]] = []
        twin = copy.copy(optimizer)
        twin.state = defaultdict(dict)
        twin.param_groups = []
        chains: dict[int, GradientTransformation] = {}
        for part in self._parts:
            own = {"params": list(part.tensors.values()), "param_names": list(part.names)}
            twin.param_groups.append({**part.options(part.group), **own})
            chains[id(twin.param_groups[-1])] = part.chain
            self.tensors.update(part.tensors)
        twin.transform_of = lambda group: chains[id(group)]
        if any(map(number_options, twin.param_groups)):
            itself, kind = weakref.ref(twin), type(twin)
            twin.options = lambda group: {
                **kind.options(itself(), group),
                **number_options(group),
            }
        self._twin = twin

    def join(self, chain: GradientTransformation, reduce: Any, kernels: bool = True) -> None:
        """Let the leaves of a chain be summed with those of other ranks, who use kernels or not."""
        self._twin._fused.reducing[chain] = reduce
        if not kernels:
            self._twin._fused.purely.add(chain)

    def join_owners(self, chain: GradientTransformation, reduce: Any, kernels: bool = True) -> None:
        """The same for a chain that all ranks run if one does, with leaves of their own each."""
        self.join(chain, reduce, kernels)
        if isinstance(reduce, Agreed):
            own = [x for part in self._parts if part.chain == chain for x in part.tensors.values()]
            self._agreed.append((reduce, own))

    def only_operations(self, chain: GradientTransformation, only: bool) -> None:
        """Say whether a chain is to run as torch operations here as it does elsewhere."""
        self._twin._repeat = None
        (self._twin._fused.purely.add if only else self._twin._fused.purely.discard)(chain)

    def run_rows(self, by_rows: Mapping[GradientTransformation, ByRows]) -> None:
        """Let chains run on rows of leaves."""
        states = {}
        for tx, run in by_rows.items():
            self._twin._fused.put(tx, run.engine)
            states.update({self.tensors[p]: state for p, state in run.states.items()})
        self._twin._skeletons = RowSkeletons(states)

    def follow(self) -> None:
        """Take over options as they are now."""
        for mine, part in zip(self._twin.param_groups, self._parts, strict=True):
            params, names = mine["params"], mine["param_names"]
            mine.update(part.options(part.group))
            mine["params"], mine["param_names"] = params, names

    def step(self, grads: Mapping[Any, Tensor | None], extra: Mapping[str, Any]) -> None:
        """One step with these gradients by parameter.

        Raises:
            RuntimeError: of a chain of owners, some run it in kernels and others cannot.
        """
        if not self._parts:
            return
        for p, x in self.tensors.items():
            x.grad = grads.get(p)
        self._active = {x for x in self.tensors.values() if x.grad is not None}
        agreed = [r for r, own in self._agreed if not self._active.isdisjoint(own)]
        for reduce in agreed:
            reduce.begin()
        try:
            self._twin._update(extra)
        except Exception:
            for reduce in agreed:
                reduce.failed()
            raise
        except DifferError:
            if not agreed:  # who has begun the step knows what to do
                raise
            raise RuntimeError(
                f"{type(self._twin).__name__}: some ranks cannot run a chain in kernels that sums "
                "over leaves of all of them (the log of logger 'gradtx' says where and why); make "
                "its groups with fused=False"
            ) from None
        finally:
            for x in self.tensors.values():
                x.grad = None

    def count(self, moved: Container[Any], extra: Mapping[str, Any]) -> None:
        """Let chains count a step for which their leaves here had no gradient.

        Args:
            moved: the parameters whose chains have done a step.
            extra: what those got.
        """
        moving = {x for p, x in self.tensors.items() if p in moved}
        if moving <= self._active:
            return
        names = self._twin._names()
        for tx, groups in self._twin._buckets():
            if moving & groups.keys() and not self._active & groups.keys():
                with torch.no_grad():
                    count_step(self._twin, tx, groups, names, extra)

    def init_states(self) -> None:
        """Create the states of trained parameters that have none."""
        trained = {x for p, x in self.tensors.items() if getattr(p, "requires_grad", False)}
        if trained:
            self._twin._init_states(lambda x: x in trained)

    @property
    def repeat(self) -> Any:
        """What tells that the states are the same objects that they were; None if nothing does."""
        return self._twin._repeat if self._parts else ()

    def state(self, p: Any) -> Nested | None:
        """The state of a parameter, if it has one."""
        return self._twin.state.get(self.tensors[p]) if p in self.tensors else None

    def put(self, p: Any, state: Nested) -> None:
        """Replace the state of a parameter; an empty one is none."""
        self._twin.state.pop(self.tensors[p], None)
        if state:
            self._twin.state[self.tensors[p]] = state

    def put_forms(
        self, forms: Mapping[Any, Form], chains: Mapping[Any, GradientTransformation]
    ) -> None:
        """Say what states were made by.

        Args:
            forms: by parameter.
            chains: of parameters, of which this has parts.
        """
        own = {}
        for part in self._parts:
            for p, x in part.tensors.items():
                form = forms.get(p)
                if form is not None:
                    same = form.chain == chains.get(p)
                    own[x] = form._replace(chain=part.chain) if same else form
        self._twin._forms.put(own)


def as_head(group: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a head, which may have nothing that can be fused; a rest always has."""
    return {**group, "fused": False if group["fused"] is False else None}


def as_rows(group: Mapping[str, Any]) -> dict[str, Any]:
    """Options of leaves by rows: only kernels join them with those of other ranks."""
    return {**group, "fused": True}


def as_rest(group: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a rest: what comes in has been turned around already."""
    return {**group, "maximize": False}
