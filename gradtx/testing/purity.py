"""Nothing that goes in is changed, and the same goes in, the same comes out."""

from __future__ import annotations

import torch

from ..core import tree
from .claims import Snapshot, require, require_finite, require_same, require_same_structure
from .subject import Subject, holds_for_all
from .trees import STEPS, call, number, run, some_grads, some_params, tensors


@holds_for_all
def inputs_untouched(s: Subject) -> None:
    """Neither init nor update writes to what it is given, or moves the global generator."""
    params = some_params()
    hyper = {d.key: number(d.other_value()) for d in s.dynamics}
    before = Snapshot(params, hyper)
    state = s.tx.init(params)
    before.check()
    for step in range(STEPS):
        grads = some_grads(step)
        before = Snapshot(params, hyper, grads, state)
        _, new_state = call(s.tx, grads, state, params, hyper=hyper)
        before.check()
        state = new_state


@holds_for_all
def deterministic(s: Subject) -> None:
    """A second run gives the same bits."""
    require_same(run(s.make()), s.plain, "a second run")


@holds_for_all
def state_is_a_fixed_point(s: Subject) -> None:
    """The state is of tensors, whose structure, dtypes, shapes and devices stay."""
    _, states = s.trajectory
    for x in tree.leaves(states[0]):
        require(isinstance(x, torch.Tensor), f"the state holds {type(x).__name__}, no tensor")
    kinds = [(x.dtype, x.shape, x.device) for x in tensors(states[0])]
    for state in states[1:]:
        require_same_structure(state, states[0], "the next state")
        now = [(x.dtype, x.shape, x.device) for x in tensors(state)]
        changed = [f"{a} became {b}" for a, b in zip(kinds, now, strict=True) if a != b]
        require(not changed, f"the next state: {changed}")


@holds_for_all
def state_owns_its_memory(s: Subject) -> None:
    """No two tensors of the state, nor one and a parameter, share memory."""
    params = some_params()
    state = tensors(s.tx.init(params))
    owners = [x.untyped_storage().data_ptr() for x in [*tensors(params), *state] if x.numel()]
    shared = len(owners) != len(set(owners))
    require(not shared, "two tensors of the state, or one and a parameter, share memory")


@holds_for_all
def parameters_that_require_grad(s: Subject) -> None:
    """Under no_grad nothing that comes out of parameters that require grad does so itself."""
    params = tree.map(lambda p: p.requires_grad_(), some_params())
    with torch.no_grad():  # where derivatives are wanted, copies of parameters stay attached
        attached = any(x.requires_grad for x in tensors(s.tx.init(params)))
        require(not attached, "the state that init makes requires grad")
        got = run(s.tx, params)
    require(not any(x.requires_grad for x in tensors(got)), "what update gives requires grad")
    require_same(got, s.plain, "the run with parameters that require grad")


@holds_for_all
def output_matches_input(s: Subject) -> None:
    """Updates have the structure, shapes, dtypes and devices of gradients, and are finite."""
    for step, out in enumerate(s.plain[0]):
        grads = some_grads(step)
        require_same_structure(out, grads, "the updates")
        for u, g in zip(tensors(out), tensors(grads), strict=True):
            kinds = (u.shape, u.dtype, u.device), (g.shape, g.dtype, g.device)
            require(kinds[0] == kinds[1], f"the updates: a leaf is {kinds[0]}, not {kinds[1]}")
        require_finite(out, "the updates")
