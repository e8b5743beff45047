"""An optimizer whose parameters are DTensors: it runs on the plain tensors that this rank has.

Leaves whose elements a chain treats one by one are updated where they lie, on their local shards;
their states are kept as DTensors over the same memory. All others are put together at an owner,
which updates them whole, as one process would, and keeps their state. Both are the parameters of
one inner optimizer, so that everything that runs fast for plain parameters does so here.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..distributed.packing import Collect, GiveOut, Move
from ..distributed.records import (
    Record,
    group_of,
    is_distributed,
    local_part,
    records_of,
)
from .layouts import Layout, layout_of
from .leaves import Leaves, Nested
from .migration import Bucket, Form
from .shard_states import as_shards, from_owners, of_shards, to_owner


class Sharded:
    """An optimizer on what this rank computes with.

    Args:
        optimizer: whose parameters some are DTensors.
        names: of its parameters.
        chains: with their parameters.

    Raises:
        ValueError: parameters lie in a way that cannot be put together; names the leaf.
    """

    def __init__(
        self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]
    ) -> None:
        self._who = type(optimizer).__name__
        self._names = dict(names)
        self._params = list(names)
        self._locals = [local_part(p) for p in self._params]
        self._groups = list(optimizer.param_groups)
        self._of_groups = [list(g["params"]) for g in self._groups]
        self._transforms = [optimizer.transform_of(g) for g in self._groups]
        of_groups = zip(self._of_groups, self._transforms, strict=True)
        self._chains = {p: tx for params, tx in of_groups for p in params}
        layout = layout_of(self._who, chains, names)
        self._owned = [p for p in self._params if p in layout.owned]
        # What is computed with, by parameter; leaves of other owners are not there.
        self._inside = dict(zip(self._params, self._locals, strict=True))
        self._plan(layout)
        self._inner = self._optimizer_inside(optimizer, layout)
        self._views: dict[Tensor, Nested] = {}
        self._values: list[Any] = []
        self._shown: Any = None
        self._started = False
        # What states were made by, until a step has followed the options as they are now. The
        # optimizer's own record is another one once a state has been loaded.
        self._forms: Mapping[Tensor, Form] = {}
        self._followed = False
        self._own_forms = optimizer._forms

    def _plan(self, layout: Layout) -> None:
        """What is sent, and the memory it is put together in."""
        self._records: dict[Tensor, Record] = {}
        if not self._owned:
            return
        leaves = {self._names[p]: p for p in self._owned}
        self._group = group_of(self._who, {self._names[p]: p for p in self._params})
        rank, size = dist.get_rank(self._group), dist.get_world_size(self._group)
        plan = list(dict.fromkeys(self._transforms))
        found = records_of(self._who, self._group, leaves, plan)
        self._records = dict(zip(self._owned, found, strict=True))
        self._owners = layout.owners(self._names, size)
        for p in self._owned:
            del self._inside[p]
            if self._owners[p] == rank:
                local = local_part(p)
                whole = torch.zeros(p.shape, dtype=p.dtype, device=local.device)
                self._inside[p] = whole.requires_grad_(p.requires_grad)
        self._gradients = {
            p: torch.zeros_like(self._inside[p].detach()) for p in self._owned if p in self._inside
        }
        moves = [Move(self._records[p], self._owners[p], p.dtype) for p in self._owned]
        wholes = [self._whole(p) for p in self._owned]
        grads = [self._gradients.get(p) for p in self._owned]
        device = local_part(self._owned[0]).device
        flags = device.type == "cpu"  # elsewhere reading them would wait for the device
        self._collect = Collect(self._group, moves * 2, grads + wholes, device, flags)
        self._give_out = GiveOut(self._group, moves, wholes, device)

    def _whole(self, p: Tensor) -> Tensor | None:
        x = self._inside.get(p)
        return None if x is None else x.detach()

    def _optimizer_inside(self, optimizer: Any, layout: Layout) -> Any:
        """The same optimizer with the tensors that this rank computes with."""
        inner = copy.copy(optimizer)
        inner.state = defaultdict(dict)
        inner.param_groups = []
        missing = set(layout.joined)
        # For every chain that sums over ranks: a leaf without elements, with the chain's leaves.
        self._nothing: list[tuple[Tensor, list[Tensor]]] = []
        for group, tx in zip(self._groups, self._transforms, strict=True):
            own = [p for p in group["params"] if p in self._inside]
            tensors, names = [self._inside[p] for p in own], [self._names[p] for p in own]
            if tx in missing:  # who has no leaf still takes part in sums
                missing.remove(tx)
                like = local_part(group["params"][0])
                nothing = torch.zeros(0, dtype=like.dtype, device=like.device)
                leaves = [p for p, chain in self._chains.items() if chain == tx]
                self._nothing.append((nothing, leaves))
                tensors, names = [*tensors, nothing], [*names, "(nothing)"]
            inner.param_groups.append({**group, "params": tensors, "param_names": names})
        if layout.joined:
            inner._fused.reducing.update(dict.fromkeys(layout.joined, SumOver(self._group)))
        for tx, (mesh, axis) in layout.summed.items():
            inner._fused.reducing[tx] = SumOver(mesh.get_group(axis))
        return inner

    # -- steps ---------------------------------------------------------------------------------

    def fits(self, optimizer: Any) -> bool:
        """Whether the optimizer still has the parameters and the chains that it had."""
        groups = optimizer.param_groups
        return (
            len(groups) == len(self._groups)
            and all(map(is_, groups, self._groups))
            and all(
                len(g["params"]) == len(then) and all(map(is_, g["params"], then))
                for g, then in zip(groups, self._of_groups, strict=True)
            )
            and all(map(is_, map(optimizer.transform_of, groups), self._transforms))
            and all(map(is_, map(local_part, self._params), self._locals))
        )

    def step(self, optimizer: Any, extra: Mapping[str, Any]) -> None:
        """One step of the optimizer.

        Args:
            optimizer: the same one; it is not kept.
            extra: what its chains get besides gradients.

        Raises:
            ValueError: what the chains raise, or a gradient does not lie as its parameter.
        """
        self._take_in(optimizer)
        self._follow_groups()
        self._started = True
        grads = {p: self._gradient(p) for p in self._params}
        inside = self._inside
        if self._owned:
            locals_ = [*(grads[p] for p in self._owned), *map(local_part, self._owned)]
            with torch.no_grad():
                found = self._collect.run(locals_)
            there = dict(zip(self._owned, found[: len(self._owned)], strict=True))
            grads |= {p: self._gradients.get(p) if some else None for p, some in there.items()}
            for x, leaves in self._nothing:  # a chain whose leaves have no gradient does no step
                x.grad = torch.zeros_like(x) if any(there[p] for p in leaves) else None
        for p, x in inside.items():
            x.grad = grads[p]
        try:
            self._inner._update(self._extra(extra))
            self._followed = True
        finally:
            for x in inside.values():
                x.grad = None
            if self._owned:  # other ranks wait for this one, whatever has happened
                with torch.no_grad():
                    self._give_out.run(list(map(local_part, self._owned)))
        self._show(optimizer)

    def init_state(self, optimizer: Any) -> None:
        """Create the state of every trained parameter that has none, without a step."""
        self._take_in(optimizer)
        self._follow_groups()
        self._started = True
        if self._owned:
            with torch.no_grad():
                self._collect.run([*(None for _ in self._owned), *map(local_part, self._owned)])
        trained = {self._inside[p] for p in self._inside if p.requires_grad}
        self._inner._init_states(lambda x: x in trained)
        self._followed = True
        self._shown = None
        self._show(optimizer)

    def _follow_groups(self) -> None:
        """Options as they are now."""
        for mine, theirs in zip(self._inner.param_groups, self._groups, strict=True):
            params, names = mine["params"], mine["param_names"]
            mine.update(theirs)
            mine["params"], mine["param_names"] = params, names

    def _gradient(self, p: Tensor) -> Tensor | None:
        """This rank's part of a gradient, which lies as its parameter does."""
        grad: Any = p.grad
        if grad is None or not is_distributed(p):
            return grad
        if not is_distributed(grad) or grad.device_mesh != p.device_mesh:  # type: ignore[attr-defined]
            where = f"on {grad.device_mesh}" if is_distributed(grad) else "no DTensor"
            raise ValueError(
                f"{self._who}: the gradient of leaf {self._names[p]!r} is {where}, its parameter "
                f"on {p.device_mesh}; distribute it over the same mesh"  # type: ignore[attr-defined]
            )
        if grad.placements != p.placements:  # type: ignore[attr-defined]
            grad = grad.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
        local = grad._local_tensor
        return local if type(local) is Tensor else grad.to_local()

    def _extra(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Further arguments, trees with this rank's parts."""
        out = dict(extra)
        for name, value in extra.items():
            if isinstance(value, Leaves):
                out[name] = Leaves({n: self._part(name, n, x) for n, x in value.items()})
        return out

    def _part(self, what: str, name: str, x: Any) -> Any:
        p = next(p for p in self._params if self._names[p] == name)
        if x is None:
            return None
        if p in self._records:
            return x.full_tensor() if is_distributed(x) else x
        return of_shards(self._who, self._names[p], p, {what: x})[what]

    # -- state ---------------------------------------------------------------------------------

    def forms(self, optimizer: Any) -> Mapping[Tensor, Form]:
        """What the states of parameters were made by; nothing of those that have been loaded."""
        if optimizer._forms is not self._own_forms:
            return {}
        if not self._followed:
            return self._forms
        options = self._inner.structural()
        of_groups = zip(self._inner.param_groups, self._transforms, self._of_groups, strict=True)
        return {
            p: Form(tx, {name: group[name] for name in options})
            for group, tx, params in of_groups
            for p in params
        }

    def go_on_from(self, forms: Mapping[Tensor, Form]) -> None:
        """Say what the states of parameters were made by."""
        self._forms = forms
        self._inner._forms.put({self._inside[p]: f for p, f in forms.items() if p in self._inside})

    def _take_in(self, optimizer: Any) -> None:
        """Take over states that are not those shown before, as after ``load_state_dict``."""
        state = optimizer.state
        now = {p: state[p] for p in self._params if p in state}
        if (
            len(now) == len(self._views)
            and all(now.get(p) is view for p, view in self._views.items())
            and len(self._values) == sum(map(_count, now.values()))
            and all(map(is_, _leaves(now.values()), self._values))
        ):
            return
        inner = self._inner.state
        for p in self._params:
            nested = state.get(p)
            if p in self._records:
                if nested is self._views.get(p, ()):
                    continue
                whole = to_owner(nested or {}, p in self._inside)
            else:
                whole = of_shards(self._who, self._names[p], p, nested or {})
            if p in self._inside:
                inner.pop(self._inside[p], None)
                if whole:
                    inner[self._inside[p]] = whole
        self._shown = None
        self._show(optimizer)

    def _show(self, optimizer: Any) -> None:
        """Let the optimizer's state be what has been computed, as DTensors where it is sharded."""
        repeat = self._inner._repeat
        if repeat is not None and repeat is self._shown:
            return
        inner = self._inner.state
        for p in self._params:
            nested = inner.get(self._inside[p]) if p in self._inside else None
            if p in self._records:
                if self._started or p in optimizer.state:  # also where others keep it
                    kept = self._entries(p) if nested is None else nested
                    self._views[p] = optimizer.state[p] = kept
            elif nested is not None:
                view = as_shards(p, self._inside[p], nested, self._views.get(p))
                self._views[p] = optimizer.state[p] = view
            elif p in optimizer.state:
                self._views.pop(p, None)
                del optimizer.state[p]
        self._values = list(_leaves(self._views[p] for p in self._params if p in self._views))
        self._shown = repeat

    def _entries(self, p: Tensor) -> Nested:
        """What a state that another rank keeps has, without values: loaders look for names."""
        if p in self._inside or not p.requires_grad:
            return {}
        _, members, _ = self._inner._skeletons.of(self._chains[p], p, self._names[p])
        return {name: {} for name in sorted(members)}

    def export(self, optimizer: Any) -> Callable[[], None]:
        """Let all ranks have the states of leaves that owners keep; gives what undoes it.

        All ranks do it together.
        """
        self._take_in(optimizer)
        kept = {p: optimizer.state[p] for p in self._owned if p in optimizer.state}
        if self._owned:
            held = {p: kept.get(p, {}) for p in self._owned}
            exported = from_owners(self._group, held, self._records, self._owners)
            for p, nested in exported.items():
                if nested:
                    optimizer.state[p] = nested
                else:
                    optimizer.state.pop(p, None)

        def undo() -> None:
            optimizer.state.update(kept)

        return undo


class SumOver:
    """``reduce`` over the ranks of a group, which have leaves of their own each."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over ranks."""
        return self.sum(x) / dist.get_world_size(self._group)

    def max(self, x: Tensor) -> Tensor:
        """Elementwise maximum over ranks."""
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, op: Any) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, op=op, group=self._group)
        return x


class Shards:
    """Whether an optimizer runs on what this rank has of its parameters, and what runs it then."""

    def __init__(self) -> None:
        self._now: Sharded | None = None
        self.there = False

    def find(self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]) -> bool:
        """See whether parameters are DTensors; what is differentiated is left to torch."""
        dtensors = any(map(is_distributed, names)) and not torch.is_grad_enabled()
        self._now = Sharded(optimizer, names, chains) if dtensors else None
        self.there = dtensors
        return dtensors

    def _current(self, optimizer: Any) -> Sharded | None:
        """What runs the optimizer, with its parameters and chains as they are now."""
        if self._now is None or torch.is_grad_enabled():
            return None
        if not self._now.fits(optimizer):
            forms = self._now.forms(optimizer)
            self._now.export(optimizer)
            self.find(optimizer, optimizer._names(), list(optimizer._buckets()))
            if self._now is not None:
                self._now.go_on_from(forms)
        return self._now

    def step(self, optimizer: Any, extra: Mapping[str, Any]) -> bool:
        """Do a step; False if the optimizer does not run on shards."""
        now = self._current(optimizer)
        if now is not None:
            now.step(optimizer, extra)
        return now is not None

    def init_state(
        self, optimizer: Any, names: Mapping[Tensor, str], chains: Sequence[Bucket]
    ) -> bool:
        """Create states without a step; False if the optimizer does not run on shards."""
        if self._current(optimizer) is None:
            self.find(optimizer, names, chains)
        if self._now is not None:
            self._now.init_state(optimizer)
        return self._now is not None

    @torch.no_grad()
    def export(self, optimizer: Any) -> Callable[[], None] | None:
        """Let states be those of whole leaves; gives what undoes it. None without shards."""
        now = self._current(optimizer)
        return None if now is None else now.export(optimizer)


def _leaves(nested: Any) -> Iterator[Any]:
    for value in nested.values() if isinstance(nested, dict) else nested:
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def _count(nested: Nested) -> int:
    return sum(1 for _ in _leaves(nested))
