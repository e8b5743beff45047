"""Nothing that goes in is changed, and the same goes in, the same comes out."""

from __future__ import annotations

import torch

import gradtx as gx
from tests.table import Row

from .helpers import (
    STEPS,
    Snapshot,
    call,
    dynamics,
    grads_,
    params_,
    run,
    same_bits,
    structure,
    tensors,
)


def test_inputs_untouched(row: Row) -> None:
    tx, params = row.make(), params_()
    hyper = {d.key: torch.tensor(d.other_value()) for d in dynamics(tx)}
    before = Snapshot(params, hyper)
    state = tx.init(params)
    before.check()
    for step in range(STEPS):
        grads = grads_(step)
        before = Snapshot(params, hyper, grads, state)
        _, new_state = call(tx, grads, state, params, hyper=hyper)
        before.check()
        state = new_state


def test_deterministic(row: Row) -> None:
    first, second = run(row.make()), run(row.make())
    assert same_bits(first[0], second[0])
    assert same_bits(first[1], second[1])


def test_state_is_a_fixed_point(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init(params)
    assert all(isinstance(x, torch.Tensor) for x in gx.tree.leaves(state)), "not a tensor"
    kinds = [(x.dtype, x.shape, x.device) for x in tensors(state)]
    for step in range(STEPS):
        _, new = call(tx, grads_(step), state, params)
        assert structure(new) == structure(state)
        assert [(x.dtype, x.shape, x.device) for x in tensors(new)] == kinds
        state = new


def test_state_owns_its_memory(row: Row) -> None:
    params = params_()
    state = tensors(row.make().init(params))
    owners = [x.untyped_storage().data_ptr() for x in [*tensors(params), *state] if x.numel()]
    assert len(owners) == len(set(owners)), "two state tensors, or one and a parameter, alias"


def test_parameters_that_require_grad(row: Row) -> None:
    tx = row.make()
    params = gx.tree.map(lambda p: p.requires_grad_(), params_())
    with torch.no_grad():  # where derivatives are wanted, copies of parameters stay attached
        assert not any(x.requires_grad for x in tensors(tx.init(params)))
        outs, state = run(tx, params)
    assert not any(x.requires_grad for x in tensors((outs, state)))
    plain = run(tx)
    assert same_bits(plain[0], outs)
    assert same_bits(plain[1], state)


def test_output_matches_input(row: Row) -> None:
    outs, _ = run(row.make())
    for step, out in enumerate(outs):
        grads = grads_(step)
        assert structure(out) == structure(grads)
        for u, g in zip(tensors(out), tensors(grads), strict=True):
            assert (u.shape, u.dtype, u.device) == (g.shape, g.dtype, g.device)
            assert torch.isfinite(u).all()
