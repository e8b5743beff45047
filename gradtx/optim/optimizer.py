"""Any chain as a real ``torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain as concat
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..core.autocast import outside_autocast
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.tree import PyTree
from ..distributed.records import is_distributed
from ..fuse import Prepared, Written, write_all
from .arguments import arguments, has_trees
from .checkpoint import complete, read
from .computing import compute
from .fused import FusedSteps
from .given import check_group, check_mapping, check_params
from .leaves import (
    Leaves,
    Nested,
    commit,
    from_nested,
    gradient_of,
    merge_into,
    part_of,
    storage_of,
    to_nested,
    with_own_memory,
)
from .migration import Bucket, Forms, Undo
from .options import Option, check_agree, check_entries, check_fallback, check_unknown
from .repeat import GroupValues, Repeat, Run
from .saved_options import to_saved
from .sharding import check_sharding, count_in_zero, names_everywhere
from .shards import Shards
from .skeletons import Skeletons
from .wrappers import is_for_state, usual_rates

# torch 2.10 has it under its old name, which newer versions deprecate.
_check_capture: Callable[[torch.optim.Optimizer], None] = getattr(
    torch.optim.Optimizer, "_accelerator_graph_capture_health_check", None
) or getattr(torch.optim.Optimizer, "_cuda_graph_capture_health_check")  # noqa: B009


class Optimizer(torch.optim.Optimizer):
    """A chain of gradient transformations driving ``torch.nn`` parameters.

    Use ``gx.optim.from_transform`` or one of the ready classes. ``state[p]`` is a nested dict of
    tensors and numbers keyed by the names of the chain's members; every dynamic hyperparameter is
    an option of ``param_groups``, so schedulers and per-group values work on every chain.

    A step runs as compiled kernels where it can: the group option ``fused`` is None for that, False
    for torch operations, True to raise where it cannot. Torch operations run eagerly, or through
    ``torch.compile`` with ``fallback="compile"`` (that of a chain's first group counts). Groups may
    have chains of their own; they are one step. Either way everything that may fail comes before
    the first write: after an exception nothing has changed.

    Options may change between steps, also those that choose members of the chain. What is kept
    follows at the next step and in checkpoints: what both forms have goes on, new parts begin as at
    the first step, and a member that is switched off keeps its state. Where that would mix what
    does not belong together, as with another codec, it starts anew, and a warning says so.

    Args:
        params: parameters, named parameters, or groups of either.
        defaults: default value of every group option.

    >>> import torch, gradtx as gx
    >>> issubclass(gx.optim.Optimizer, torch.optim.Optimizer)
    True
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._skeletons, self._forms = Skeletons(), Forms()
        self._fused, self._written = FusedSteps(), Written()
        self._repeat: Repeat | None = None
        self._shards = Shards()
        check_params(type(self).__name__, params)
        defaults = {name: plain(value) for name, value in defaults.items()}
        self._check_options(defaults)
        super().__init__(params, defaults)

    def transform_of(self, group: Mapping[str, Any]) -> GradientTransformation:
        """The chain for a parameter group, as its structural options ask."""
        raise NotImplementedError

    def options(self, group: Mapping[str, Any]) -> Mapping[str, Option]:
        """The dynamic options of a parameter group by name."""
        raise NotImplementedError

    @classmethod
    def structural(cls) -> tuple[str, ...]:
        """Names of the options that choose the members of the chain."""
        return ()

    # -- groups ------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options that it does not set take their defaults.

        Raises:
            ValueError: a value outside its interval, a misspelt option, or what torch raises.
        """
        if isinstance(param_group, dict):
            check_unknown(type(self).__name__, param_group, self.defaults)
            check_group(type(self).__name__, param_group)
            param_group.update({k: plain(v) for k, v in param_group.items() if k != "params"})
            self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            self._check_added(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _check_added(self, group: Mapping[str, Any]) -> None:
        """Raise where a new group does not fit its parameters, or the groups before it."""
        who = type(self).__name__
        for name, option in self.options(group).items():
            check_entries(who, name, option, group)
        tx = self.transform_of(group)
        for other in self.param_groups[:-1]:
            if self.transform_of(other) is tx:
                check_agree(who, tx, self.options(other), other, group)

    def _check_options(self, group: Mapping[str, Any]) -> None:
        check_fallback(type(self).__name__, group)
        for name, option in self.options(group).items():
            option.check(type(self).__name__, name, group[name])

    def _names(self) -> dict[Tensor, str]:
        return names_everywhere(self)

    def _buckets(self) -> Iterator[Bucket]:
        """Parameters with their groups, by chain: groups with equal chains are updated together."""
        buckets: dict[GradientTransformation, dict[Tensor, dict[str, Any]]] = {}
        for group in self.param_groups:
            members = buckets.setdefault(self.transform_of(group), {})
            for p in group["params"]:
                members.setdefault(p, group)
        yield from buckets.items()

    # -- step --------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None, **extra: Any) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss; called once, under ``enable_grad``.
                Its result is the ``value`` of members that ask (negative if all groups maximize).
            extra: what other members ask for, such as ``hessian``: a tensor per parameter, as a
                mapping from parameters or their names or as a sequence; or a number, as ``value``.

        Returns:
            What the closure returned, or None.

        Raises:
            TypeError, ValueError: an argument that no member takes, or that does not fit the
                parameters. Nothing has changed.
        """
        _check_capture(self)
        if not self.state and not torch.compiler.is_compiling() and is_for_state():
            with usual_rates(self):
                self.init_state()
            return None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(any(g["differentiable"] for g in self.param_groups)):
            self._step(loss, extra)
        return loss

    def _check_step(self) -> None:
        """Raise where the optimizer must not step now."""

    @torch._disable_dynamo
    @outside_autocast
    def _step(self, loss: Any, given: Mapping[str, Any]) -> None:
        if torch.is_inference_mode_enabled() and not any(p.is_inference() for p in self._names()):
            # State outlives the mode, and could not be overwritten later.
            with torch.inference_mode(False), torch.no_grad():
                self._step(loss, given)
            return
        self._check_step()
        is_number = isinstance(loss, Tensor) and loss.numel() == 1
        extra = {"value": loss.reshape(())} if is_number else {}
        if given:
            extra |= arguments(type(self).__name__, given, self._names(), self._buckets())
        if "value" in extra and all(group["maximize"] for group in self.param_groups):
            extra["value"] = -extra["value"]  # what is minimized
        self._update(extra)

    def _update(self, extra: Mapping[str, Any]) -> None:
        """One step, with what its chains get besides gradients."""
        if self._shards.there and self._shards.step(self, extra):
            return
        repeat, self._repeat = self._repeat, None
        again = repeat is not None and not torch.is_grad_enabled() and not has_trees(extra)
        if again and repeat.run(self, extra):  # type: ignore[union-attr]
            self._repeat = repeat
            return
        names, chains = self._names(), list(self._buckets())
        check_sharding(self, chains, names)
        if self._shards.find(self, names, chains):
            self._shards.step(self, extra)
            return
        undo = self._follow_options(chains, names)
        try:
            self._step_anew(chains, names, extra)
        except BaseException:
            undo()
            raise
        count_in_zero(self, extra)

    def _follow_options(self, chains: Sequence[Bucket], names: Mapping[Tensor, str]) -> Undo:
        """Put states into the form that the groups' options ask for now; gives what undoes it."""
        who = type(self).__name__
        return self._forms.follow(who, chains, self.structural(), names, self.state)

    def _step_anew(
        self, chains: Sequence[Bucket], names: Mapping[Tensor, str], extra: Mapping[str, Any]
    ) -> None:
        buckets = []
        for tx, groups in chains:
            some = {p: g for p, g in groups.items() if p.grad is not None}
            if some:
                buckets.append((tx, groups, some))
        active = [p for _, _, some in buckets for p in some]
        self._written.check(type(self).__name__, active, lambda: [names[p] for p in active])
        # All that may fail comes first. Of steps that fail late there can be one, so that nothing
        # has been written if it does.
        fused: list[tuple[Prepared, dict[Tensor, Nested], Run]] = []
        computed = []
        for tx, groups, some in buckets:
            late = any(step.fails_late for step, _, _ in fused)
            beside = [p for p in active if p not in some]
            found = self._prepare(tx, groups, some, names, extra, late, beside)
            if found is None:
                new = compute(self, tx, groups, some, names, extra)
                computed.append((groups, some, [names[p] for p in some], *new))
            else:
                fused.append(found)
        write_all(step for step, _, _ in fused)
        for p, nested in concat.from_iterable(states.items() for _, states, _ in fused):
            if self.state.get(p) is not nested:
                self.state[p] = nested
        for values in computed:
            commit(self.state, *values)
        if not computed and fused:
            self._repeat = Repeat(self, names, [run for _, _, run in fused])

    def _prepare(
        self,
        tx: GradientTransformation,
        groups: Mapping[Tensor, dict[str, Any]],
        active: Mapping[Tensor, dict[str, Any]],
        names: Mapping[Tensor, str],
        extra: Mapping[str, Any],
        late: bool,
        beside: Sequence[Tensor],
    ) -> tuple[Prepared, dict[Tensor, Nested], Run] | None:
        """A step in place with compiled kernels, and states; None if not wanted or not possible.

        With ``late`` there is a step already that may fail late; others write ``beside``.
        """
        options = [g["fused"] for g in groups.values()]
        if torch.is_grad_enabled() or tx in self._fused.purely or False in options:
            return None
        if has_trees(extra):
            if any(options):
                raise RuntimeError(f"{type(self).__name__}: fused=True, but step got {list(extra)}")
            return None
        for p, group in active.items():
            gradient_of(tx, names[p], p, group)
        engine = self._fused.engine(tx)
        distinct = {id(g): g for g in active.values()}
        rows = [GroupValues(self, g, engine) for g in distinct.values()]
        if any(row.per_entry for row in rows):
            if any(options):
                raise RuntimeError(f"{type(self).__name__}: fused=True, but an option has entries")
            return None
        row_of = {key: i for i, key in enumerate(distinct)}
        skeletons, nested = self._skeletons.complete(
            type(self).__name__, tx, active, names, self.state, groups
        )
        first = next(iter(active))
        held: Nested = next((self.state[p] for p in groups if self.state.get(p)), {})
        if held and not self.state.get(first):  # what all share is read from the first
            shared = part_of(held, to_nested(skeletons[names[first]], None))
            merge_into(nested[names[first]], shared, in_place=False)
        step = self._fused.prepare(
            tx,
            check_fallback(type(self).__name__, next(iter(active.values()))),
            any(options),
            params=list(active),
            grads=[p.grad for p in active],
            states=list(nested.values()),
            params_tree=lambda: Leaves({names[p]: p for p in active}),
            hyper=[row.row for row in rows],
            rows=[row_of[id(g)] for g in active.values()],
            maximize=[g["maximize"] for g in active.values()],
            extra=extra,
            others=[self.state[p] for p in groups if p not in active and self.state.get(p)],
            names=[names[p] for p in active],
            beside=beside,
        )
        if not isinstance(step, str) and step.fails_late and late:
            step = "the step of another group may fail when this one has been written"
        if not isinstance(step, str):
            return step, {p: nested[names[p]] for p in active}, Run(engine, list(active), rows)
        if any(options):
            raise RuntimeError(f"{type(self).__name__}: fused=True, but {step}")
        return None

    def _gather(
        self,
        tx: GradientTransformation,
        groups: Mapping[Tensor, dict[str, Any]],
        active: Iterable[Tensor],
        names: Mapping[Tensor, str],
    ) -> PyTree:
        """The state of the active parameters as the chain knows it."""
        skeletons, nested = self._skeletons.complete(
            type(self).__name__, tx, active, names, self.state, groups
        )
        # Any parameter that has a state holds the shared part, also one without a gradient now.
        held: Nested = next((self.state[p] for p in groups if self.state.get(p)), {})
        return from_nested(skeletons, nested, {**next(iter(nested.values()), {}), **held})

    def _values(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameter values that a group feeds, by name."""
        values: dict[str, Any] = {}
        for name, option in self.options(group).items():
            values.update(option.values(group[name]))
        return values

    # -- state -------------------------------------------------------------------------------

    def init_state(self) -> None:
        """Create the state of every trained parameter that has none, without a step."""
        with torch.no_grad():
            names, chains = self._names(), list(self._buckets())
            check_sharding(self, chains, names)
            if not self._shards.init_state(self, names, chains):
                self._init_states(lambda p: p.requires_grad)

    def _init_states(self, is_trained: Callable[[Tensor], bool]) -> None:
        names, chains = self._names(), list(self._buckets())
        self._follow_options(chains, names)
        with torch.no_grad():
            for tx, groups in chains:
                new = [p for p in groups if is_trained(p) and not self.state.get(p)]
                state = self._gather(tx, groups, new, names) if new else ()
                foreign = {storage_of(p) for p in groups}
                for p in new:
                    self.state[p] = with_own_memory(to_nested(state, names[p]), foreign)

    def _member_names(self, group: Mapping[str, Any]) -> list[str]:
        return list(self.transform_of(group).inner)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with an entry ``"gradtx"``: version and chain members of every group.

        ``torch.load`` takes it by default. For options that are functions, which no file holds, it
        has words instead; the optimizer that loads it must have them already. Among several
        processes every trained parameter has a state, also one that had no gradient yet.
        """
        complete(self)
        handle = self.register_state_dict_post_hook(self._mark, prepend=True)
        undo = self._shards.export(self)
        undo = undo or self._follow_options(list(self._buckets()), self._names())
        try:
            return super().state_dict()
        finally:
            undo()
            handle.remove()

    def _mark(self, _: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        """Make a state dict one that files hold, and mark it, before the user's hooks see it."""
        groups = state_dict["param_groups"]
        state_dict["param_groups"] = [to_saved(group, self.defaults) for group in groups]
        chains = [self._member_names(group) for group in self.param_groups]
        state_dict["gradtx"] = {"version": __version__, "chain": chains}

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state; dtypes and values are kept, tensors are copied to the parameter's device.

        Args:
            state_dict: what ``state_dict`` gave, or that of torch's class of the same name. It is
                not modified and shares no memory afterwards. Group options missing from it keep
                their present values.

        Raises:
            ValueError: other number or size of groups, the state of another chain (names the
                members), a tensor of another shape or a counter of another dtype (names it), or an
                option that was a function and is none here. Nothing has changed then.
        """
        check_mapping(type(self).__name__, state_dict)
        state_dict = dict(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            if replaced is not None:
                state_dict = dict(replaced)
        state, groups = read(self, state_dict)
        self._forms = Forms()
        self.state.clear()
        self.state.update(state)
        self.param_groups[:] = groups
        self._follow_options(list(self._buckets()), self._names())  # what made the states
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    # -- copies and printing -----------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # Hooks are left out, as torch does; what a subclass adds (its chain) is kept.
        torchs = ("_optimizer_", "_zero_grad_profile", "_warned", "_step_supports_amp_scaling")
        made = ("_skeletons", "_forms", "_fused", "_written", "_repeat", "_shards")
        left_out = (*torchs, *made)
        own = {k: v for k, v in self.__dict__.items() if not k.startswith(left_out)}
        own.pop("step", None)  # a scheduler's wrapper, bound to this instance
        names = self._names()  # DTensors' states follow where they are computed with
        plain = not any(map(is_distributed, names))
        undo = self._follow_options(list(self._buckets()), names) if plain else lambda: None
        own["state"] = self.state.copy()
        undo()
        return own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._skeletons, self._forms = Skeletons(), Forms()
        self._fused, self._repeat = FusedSteps(), None
        self._written, self._shards = Written(), Shards()
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
        self._follow_options(list(self._buckets()), self._names())

    def __repr__(self) -> str:
        chains = dict.fromkeys(repr(self.transform_of(g)) for g in self.param_groups)
        return super().__repr__() + "".join(f"\n{text}" for text in chains)
