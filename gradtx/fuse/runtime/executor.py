"""``gx.fuse``: any transform as a step that updates parameters and state in place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ...core import tree
from ...core.autocast import outside_autocast
from ...core.protocol import GradientTransformation, require_transform
from ...core.tree import PyTree
from ..ir.errors import CannotFuseError, NotThisStepError
from .batch import Batch
from .engine import Engine
from .fallback import Fallback, step_purely
from .written import Written, is_plain, unwritable

logger = logging.getLogger("gradtx")


class Step:
    """A transform as ``params, state = step(params, grads, state)``, made by ``fuse``.

    Attributes:
        transform: the transform.
    """

    def __init__(self, tx: GradientTransformation, fallback: str = "eager") -> None:
        self.transform = tx
        self.engine = Engine.of(tx)
        self._fallback = Fallback(tx, fallback)
        self.reasons: dict[tuple[str, str], None] = {}
        self._last: tuple[Any, Any, Batch] | None = None
        self._written = Written()
        self._tensors = {
            k: v for k, v in self.engine.hyper.declared.items() if isinstance(v, Tensor)
        }

    @outside_autocast
    def __call__(
        self,
        params: PyTree,
        grads: PyTree,
        state: PyTree,
        *,
        hyper: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        """Update parameters and state in place and return them.

        Args:
            params: tree of tensors, overwritten.
            grads: tree of the same structure; None leaves its parameter alone.
            state: what ``init`` or the last step gave, overwritten.
            hyper: overrides of dynamic hyperparameters by name.
            extra: further arguments of ``update``.

        Inside transforms of ``torch.func`` nothing is overwritten: the pure chain runs there.

        Raises:
            ValueError, TypeError: what the pure chain raises for bad input; parameters that share
                memory; anything that is to be differentiated, which a step in place cannot be.
                Nothing has changed.
            UnsupportedLeafError: a parameter that cannot be written. Nothing has changed.
        """
        if torch._C._are_functorch_transforms_active():
            return step_purely(self.transform, grads, state, params, hyper, extra)
        if torch.compiler.is_compiling():
            with torch.no_grad():
                return self._pure(params, grads, state, hyper, extra)
        if forward_ad._current_level >= 0:
            _refuse_tangents(parameter=params, gradient=grads, state=state, hyperparameter=hyper)
        differentiable = torch.is_grad_enabled()
        if differentiable:
            self._refuse_derivatives(hyper)
        with torch.no_grad():
            try:
                for name, value in extra.items():
                    if not isinstance(value, Tensor) or value.ndim:
                        raise CannotFuseError("", f"argument {name!r} is no 0-d tensor")
                batch = self._repeat(params, grads, state, hyper, extra)
                if batch is None:
                    self._check(params, grads, state, differentiable)
                    state = _unshared(params, grads, state)
                    batch = self.engine.gather(params, grads, state, hyper, extra)
                    # Gradients and losses may be freed between steps.
                    kept = replace(batch, grads=[], extra={})
                    self._last = (tree.flatten(params), tree.flatten(state), kept)
                try:
                    self.engine.run(batch)
                finally:
                    for name, reason in self.engine.passed_over.items():
                        self._note("", f"without {name}", reason)
                if self.engine.lacks is not None:
                    self._note("", "as multi-tensor operations", self.engine.lacks)
                for name, reason in self.engine.refused().items():
                    self._note(name, "as torch operations", reason)
            except CannotFuseError as error:
                if not isinstance(error, NotThisStepError):
                    self._note("", self._fallback.runs, str(error))
                self._check(params, grads, state, differentiable)
                return self._pure(params, grads, state, hyper, extra)
        return params, state

    def report(self) -> str:
        """What has not run as compiled passes so far, and why."""
        lines = [f"{member or 'whole chain'}: {reason}" for member, reason in self.reasons]
        return "\n".join(lines) or "everything is fused"

    def _repeat(
        self,
        params: PyTree,
        grads: PyTree,
        state: PyTree,
        hyper: Mapping[str, Any] | None,
        extra: Mapping[str, Any],
    ) -> Batch | None:
        """The last batch with new gradients, if everything else is the same."""
        if self._last is None:
            return None
        (ps, spec), (states, state_spec), batch = self._last
        now, now_spec = tree.flatten(params)
        state_now, state_now_spec = tree.flatten(state)
        if now_spec != spec or state_now_spec != state_spec:
            return None
        if not (all(map(is_, now, ps)) and all(map(is_, state_now, states))):
            return None
        gs = tree.flatten_like("fuse", spec, grads, "gradient")
        positions = [i for i, g in enumerate(gs) if g is not None]
        if positions != batch.positions:
            return None
        rows, by_leaf = self.engine.hyper.rows(hyper, spec, positions)
        return replace(
            batch, grads=[gs[i] for i in positions], hyper=rows, rows=by_leaf, extra=extra
        )

    def _refuse_derivatives(self, hyper: Mapping[str, Any] | None) -> None:
        """Raise if a hyperparameter requires a derivative."""
        for name, value in (*self._tensors.items(), *(hyper or {}).items()):
            if any(isinstance(x, Tensor) and x.requires_grad for x in tree.leaves(value)):
                raise ValueError(_NO_DERIVATIVE.format(f"hyperparameter {name!r} requires grad"))

    def _check(self, params: PyTree, grads: PyTree, state: PyTree, differentiable: bool) -> None:
        """Raise if parameters cannot be written, or are results of what is differentiated."""
        ps, spec = tree.flatten(params)
        gs = tree.flatten_like("fuse", spec, grads, "gradient")
        where = [i for i, p in enumerate(ps) if isinstance(p, Tensor) and gs[i] is not None]
        names = tree.names(spec)
        self._written.check("fuse", [ps[i] for i in where], lambda: [names[i] for i in where])
        for what, xs in (("parameter", ps), ("state", tree.leaves(state))):
            if differentiable and any(isinstance(x, Tensor) and x.grad_fn is not None for x in xs):
                raise ValueError(_NO_DERIVATIVE.format(f"a {what} has a history"))

    def _note(self, member: str, runs: str, reason: str) -> None:
        """Remember why something is not fused; log it when it is new."""
        if (member, reason) not in self.reasons:
            self.reasons[member, reason] = None
            name = member or self.transform.name
            logger.info("gradtx.fuse: %s runs %s: %s", name, runs, reason)

    def _pure(
        self,
        params: PyTree,
        grads: PyTree,
        state: PyTree,
        hyper: Mapping[str, Any] | None,
        extra: Mapping[str, Any],
    ) -> tuple[PyTree, PyTree]:
        new_params, new_state = self._fallback(grads, state, params, hyper, extra)
        return _into(params, new_params), _into(state, new_state)


def fuse(tx: GradientTransformation, fallback: str = "eager") -> Step:
    """A transform as one fast step that updates parameters and state in place.

    Elementwise chains become a few compiled passes over memory; whatever cannot be fused runs as
    torch operations, with the same result. The chain's values may change at every call.

    Args:
        tx: the transform.
        fallback: what runs if nothing of the chain can be fused, for example because there is no
            compiler: "eager" torch operations, or "compile" for ``torch.compile``. A log line says
            which, and why.

    Raises:
        TypeError: ``tx`` is no transform.
        ValueError: another ``fallback``.

    >>> import torch, gradtx as gx
    >>> step = gx.fuse(gx.sgd(0.5))
    >>> params = {"w": torch.ones(2)}
    >>> state = step.transform.init(params)
    >>> params, state = step(params, {"w": torch.ones(2)}, state)
    >>> params
    {'w': tensor([0.5000, 0.5000])}
    """
    require_transform("fuse", tx)
    return Step(tx, fallback)


_NO_DERIVATIVE = (
    "fuse: a step in place cannot be differentiated, but {}; "
    "use update and gx.apply_updates, or torch.no_grad()"
)


def _refuse_tangents(**given: PyTree) -> None:
    """Raise if a tensor carries a derivative forwards."""
    for what, values in given.items():
        for x in tree.leaves(values):
            if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
                raise ValueError(_NO_DERIVATIVE.format(f"a {what} has a tangent"))


def _unshared(params: PyTree, grads: PyTree, state: PyTree) -> PyTree:
    """The state with a copy wherever two entries are one tensor, or one is a parameter's."""
    leaves, spec = tree.flatten(state)
    others = [*tree.leaves(params), *tree.leaves(grads)]
    seen = {x.data_ptr() for x in others if isinstance(x, Tensor) and is_plain(x) and x.numel()}
    changed = False
    for i, x in enumerate(leaves):
        if isinstance(x, Tensor) and is_plain(x) and x.numel():
            if x.data_ptr() in seen:
                leaves[i], changed = x.clone(), True
            seen.add(x.data_ptr())
    return spec.unflatten(leaves) if changed else state


def _into(old: PyTree, new: PyTree) -> PyTree:
    """Copy new values into the old tensors where they fit, and return the tree."""
    values, spec = tree.flatten(new)
    olds, old_spec = tree.flatten(old)
    if spec != old_spec:
        return new
    out = []
    for a, b in zip(olds, values, strict=True):
        fits = (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
            and (torch.compiler.is_compiling() or not unwritable(a))
        )
        out.append(a.copy_(b) if fits else b)
    return spec.unflatten(out)
