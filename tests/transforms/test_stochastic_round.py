"""stochastic_round: the sum arrives at the rounded value; its stream of random numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import gradtx as gx
from gradtx.core.random import fold_in, make_key, random_bits16

HALF = torch.bfloat16


def rounded(p, u, seed=0, name="w", step=0):
    """What stochastic rounding of the float32 sum gives, written without the transform."""
    key = fold_in(make_key(seed, step), name)
    return gx.round_stochastically(p.float() + u, random_bits16(key, p.numel()).reshape(p.shape))


def applied(p, u, seed=0):
    tx = gx.stochastic_round(seed)
    updates, _ = tx.update({"w": u}, tx.init({"w": p}), {"w": p})
    return gx.apply_updates({"w": p}, updates)["w"]


def patterns(generator, n):
    return torch.randint(-(2**31), 2**31, (n,), generator=generator).to(torch.int32)


KINDS = ("any", "near", "cancelling", "vanishing")


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_arrives_at_the_rounded_value(kind):
    """For all finite magnitudes: unrelated, alike, and sums far smaller than both parts."""
    n, generator = 1 << 20, torch.Generator().manual_seed(KINDS.index(kind))
    p = (patterns(generator, n) >> 16).to(torch.int16).view(HALF)
    p_bits = p.float().view(torch.int32)
    u_bits = patterns(generator, n)
    if kind == "near":  # exponents differ by at most 30
        near = (p_bits >> 23 & 0xFF) + torch.randint(-30, 31, (n,), generator=generator)
        u_bits = (u_bits & ~(0xFF << 23)) | (near.clamp(0, 254).to(torch.int32) << 23)
    elif kind != "any":
        spread = 2**22 if kind == "cancelling" else 4
        off = torch.randint(-spread, spread, (n,), generator=generator)
        off = off >> torch.randint(0, 23, (n,), generator=generator)
        u_bits = (p_bits + off.to(torch.int32)) ^ -(2**31)
    u = u_bits.view(torch.float32)
    fits = p.isfinite() & (u.abs() < 2.0**127)
    assert fits.sum() > 0.9 * n
    got, want = applied(p, u), rounded(p, u)
    assert torch.equal(got[fits], want[fits])
    broken = ~(p.float() + u).isfinite()
    torch.testing.assert_close(
        got[broken], (p.float() + u).to(HALF)[broken], rtol=0, atol=0, equal_nan=True
    )


def test_a_small_drift_is_not_lost():
    """1000 steps far below what bfloat16 resolves: rounding to nearest stays where it is."""
    n, steps, size = 4096, 1000, 2.0**-12
    tx = gx.chain(gx.scale(-size), gx.stochastic_round(seed=1))
    params = {"w": torch.ones(n, dtype=HALF)}
    state, nearest = tx.init(params), params
    ones = {"w": torch.ones(n)}
    variance = 0.0
    for _ in range(steps):
        # A value at distance d from the grid below varies by d (step - d) when it is rounded;
        # below 1 the grid is 2^-8 wide, so d is the update's size or the rest of a step.
        updates, state = tx.update(ones, state, params)
        params = gx.apply_updates(params, updates)
        nearest = gx.apply_updates(nearest, {"w": -size * ones["w"]})
        variance += size * (2.0**-8 - size)
    assert torch.equal(nearest["w"], torch.ones(n, dtype=HALF))
    end, deviation = params["w"].double(), math.sqrt(variance)
    want = 1 - steps * size
    assert ((end - want).abs() < 5 * deviation).all()
    assert (end.mean() - want).abs() < 4 * deviation / math.sqrt(n)
    assert end.std() == pytest.approx(deviation, rel=0.1)


def test_other_leaves_pass_through():
    params = {"a": torch.ones(3), "b": torch.ones(3).double(), "c": torch.ones(3).half()}
    updates = gx.tree.map(lambda p: torch.full_like(p, 1e-9, dtype=torch.float32), params)
    tx = gx.stochastic_round()
    out, state = tx.update(updates, tx.init(params), params)
    assert all(torch.equal(out[k], updates[k]) for k in params)
    assert gx.tree.leaves(state) == []


def run(tx, params, state, steps):
    for t in range(steps):
        generator = torch.Generator().manual_seed(t)
        grads = gx.tree.map(lambda p, g=generator: 1e-3 * torch.randn(p.shape, generator=g), params)
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    return params, state


def model():
    return {"a": torch.ones(50, 3, dtype=HALF), "s": torch.ones((), dtype=HALF)}


def test_the_same_seed_replays_and_a_restored_state_continues():
    tx = gx.stochastic_round(seed=5)
    want, _ = run(tx, model(), tx.init(model()), 6)
    again, _ = run(tx, model(), tx.init(model()), 6)
    other, _ = run(gx.stochastic_round(seed=6), model(), tx.init(model()), 6)
    assert torch.equal(again["a"], want["a"])
    state = tx.init(model())
    params = model()
    for t in range(6):
        generator = torch.Generator().manual_seed(t)
        grads = gx.tree.map(lambda p, g=generator: 1e-3 * torch.randn(p.shape, generator=g), params)
        updates, state = tx.update(grads, copy.deepcopy(state), params)
        params = gx.apply_updates(params, updates)
    assert torch.equal(params["a"], want["a"])
    from_another_seed, _ = run(
        gx.stochastic_round(seed=6), model(), gx.stochastic_round(seed=6).init(model()), 6
    )
    assert not torch.equal(from_another_seed["a"], want["a"])
    assert torch.equal(other["a"], want["a"]), "the stream comes from the state, not from the seed"


def test_steps_and_leaves_draw_their_own_numbers():
    p = {"a": torch.ones(20000, dtype=HALF), "b": torch.ones(20000, dtype=HALF)}
    half_way = gx.tree.map(lambda x: torch.full(x.shape, 2.0**-8), p)
    tx = gx.stochastic_round()
    first, state = tx.update(half_way, tx.init(p), p)
    second, _ = tx.update(half_way, state, p)
    ups = [2 * (x > 0).double() - 1 for x in (first["a"], first["b"], second["a"])]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (ups[i] * ups[j]).mean().abs() < 4 / math.sqrt(20000)


def test_inputs_and_the_global_generator_are_left_alone():
    tx, params = gx.stochastic_round(), model()
    grads = gx.tree.map(lambda p: torch.full(p.shape, 1e-3), params)
    state = tx.init(params)
    trees = (params, grads, state)
    before = [[x.clone() for x in gx.tree.leaves(t)] for t in trees]
    generator = torch.get_rng_state()
    tx.update(grads, state, params)
    for tree, copies in zip(trees, before, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(gx.tree.leaves(tree), copies, strict=True))
    assert torch.equal(generator, torch.get_rng_state())


def test_vmap_compile_and_derivatives():
    tx = gx.stochastic_round()
    params = {"w": torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).to(HALF)}
    grads = {"w": torch.full((3, 7), 1e-3)}
    states = torch.func.vmap(tx.init)(params)
    out, new = torch.func.vmap(tx.update)(grads, states, params)
    for i in range(3):
        row = {"w": params["w"][i]}
        want, state = tx.update({"w": grads["w"][i]}, tx.init(row), row)
        assert torch.equal(out["w"][i], want["w"])
        assert torch.equal(new["w"].key[i], state["w"].key)
    torch.compiler.reset()
    compiled = torch.compile(tx.update, fullgraph=True, backend="aot_eager")
    want, _ = tx.update(grads, tx.init(params), params)
    assert torch.equal(compiled(grads, tx.init(params), params)[0]["w"], want["w"])

    def total(u):
        return tx.update({"w": u}, tx.init(params), params)[0]["w"].sum()

    assert torch.equal(torch.func.grad(total)(grads["w"]), torch.zeros(3, 7))


def test_clamp_keeps_parameters_finite():
    largest = torch.finfo(HALF).max
    params = {"w": torch.full((64,), largest, dtype=HALF)}
    push = {"w": torch.full((64,), 1e36)}
    for clamp in (False, True):
        tx = gx.stochastic_round(clamp=clamp)
        updates, _ = tx.update(push, tx.init(params), params)
        assert gx.apply_updates(params, updates)["w"].isfinite().all() == clamp


def optimizer(params):
    tx = gx.chain(gx.scale_by_adam(), gx.scale(-1e-3), gx.stochastic_round(seed=2))
    return gx.optim.from_transform(tx, params)


def test_in_a_torch_optimizer_with_mixed_dtypes():
    def make():
        return [
            torch.nn.Parameter(torch.ones(9, 5, dtype=HALF)),
            torch.nn.Parameter(torch.ones(4)),
        ]

    def steps(opt, params, which):
        for t in which:
            for p in params:
                generator = torch.Generator().manual_seed(t)
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            opt.step()

    through, resumed = make(), make()
    opt = optimizer(through)
    steps(opt, through, range(6))
    first = optimizer(resumed)
    steps(first, resumed, range(3))
    second = optimizer(resumed)
    second.load_state_dict(first.state_dict())
    steps(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(through, resumed, strict=True))
    assert "stochastic_round" in opt.state[through[0]]
    assert "stochastic_round" not in opt.state[through[1]]


@pytest.mark.parametrize("seed", [1.5, True, 2**64])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="stochastic_round: seed must be a 64-bit integer"):
        gx.stochastic_round(seed=seed)


def test_needs_parameters():
    tx = gx.stochastic_round()
    state = tx.init({"w": torch.ones(2)})
    with pytest.raises(ValueError, match="stochastic_round: needs the parameters"):
        tx.update({"w": torch.ones(2)}, state)
