"""Run a chain on lists of leaves in place; kinds, kernels and tables are kept between steps."""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...core import tree
from ...core.leaves import LeafInfo
from ...core.protocol import GradientTransformation
from ...core.reduce import Asks, Reduce
from ...core.tree import PyTree
from ..cpp.kernel import Kernel
from ..frontend.forms import Form, Forms
from ..frontend.layout import Paths, paths_of, skeleton_of, split, structure_of
from ..frontend.memory import Spans, check_plain
from ..frontend.sequence import Sequence
from ..frontend.specialize import choices as choices_of
from ..frontend.specialize import selectors, specialize
from ..ir.errors import CannotCompileError, CannotFuseError
from .backend import BackEnd, TensorBackEnd, back_end, tensor_back_end
from .batch import Batch, HyperNames
from .chain_kernel import KernelPlan, match
from .events import EventMembers, between_events, with_states
from .inside import fused_inside
from .known import may_be_kept
from .late import late
from .plan import AT_ONCE, LaunchPlan
from .prepared import Prepared
from .segments import Graphs, Kind, Members, Segment, Segments, kind_of
from .separate import Separate
from .streamed import STREAMED


class Engine:
    """Fused execution of one transform.

    Everything that does not depend on values is kept: traces by kind of leaf, kernels by graph,
    launch tables as long as the same tensors come back.

    Args:
        tx: the transform.
        blind: whether it is not to see the parameters, to which its updates are added.
        reduce: joins leaves with those of other processes.
    """

    def __init__(
        self, tx: GradientTransformation, blind: bool = False, reduce: Reduce | None = None
    ) -> None:
        self.events = EventMembers(tx)
        self.tx = tx = between_events(tx)
        self.blind = blind
        self.reduce = reduce
        self.hyper = HyperNames(tx)
        self.chooses = bool(selectors(tx))
        self._skeleton: Any = None
        self._paths: dict[Any, tuple[Any, Paths]] = {}
        self.passed_over: dict[str, str] = {}  # kernels for whole chains, and why they do not fit
        self._graphs: dict[BackEnd, Graphs] = {}
        self._segments: dict[BackEnd, Segments] = {}
        self._back: list[TensorBackEnd] = []  # where nothing can be compiled, the one that runs
        self._plan: LaunchPlan | Separate | KernelPlan | None = None
        self._forms = Forms(lambda choice: specialize(tx, choice, label=False))

    @staticmethod
    def of(tx: GradientTransformation, blind: bool = False) -> Engine:
        """An engine that has the traces of former ones of equal chains."""
        return _first(tx, blind)._anew() if may_be_kept(tx) else Engine(tx, blind)

    def another(self) -> Engine:
        """An engine for other leaves: traces and kernels are shared, launch tables are its own."""
        engine = copy.copy(self)
        engine._plan, engine.events = None, self.events.another()
        return engine

    def _anew(self) -> Engine:
        """An engine that has seen no leaves: traces alone are shared."""
        engine = self.another()
        engine._skeleton, engine._paths, engine.passed_over = None, {}, {}
        engine._segments, engine._back = {}, []
        return engine

    # -- how a state is laid out ---------------------------------------------------------------

    def choices(self, updates: Any, params: Any) -> list[tuple[Any, ...]]:
        """Per leaf of the tree, None included, how partitions and masks treat it."""
        if not self.chooses:
            return [()] * len(tree.flatten(updates)[0])
        return choices_of(self.tx, updates, params)

    def paths(self, p: Tensor, choice: tuple[Any, ...], name: str = "") -> Paths:
        """Structure and nested paths of the state of one parameter.

        Args:
            p: the parameter.
            choice: its entry of ``choices``.
            name: its name, for size rules that read it.
        """
        key = (LeafInfo.of(p, name), choice)
        if key not in self._paths:
            skeleton = skeleton_of(specialize(self.tx, choice, label=False), p)
            self._paths[key] = (skeleton, paths_of(skeleton))
        return self._paths[key][1]

    def skeleton(self, p: Tensor, choice: tuple[Any, ...]) -> Any:
        """A state of one leaf; above the sites it does not depend on which."""
        if self._skeleton is None:
            self._skeleton = skeleton_of(specialize(self.tx, choice, label=False), p)
        return self._skeleton

    def gather(
        self,
        params: PyTree,
        grads: PyTree,
        state: PyTree,
        hyper: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Batch:
        """The leaves that have a gradient.

        Args:
            params: tree of parameters.
            grads: theirs; None where a parameter has none.
            state: of the transform.
            hyper: overrides of dynamic hyperparameters by name.
            extra: further arguments of ``update``.

        Raises:
            CannotFuseError: a leaf is no tensor.
        """
        ps, spec = tree.flatten(params)
        gs = tree.flatten_like("fuse", spec, grads, "gradient")
        there = [i for i, g in enumerate(gs) if g is not None]
        if not there:
            raise CannotFuseError("", "there is no gradient")
        for i in there:
            if not isinstance(gs[i], Tensor) or not isinstance(ps[i], Tensor):
                raise CannotFuseError("", f"a gradient is a {type(gs[i]).__name__}")
        choices = self.choices(grads, params)
        sites, shared = split(self.skeleton(ps[there[0]], choices[there[0]]), state, spec)
        described = [structure_of([site[i] for site in sites]) for i in there]
        rows, by_leaf = self.hyper.rows(hyper, spec, there)
        return Batch(
            [ps[i] for i in there],
            [gs[i] for i in there],
            [tensors for _, tensors in described],
            shared,
            [structure for structure, _ in described],
            [choices[i] for i in there],
            rows,
            by_leaf,
            spec,
            there,
            extra or {},
        )

    def forms(self, batch: Batch) -> list[tuple[Form, ...]]:
        """How the state tensors of leaves relate to them."""
        each = zip(batch.wholes, batch.choices, batch.structures, strict=True)
        return [
            self._forms.describe(whole.rows.leaf, choice, structure, whole.states).forms
            for whole, choice, structure in each
        ]

    # -- steps ---------------------------------------------------------------------------------

    def run(self, batch: Batch) -> None:
        """One step in place.

        Raises:
            CannotFuseError: nothing has changed; run the chain as it is.
        """
        self.prepare(batch).write()

    def prepare(self, batch: Batch, anew: bool = True) -> Prepared:
        """Everything of a step that may fail.

        Args:
            batch: the leaves.
            anew: whether there may be new tables for them.

        Raises:
            CannotFuseError: run the chain as it is, or look at the leaves again first.
        """
        if not self.events:
            return self._prepare(batch, anew)
        members = Members(self.tx, self.skeleton(batch.params[0], batch.choices[0]))
        changed = self.events.changes(members, batch)
        if changed:
            now = with_states(batch, changed)
            step = self._of(self.bind(now), now)
        else:
            step = self._prepare(batch, anew)

        def write() -> None:
            step.write()
            for old, new in changed:
                old.copy_(new)
            self.events.advanced(members, batch)

        return Prepared(write, step.fails_late)

    def _prepare(self, batch: Batch, anew: bool) -> Prepared:
        """The same for a step before which nothing happens."""
        plan = self._plan
        if plan is None or not plan.fits(batch):
            if not anew:
                raise CannotFuseError("", "tensors lie in another way than at the last step")
            self._plan = plan = self.bind(batch)
        return self._of(plan, batch)

    def _of(self, plan: LaunchPlan | Separate | KernelPlan, batch: Batch) -> Prepared:
        """A step by tables."""
        write = plan.prepare(batch)

        def finish() -> None:
            write()
            increment_version(batch.params)

        return Prepared(finish, plan.fails_late)

    def refused(self) -> dict[str, str]:
        """Members that run as torch operations, and why."""
        return {
            name: why
            for segments in self._segments.values()
            for name, why in segments.refused.items()
        }

    @property
    def lacks(self) -> str | None:
        """Why it runs multi-tensor operations in place of compiled passes; None if it does not."""
        return self._back[0].lacks if self._back else None

    def describe(self, batch: Batch) -> LaunchPlan | Separate | KernelPlan:
        """The tables for a batch, without running them."""
        if self._plan is None or not self._plan.fits(batch):
            self._plan = self.bind(batch)
        return self._plan

    def bind(self, batch: Batch) -> LaunchPlan | Separate | KernelPlan:
        """New tables for a batch.

        Raises:
            CannotFuseError: nothing of the chain can be fused.
        """
        self._validate(batch)
        spans = Spans([*batch.owned(), *batch.beside])
        device = batch.params[0].device
        if self.reduce is not None:
            if device.type != "cpu":
                raise CannotFuseError("", f"sums over processes are not fused on {device}")
            try:
                return self._bind(batch, back_end(device), spans)
            except CannotCompileError as error:  # what else there is joins nothing
                raise CannotFuseError("", error.reason) from None
        whole, self.passed_over = match(self.tx, batch, spans)
        if whole is not None:
            return whole
        if not self._back or device.type != "cpu":
            try:
                return self._bind(batch, back_end(device), spans)
            except CannotCompileError as error:
                self._back.append(tensor_back_end(error.reason))
        return self._bind(batch, self._back[0], spans)

    def _bind(self, batch: Batch, back: BackEnd, spans: Spans) -> LaunchPlan | Separate:
        device = batch.params[0].device
        names = (tuple(batch.hyper[0]), tuple(batch.extra))
        maximize = batch.maximize or [False] * len(batch.params)
        # What is done with rows does not depend on how many of them are here.
        shown = [
            (w.rows.leaf, list(w.states), w.rows.leaf.to("meta", g.dtype))
            for w, g in zip(batch.wholes, batch.grads, strict=bool(batch.wholes))
        ]
        shown = shown or list(zip(batch.params, batch.states, batch.grads, strict=True))
        kinds = [
            kind_of(
                self._forms,
                p,
                g,
                s,
                batch.shared,
                structure,
                choice,
                names,
                turned,
                self.tx,
                self.blind,
            )
            for (p, s, g), structure, choice, turned in zip(
                shown,
                batch.structures,
                batch.choices,
                maximize,
                strict=True,
            )
        ]
        distinct = list(dict.fromkeys(kinds))
        segments = self._segments_for(batch, back)
        cuts = segments.cuts(distinct)
        if self.reduce is not None and not all(s.fused for cut in cuts.values() for s in cut):
            raise CannotFuseError("", "a member that is not fused may join processes")
        leaves: list[list[int]] = []
        alone: list[bool] = []
        for cut in dict.fromkeys(cuts.values()):
            where = [i for i, kind in enumerate(kinds) if cuts[kind] == cut]
            single = device.type == "cpu" and segments.one_by_one(cut, [kinds[i] for i in where])
            large = [i for i in where if single and batch.params[i].numel() >= _LARGE]
            few = _few(large, [(batch.params[i].shape, kinds[i].choice) for i in large])
            leaves, alone = leaves + few, alone + [True] * len(few)
            if len(large) < len(where):
                leaves.append([i for i in where if i not in large])
                alone.append(False)
        if len(leaves) == 1:
            return self._piece(segments, cuts[kinds[0]], kinds, batch, back, spans)
        pieces = [
            self._piece(
                segments, cuts[kinds[where[0]]], [kinds[i] for i in where], segment, back, spans
            )
            for where, segment in zip(leaves, Separate.cut(batch, leaves, alone), strict=True)
        ]
        return Separate(batch, list(zip(leaves, pieces, strict=True)))

    def _piece(
        self,
        segments: Segments,
        cut: tuple[Segment, ...],
        kinds: list[Kind],
        batch: Batch,
        back: BackEnd,
        spans: Spans,
    ) -> LaunchPlan:
        """The tables of leaves that go through the same segments."""
        kernels: dict[tuple[Segment, str], dict[Kind, Kernel]] = {}
        distinct, shards = list(dict.fromkeys(kinds)), bool(batch.wholes)
        how = shards, isinstance(self.reduce, Asks)
        strategy = STREAMED if segments.cannot_raise(cut) else AT_ONCE
        first = segments.late(cut)
        if first is not None:
            path, member = first
            strategy = late(Sequence(((path, fused_inside(member, Engine.of)),)))
        for segment in cut:
            if not segment.fused:
                continue
            graphs = {kind: segments.graph(segment, kind) for kind in distinct}
            for variant in ("all",) if segment is cut[-1] else strategy.variants:
                keep = _KEPT[variant]
                chosen = {k: g if keep is None else g.only(keep) for k, g in graphs.items()}
                kernels[segment, variant] = dict(
                    zip(chosen, back.compile_together(list(chosen.values()), *how), strict=True)
                )
        args = (self.hyper, segments, cut, kernels, kinds, batch, back, spans, strategy)
        return LaunchPlan(*args, self.reduce)

    def _validate(self, batch: Batch) -> None:
        device = batch.params[0].device
        for i, (p, g, states) in enumerate(
            zip(batch.params, batch.grads, batch.states, strict=True)
        ):
            check_plain(f"parameter {i}", p, device)
            check_plain(f"gradient {i}", g, device, empty=True)
            for s in states:
                check_plain(f"the state of parameter {i}", s, device)
            if g.shape != p.shape:
                raise CannotFuseError(
                    "", f"gradient {i} has shape {tuple(g.shape)}, parameter {tuple(p.shape)}"
                )
            if not p.is_floating_point() or not g.is_floating_point():
                raise CannotFuseError("", f"parameter {i} has dtype {p.dtype}, gradient {g.dtype}")
        for s in batch.shared:
            check_plain("the shared state", s, device)

    def _segments_for(self, batch: Batch, back: BackEnd) -> Segments:
        if back not in self._segments:
            skeleton = self.skeleton(batch.params[0], batch.choices[0])
            graphs = self._graphs.setdefault(back, {})
            self._segments[back] = Segments(self.tx, skeleton, self.hyper.plain(), back, graphs)
        return self._segments[back]


# The first engines of the chains that were met last.
_first = functools.lru_cache(256)(Engine)


def _few(leaves: list[int], sorts: list[Hashable]) -> list[list[int]]:
    """Leaves of one sort together, at most one per thread."""
    alike: dict[Hashable, list[int]] = {}
    for i, sort in zip(leaves, sorts, strict=True):
        alike.setdefault(sort, []).append(i)
    most = torch.get_num_threads()
    return [some[k : k + most] for some in alike.values() for k in range(0, len(some), most)]


# What the variants of a segment's kernels write; None for everything.
_KEPT = {"all": None, "emit": ("update",), "commit": ("state", "shared")}
# Elements of a leaf that goes through the segments of a chain with few others: on a CPU what lies
# between segments stays in cache then, and takes the memory of these leaves.
_LARGE = 1 << 18
