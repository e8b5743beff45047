"""An optimizer whose parameters are DTensors: it runs on the plain tensors that this rank has.

Leaves whose elements a chain treats one by one are updated where they lie, on their local shards;
their states are kept as DTensors over the same memory. All others are put together at an owner,
which updates them whole, as one process would, and keeps their state. Where the members that need
whole leaves read no parameters, their owner makes updates alone, and the members after them run on
shards. Where kernels can add up over ranks what they have of rows, columns and leaves, leaves are
updated by rows, with a message a pass. Each of these has an inner optimizer with parameters of its
own, so that everything that runs fast for plain parameters does so here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import is_
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.protocol import GradientTransformation
from ..distributed.agreed import OtherRankError
from ..distributed.records import Record, group_of, is_distributed, local_part
from .agreeing import agree
from .at_owners import AtOwners
from .cutting import apart, together
from .declared_layouts import Declared
from .inner import Inner, Part, as_head, as_rest, as_rows
from .layouts import Layout, layout_of
from .leaves import Leaves, Nested, values_in
from .migration import Bucket, Form
from .numbering import with_numbers
from .owned import any_gradient
from .rows import ByRows, RowStates
from .shard_states import as_shards, from_holders, gradient_part, of_shards, to_owner
from .skeletons import Skeletons
from .stacks import PartStates
from .summed import Summed


class Sharded:
    """An optimizer on what this rank computes with.

    Args:
        optimizer: whose parameters some are DTensors.
        names: of its parameters.
        chains: with their parameters.
        forms: what the states of parameters were made by, as far as that is known.
        declared: what has been said about how leaves are updated.

    Raises:
        ValueError: parameters lie in a way that cannot be put together; names the leaf.
    """

    def __init__(
        self,
        optimizer: Any,
        names: Mapping[Tensor, str],
        chains: Sequence[Bucket],
        forms: Mapping[Tensor, Form],
        declared: Declared,
    ) -> None:
        self.declared = declared
        self._who = type(optimizer).__name__
        self._names = dict(names)
        self._params = list(names)
        self._locals = [local_part(p) for p in self._params]
        self._groups = list(optimizer.param_groups)
        self._of_groups = [list(g["params"]) for g in self._groups]
        self._transforms = [optimizer.transform_of(g) for g in self._groups]
        of_groups = zip(self._of_groups, self._transforms, strict=True)
        self._chains = {p: tx for params, tx in of_groups for p in params}
        self._fused = [g["fused"] for g in self._groups]
        # States that must follow a change are made anew of whole leaves.
        whole = {p for p, form in forms.items() if form.chain != self._chains.get(p)}
        layout, group, records = agree(
            self._who,
            self._names,
            self._groups,
            self._chains,
            declared,
            lambda kernels: layout_of(self._who, chains, names, whole, declared, kernels),
        )
        self._cuts, self._by_rows = layout.cuts, layout.by_rows
        self._rows, self._parts = layout.rows, layout.parts
        self._lie: dict[Tensor, RowStates | PartStates] = {**self._rows, **self._parts}
        self._at_owners = self._owners(layout, group, records)
        self._records, self._wholes = self._at_owners.records, self._at_owners.wholes
        self._nothing: dict[Tensor, list[Tensor]] = {}
        buckets = self._at_owners.buckets
        inners = [Inner(optimizer, self._parts_at_owners(layout, some)) for some in buckets]
        self._at_owners.run(inners, self._nothing)
        on_shards = list(self._parts_on_shards(layout))
        self._on_shards = Inner(optimizer, [x for x in on_shards if x.chain not in layout.summed])
        self._summed = [
            Summed(
                optimizer,
                [x for x in on_shards if x.chain == tx],
                tx,
                mesh.get_group(axis),
                tx not in layout.purely,
            )
            for tx, (mesh, axis) in layout.summed.items()
        ]
        self._on_rows = Inner(optimizer, self._parts_on_rows(layout))
        self._on_rows.run_rows(layout.by_rows)
        self._beside = (*(x.inner for x in self._summed), self._on_shards, self._on_rows)
        self._beside_owners = {p: inner for inner in self._beside for p in inner.tensors}
        self._inner = *inners, *self._beside
        self._at_owners.join([(self._head_of(tx), tx not in layout.purely) for tx in layout.joined])
        self._skeletons = Skeletons()
        self._views: dict[Tensor, Nested] = {}
        self._values: list[Any] = []
        self._shown: Any = None
        self._started = False
        # What states were made by, until a step has followed the options as they are now. The
        # optimizer's own record is another one once a state has been loaded.
        self._forms = forms
        for inner in self._inner:
            inner.put_forms(forms, self._chains)
        self._options: list[dict[str, Any]] = []
        self._structural = optimizer.structural()
        self._own_forms = optimizer._forms

    def _owners(self, layout: Layout, group: Any, records: Mapping[Tensor, Record]) -> AtOwners:
        """Owners for leaves that are updated whole."""
        if not records:
            return AtOwners(self._who)
        ranks = dist.get_world_size(group)
        buckets = layout.buckets(self._chains, ranks * self.declared.bucket_bytes)
        owners = layout.owners(self._names, ranks, records, buckets)
        return AtOwners(self._who, group, records, owners, self._cuts, buckets)

    def _group(self) -> Any:
        """The ranks that have the leaves between them."""
        return group_of(self._who, {self._names[p]: p for p in self._params})

    def _named(self, p: Tensor) -> Record:
        """A record of a leaf of which nothing is sent but states of parts."""
        return Record(self._names[p], tuple(p.shape), p.dtype, ())

    def _head_of(self, tx: GradientTransformation) -> GradientTransformation:
        """What owners run of a chain that sums over their leaves."""
        return next((cut.head for p, cut in self._cuts.items() if self._chains[p] == tx), tx)

    def _parts_at_owners(self, layout: Layout, bucket: Collection[Tensor]) -> Iterator[Part]:
        """What this rank updates whole of a bucket."""
        missing = {tx for tx in layout.joined if any(self._chains[p] == tx for p in bucket)}
        here = set(bucket) & self._wholes.keys()
        for group, params, tx in self._each_group():
            for cut, own in layout.by_cut(p for p in params if p in here):
                if cut is None:
                    yield self._part(group, tx, own, self._wholes)
                else:
                    yield self._part(group, cut.head, own, self._wholes, as_head)
            if tx in missing:  # who has no leaf still takes part in sums
                missing.remove(tx)
                like = local_part(params[0])
                nothing = torch.zeros(0, dtype=like.dtype, device=like.device)
                self._nothing[nothing] = [p for p, chain in self._chains.items() if chain == tx]
                yield Part(group, self._head_of(tx), {nothing: nothing}, ["(nothing)"])

    def _parts_on_shards(self, layout: Layout) -> Iterator[Part]:
        """What this rank updates of shards."""
        locals_ = dict(zip(self._params, self._locals, strict=True))
        for group, params, tx in self._each_group():
            some = [p for p in params if p not in self._records and p not in self._rows]
            for chain, numbers, own in layout.by_chain(tx, some):
                yield self._part(group, chain, own, locals_, with_numbers(numbers))
            for cut, own in layout.by_cut(p for p in params if p in self._cuts):
                assert cut is not None
                rests = {p: any_gradient(locals_[p].detach()) for p in own}
                yield self._part(group, cut.rest, own, rests, as_rest)

    def _parts_on_rows(self, layout: Layout) -> Iterator[Part]:
        """What this rank updates of rows."""
        locals_ = dict(zip(self._params, self._locals, strict=True))
        for group, params, tx in self._each_group():
            some = [p for p in params if p in self._rows]
            for chain, numbers, own in layout.by_chain(tx, some):
                yield self._part(group, chain, own, locals_, with_numbers(numbers, as_rows))

    def _each_group(self) -> Iterator[tuple[dict[str, Any], list[Tensor], GradientTransformation]]:
        yield from zip(self._groups, self._of_groups, self._transforms, strict=True)

    def _part(
        self,
        group: dict[str, Any],
        chain: GradientTransformation,
        params: Sequence[Tensor],
        tensors: Mapping[Tensor, Tensor],
        options: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    ) -> Part:
        names = [self._names[p] for p in params]
        return Part(group, chain, {p: tensors[p] for p in params}, names, options)

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
            and self._fused == [g["fused"] for g in groups]
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
        together: list[ByRows | Summed] = [*self._by_rows.values(), *self._summed]
        try:
            self._begin(optimizer)
            grads = {p: gradient_part(self._who, self._names[p], p) for p in self._params}
            whole, local = self._extra(extra, whole=True), self._extra(extra, whole=False)
        except Exception:  # other ranks wait for this one, whatever happens
            self._at_owners.failed()
            for each in together:
                each.begin(dict.fromkeys(self._params))
                each.failed()
            raise
        for each in together:
            each.begin(grads)
        try:
            self._step(grads, whole, local)
        except Exception:
            for each in together:
                each.failed()
            raise
        self._follow()
        self._show(optimizer)

    def _step(
        self,
        grads: dict[Tensor, Tensor | None],
        whole: Mapping[str, Any],
        local: Mapping[str, Any],
    ) -> None:
        """Update all leaves; ranks do it together."""
        there = self._at_owners.step(grads, whole)
        updates = self._at_owners.updates.items()
        grads |= {p: u if there[p] else None for p, u in updates}
        for run in self._by_rows.values():
            grads |= run.agree(grads)
        try:
            self._on_rows.step(grads, local)
        except OtherRankError:
            raise
        except RuntimeError as error:
            reason = str(error).rpartition("fused=True, but ")[2]
            raise RuntimeError(
                f"{self._who}: {reason}, and leaf {self._names[next(iter(self._rows))]!r} is "
                "updated by rows, which takes kernels; make the group with fused=False, and owners "
                "update its leaves whole"
            ) from error
        for summed in self._summed:
            grads |= summed.step(grads, local)
        self._on_shards.step(grads, local)
        self._count({**{p: g is not None for p, g in grads.items()}, **there}, whole, local)

    def _count(
        self, there: Mapping[Tensor, bool], whole: Mapping[str, Any], local: Mapping[str, Any]
    ) -> None:
        """Let chains count the step where none of their leaves had a gradient, but others did."""
        if all(there.values()):
            return
        stepped = {self._chains[p] for p, some in there.items() if some}
        moved = {p for p, tx in self._chains.items() if tx in stepped}
        for inner in self._at_owners.inners:
            inner.count(moved, whole)
        for inner in self._beside:
            inner.count(moved, local)

    def init_state(self, optimizer: Any) -> None:
        """Create the state of every trained parameter that has none, without a step."""
        self._take_in(optimizer)
        self._begin(optimizer)
        self._at_owners.collect()
        for inner in self._inner:
            inner.init_states()
        self._follow()
        self._shown = None
        self._show(optimizer)

    def _begin(self, optimizer: Any) -> None:
        """Take over options as they are now; owners write before shards know theirs."""
        if self._records or self._rows:
            for group in self._groups:
                optimizer._check_options(group)
        for inner in self._inner:
            inner.follow()
        self._started = True

    def _follow(self) -> None:
        """Note what states have been made by; what was loaded has followed, too."""
        self._own_forms.put({})
        self._options = [{name: g[name] for name in self._structural} for g in self._groups]

    def _extra(self, extra: Mapping[str, Any], whole: bool) -> dict[str, Any]:
        """Further arguments, trees with what owners have or with this rank's parts."""
        out = dict(extra)
        for name, value in extra.items():
            if isinstance(value, Leaves):
                parts = zip(self._params, value.items(), strict=True)
                out[name] = Leaves({n: self._piece(name, p, x, whole) for p, (n, x) in parts})
        return out

    def _piece(self, what: str, p: Tensor, x: Any, whole: bool) -> Any:
        if x is None:
            return None
        if whole:
            return x.full_tensor() if p in self._records and is_distributed(x) else x
        return of_shards(self._who, self._names[p], p, {what: x})[what]

    # -- state ---------------------------------------------------------------------------------

    def forms(self, optimizer: Any) -> Mapping[Tensor, Form]:
        """What the states of parameters were made by, also of those that have been loaded."""
        if optimizer._forms is not self._own_forms:
            return optimizer._forms.all()
        if not self._options:
            return self._forms
        of_groups = zip(self._options, self._transforms, self._of_groups, strict=True)
        return {p: Form(tx, options) for options, tx, params in of_groups for p in params}

    def _take_in(self, optimizer: Any) -> None:
        """Take over states that are not those shown before, as after ``load_state_dict``."""
        state = optimizer.state
        now = {p: state[p] for p in self._params if p in state}
        values = list(values_in(now.values()))
        if (
            len(now) == len(self._views)
            and all(now.get(p) is view for p, view in self._views.items())
            and len(self._values) == len(values)
            and all(map(is_, values, self._values))
        ):
            return
        for p in self._params:
            nested = state.get(p) or {}
            if p in self._records and state.get(p) is self._views.get(p, ()):
                continue
            first, last = self._apart(p, nested)
            if p in self._records:
                whole = to_owner(first, p in self._wholes)
                if p in self._wholes:
                    self._at_owners.put(p, whole)
            if p in self._lie:
                self._beside_owners[p].put(p, self._lie[p].local(last))
            elif p in self._beside_owners:
                self._beside_owners[p].put(p, of_shards(self._who, self._names[p], p, last))
        self._shown = None
        self._show(optimizer)

    def _apart(self, p: Tensor, nested: Nested) -> tuple[Nested, Nested]:
        """What of a state its owner has, and what lies on shards."""
        if p in self._cuts:
            return apart(nested, self._cuts[p].rest)
        return (nested, {}) if p in self._records else ({}, nested)

    def _show(self, optimizer: Any) -> None:
        """Let the optimizer's state be what has been computed, as DTensors where it is sharded."""
        repeats = [inner.repeat for inner in self._inner]
        if self._shown is not None and None not in repeats and all(map(is_, repeats, self._shown)):
            return
        for p in self._params:
            beside = self._beside_owners.get(p)  # what updates it, or what comes after its owner
            last = None if beside is None else beside.state(p)
            if p not in self._records and last is None:
                if p in optimizer.state:
                    self._views.pop(p, None)
                    del optimizer.state[p]
                continue
            view: Nested = {}
            if last is not None and p in self._lie:
                view = self._lie[p].shown(last, self._views.get(p))
            elif beside is not None and last is not None:
                view = as_shards(p, beside.tensors[p], last, self._views.get(p))
            if p in self._records:
                if not self._started and p not in optimizer.state:
                    continue
                first = self._at_owners.state(p)  # also where others keep it
                first = self._entries(p) if first is None else first
                view = together(first, view) if view else first
            self._views[p] = optimizer.state[p] = view
        self._values = list(values_in(self._views[p] for p in self._params if p in self._views))
        self._shown = repeats

    def _entries(self, p: Tensor) -> Nested:
        """What a state that another rank keeps has, without values: loaders look for names."""
        if p in self._wholes or not p.requires_grad:
            return {}
        _, members, _ = self._skeletons.of(self._chains[p], p, self._names[p])
        return {name: {} for name in sorted(members)}

    def export(self, optimizer: Any) -> Callable[[], None]:
        """Let all ranks have the states of leaves that owners keep; gives what undoes it.

        All ranks do it together.
        """
        self._take_in(optimizer)
        kept = {p: optimizer.state[p] for p in self._params if p in optimizer.state}
        mine: dict[Tensor, Nested] = {}
        rest: dict[Tensor, Nested] = {}
        for p in self._records:
            first, rest[p] = self._apart(p, kept.get(p, {}))
            if p in self._wholes:
                mine[p] = first
        for p, lie in ((p, lie) for p, lie in self._parts.items() if lie.parts):
            rest[p] = kept.get(p, {})
            mine[p] = lie.of_parts(rest[p])
        if rest:
            records = {p: self._records.get(p) or self._named(p) for p in rest}
            exported = from_holders(self._group(), mine, records)
            for p, nested in exported.items():
                if nested or rest[p] or p.requires_grad:  # one that keeps nothing has a state too
                    optimizer.state[p] = together(nested, rest[p])
                else:
                    optimizer.state.pop(p, None)

        def undo() -> None:
            optimizer.state.update(kept)

        return undo
