"""Prodigy: the estimate against a loop of plain numbers, and what a step may depend on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.execution import holds

SHAPES = {"w": (4, 3), "b": (5,), "s": (), "e": (0, 2)}
Tree = dict[str, Any]


def draw(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Tree:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}


def pull(params: Tree, t: int) -> Tree:
    """Gradients towards a far point, with noise, so that the estimate grows."""
    return {
        k: p + 3.0 + 0.1 * g for (k, p), g in zip(params.items(), draw(t).values(), strict=True)
    }


def steps(tx: Any, n: int, state: Any = None, params: Any = None, start: int = 0, **extra: Any):
    params = draw(100) if params is None else params
    state = tx.init(params) if state is None else state
    for t in range(start, start + n):
        updates, state = tx.update(pull(params, t), state, params, **extra)
        params = gx.apply_updates(params, updates)
    return params, state


def shared(state: Any) -> Any:
    return gx.tree.get(state, "shared")


def kept(state: Any) -> Any:
    return gx.tree.get(state, "leaves")


def assert_close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert gx.tree.flatten(a)[1] == gx.tree.flatten(b)[1]
    for x, y in zip(gx.tree.leaves(a), gx.tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


# -- against a plain loop ----------------------------------------------------------------------


class Plain:
    """The published loop in float64, one number after the other."""

    def __init__(self, params: Tree, **options: Any) -> None:
        self.o = {
            "lr": 1.0,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "wd": 0.0,
            "d0": 1e-6,
            "d_coef": 1.0,
            "growth": math.inf,
            "slice_p": 1,
            "steps": 0,
            "first": False,
        } | options
        self.beta3 = self.o.get("beta3") or math.sqrt(self.o["b2"])
        self.p = {k: p.double() for k, p in params.items()}
        self.p0 = {k: p.clone() for k, p in self.p.items()}
        self.m, self.v, self.s = ({k: p * 0 for k, p in self.p.items()} for _ in range(3))
        self.d = self.d_max = self.o["d0"]
        self.num, self.k = 0.0, 0

    def step(self, grads: Tree) -> None:
        o, d, cut = self.o, self.d, self.o["slice_p"]
        dlr, num, den = d * o["lr"], self.beta3 * self.num, 0.0
        if o.get("corrected"):
            t = self.k + 1
            dlr *= math.sqrt(1 - o["b2"] ** t) / (1 - o["b1"] ** t)
        active = not o["steps"] or self.k < o["steps"]
        for k, given in grads.items():
            if given is None:
                continue
            g = given.double()
            if active:
                away = (self.p0[k] - self.p[k]).flatten()[::cut]
                num += d / o["d0"] * dlr * float(g.flatten()[::cut] @ away)
                self.s[k] = self.beta3 * self.s[k] + d / o["d0"] * dlr * g
                den += float(self.s[k].flatten()[::cut].abs().sum())
            self.m[k] = o["b1"] * self.m[k] + (1 - o["b1"]) * d * g
            self.v[k] = o["b2"] * self.v[k] + (1 - o["b2"]) * (d * g) ** 2
        if active and den > 0:
            hat = o["d_coef"] * num / den
            if self.d == o["d0"]:
                self.d = max(self.d, hat)
            self.d_max = max(self.d_max, hat)
            self.d = min(self.d_max, self.d * o["growth"])
        if active:
            self.num = num
        for k, g in grads.items():
            if g is not None:
                unit = self.d if o["first"] else d
                mean = self.m[k] if o["b1"] else unit * g
                direction = mean / (self.v[k].sqrt() + unit * o["eps"])
                self.p[k] = self.p[k] - dlr * (direction + o["wd"] * self.p[k])
        self.k += 1


@pytest.mark.parametrize(
    ("plain", "ours"),
    [
        ({}, {}),
        ({"slice_p": 3, "wd": 0.1}, {"slice_p": 3, "weight_decay": 0.1}),
        (
            {"beta3": 0.8, "d_coef": 0.5, "growth": 1.2},
            {"beta3": 0.8, "d_coef": 0.5, "growth_rate": 1.2},
        ),
        ({"steps": 5, "lr": 0.5}, {"prodigy_steps": 5, "lr": 0.5}),
        ({"eps": 0.3}, {"eps": 0.3}),
    ],
    ids=str,
)
def test_is_the_published_loop(plain: dict[str, Any], ours: dict[str, Any]) -> None:
    params = draw(100)
    reference = Plain(params, d0=1e-2, **plain)
    tx = gx.prodigy_adv(**{"d0": 1e-2, "slice_p": 1, **ours})
    state = tx.init(params)
    for t in range(12):
        grads = pull(params, t) | ({"b": None} if t in (3, 4) else {})
        reference.step(grads)
        updates, state = tx.update(grads, state, params)
        params = {k: p if updates[k] is None else p + updates[k] for k, p in params.items()}
        assert_close(params, {k: p.float() for k, p in reference.p.items()}, atol=1e-5)
        assert shared(state).d.item() == pytest.approx(reference.d, rel=1e-5)
        assert shared(state).d_numerator.item() == pytest.approx(reference.num, rel=1e-4)
    assert reference.d > 1e-2


@pytest.mark.parametrize(("b1", "corrected"), [(0.9, False), (0.9, True), (0.0, False)])
def test_estimate_first_is_the_published_loop(b1: float, corrected: bool) -> None:
    params = draw(100)
    reference = Plain(params, d0=1e-2, eps=0.3, b1=b1, first=True, corrected=corrected)
    tx = gx.prodigy(d0=1e-2, eps=0.3, b1=b1, bias_correction=corrected)
    state = tx.init(params)
    for t in range(12):
        reference.step(pull(params, t))
        updates, state = tx.update(pull(params, t), state, params)
        params = gx.apply_updates(params, updates)
        assert_close(params, {k: p.float() for k, p in reference.p.items()}, atol=1e-5)
    assert reference.d > 2e-2


def test_a_decay_that_becomes_zero_takes_the_new_distance_too() -> None:
    want, _ = steps(gx.prodigy(d0=1e-2, eps=0.3, b1=0.0), 6)
    options = {"d0": 1e-2, "eps": 0.3}
    scheduled = gx.prodigy(b1=gx.schedules.constant(0.0), **options)
    for got, _ in (
        steps(gx.prodigy(b1=np.float32(0), **options), 6),
        steps(gx.prodigy(b1=torch.tensor(0.0), **options), 6),
        steps(scheduled, 6),
        steps(gx.prodigy(**options), 6, hyper={"b1": 0.0}),
    ):
        assert_close(got, want)
    for fused in (None, False):
        leaves = [torch.nn.Parameter(p) for p in draw(100).values()]
        betas = (torch.tensor(0.0), 0.999)
        opt = gx.optim.Prodigy(leaves, betas=betas, fused=fused, **options)
        for t in range(6):
            there = {str(i): p.detach() for i, p in enumerate(leaves)}
            for p, g in zip(leaves, pull(there, t).values(), strict=True):
                p.grad = g
            opt.step()
        assert_close([p.detach() for p in leaves], list(want.values()), atol=1e-5)


def test_coupled_decay_is_part_of_the_gradient() -> None:
    params, tx = draw(100), gx.prodigy(d0=0.1, weight_decay=0.5, decoupled=False)
    plain = gx.prodigy(d0=0.1)
    grads = pull(params, 0)
    decayed = {k: g + 0.5 * params[k] for k, g in grads.items()}
    want, _ = plain.update(decayed, plain.init(params), params)
    assert_close(tx.update(grads, tx.init(params), params)[0], want)


# -- the estimate ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"growth_rate": 1.02}, {"d_limiter": True}], ids=str)
def test_d_never_falls(options: dict[str, Any]) -> None:
    """Whatever the gradients are, and by no more than its limits."""
    tx = gx.prodigy_adv(d0=1e-3, slice_p=2, **options)
    params = draw(0)
    state, last = tx.init(params), 1e-3
    limit = options.get("growth_rate", 2**0.25 if "d_limiter" in options else math.inf)
    for t in range(40):
        grads = pull(params, t) if t % 3 else {k: -5 * g for k, g in draw(t).items()}
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
        d = shared(state).d.item()
        # The first estimate may be of any size; only a limiter holds it back.
        free = last == 1e-3 and "d_limiter" not in options
        assert last <= d <= (math.inf if free else last * limit * (1 + 1e-12))
        last = d
    assert last > 1e-3


def test_d_stays_after_its_steps() -> None:
    tx = gx.prodigy_adv(d0=1e-2, prodigy_steps=6)
    params, state = steps(tx, 6)
    more, later = steps(tx, 3, state, params, start=6)
    assert shared(later).d == shared(state).d > 1e-2
    assert shared(later).d_numerator == shared(state).d_numerator
    assert shared(later).step == 9
    for was, now in zip(kept(state).values(), kept(later).values(), strict=True):
        assert torch.equal(now.s, was.s)
        assert torch.equal(now.p0, was.p0)
    assert not torch.equal(more["w"], params["w"])


def test_first_step_uses_d0() -> None:
    _, state = steps(gx.prodigy_adv(0.5, d0=1e-2), 1)
    assert shared(state).d == shared(state).d_max == 1e-2
    assert shared(state).dlr == 0.5e-2
    assert shared(state).d_numerator == 0


def test_slices() -> None:
    state = gx.prodigy_adv(slice_p=4).init({"w": torch.arange(9.0), "b": torch.zeros(2, 3)})
    assert kept(state)["w"].p0.tolist() == [0.0, 4.0, 8.0]
    assert kept(state)["b"].s.shape == (2,)


def test_simplified_ademamix_divides_d_coef() -> None:
    def coefficient(**options: Any) -> float:
        tx = gx.prodigy_adv(simplified_ademamix=True, d_coef=3.0, **options)
        return tx["scale_by_prodigy"].d_coef

    assert coefficient(alpha_grad=10.0) == pytest.approx(0.3)
    assert coefficient(alpha_grad=0.0) == 3.0
    assert coefficient(alpha_grad=10.0, d_limiter=True) == 3.0


def test_eps_has_the_unit_of_the_gradient() -> None:
    """The first update is d0 lr times the same number, whatever d0 is."""
    params, outs = draw(0), []
    for d0 in (1e-4, 1e-1):
        tx = gx.prodigy_adv(d0=d0, eps=0.5)
        updates, _ = tx.update(draw(1), tx.init(params), params)
        outs.append({k: u / d0 for k, u in updates.items()})
    assert_close(*outs)


def test_a_step_without_gradients_to_speak_of_is_left_out() -> None:
    """With the estimate first, as in the published implementation; weight decay included."""
    params, zeros = draw(0), {k: torch.zeros(s) for k, s in SHAPES.items()}
    tx = gx.prodigy(d0=0.1, weight_decay=0.5)
    updates, state = tx.update(zeros, tx.init(params), params)
    assert all((u == 0).all() for u in updates.values())
    assert shared(state).step == 0
    after = gx.prodigy_adv(d0=0.1, weight_decay=0.5)
    updates, state = after.update(zeros, after.init(params), params)
    assert (updates["w"] != 0).all()
    assert shared(state).step == 1


# -- learning rates ----------------------------------------------------------------------------


def test_a_new_learning_rate_acts_at_once() -> None:
    tx = gx.prodigy_adv(d0=1e-2)
    params, state = steps(tx, 4)
    grads = pull(params, 4)
    whole, _ = tx.update(grads, state, params)
    half, new = tx.update(grads, state, params, hyper={"lr": 0.5})
    assert all(torch.equal(half[k], 0.5 * whole[k]) for k in whole)
    assert shared(new).dlr == 0.5 * shared(state).d


def test_a_schedule_is_the_same_as_overrides() -> None:
    ramp = gx.schedules.linear(0.1, 1.0, 5)
    scheduled, _ = steps(gx.prodigy_adv(ramp, d0=1e-2), 8)
    tx = gx.prodigy_adv(d0=1e-2)
    params, state = draw(100), tx.init(draw(100))
    for t in range(8):
        params, state = steps(tx, 1, state, params, t, hyper={"lr": ramp(torch.tensor(t))})
    assert_close(params, scheduled)


def test_leaves_without_a_learning_rate_take_no_part() -> None:
    tx, rates = gx.prodigy_adv(d0=1e-2, weight_decay=0.1), {"w": 0.5, "b": 0.0, "s": 0.5, "e": 0.5}
    params, state = steps(tx, 6, hyper={"lr": rates})
    still = draw(100)["b"]
    assert torch.equal(params["b"], still)
    alone = {k: p for k, p in draw(100).items() if k != "b"}
    alone_state = tx.init(alone)
    for t in range(6):
        grads = pull({k: still if k == "b" else alone[k] for k in SHAPES}, t)
        del grads["b"]
        updates, alone_state = tx.update(grads, alone_state, alone, hyper={"lr": 0.5})
        alone = gx.apply_updates(alone, updates)
    assert_close(shared(alone_state), shared(state))
    assert_close(alone, {k: params[k] for k in alone})


def test_differing_learning_rates_are_refused() -> None:
    tx, params = gx.prodigy_adv(), draw(0)
    rates = {"w": 0.5, "b": 1.0, "s": 1.0, "e": 0.0}
    with pytest.raises(ValueError, match=r"scale_by_prodigy: lr .* got 0.5 and 1.0"):
        tx.update(draw(1), tx.init(params), params, hyper={"lr": rates})


# -- one leaf after the other ------------------------------------------------------------------


class Collect:
    """A ``reduce`` that notes what it was asked to sum."""

    def __init__(self) -> None:
        self.noted: list[Tensor] = []

    def sum(self, x: Tensor) -> Tensor:
        self.noted.append(x)
        return x

    def max(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("order", list(itertools.permutations(SHAPES))[::7], ids="".join)
def test_leaves_may_be_updated_one_by_one(order: tuple[str, ...]) -> None:
    tx = gx.scale_by_prodigy(
        gx.scale_by_adam(), 0.1, d0=1e-2, slice_p=2, growth_rate=1.5, d_limiter=True, steps=18
    )
    assert holds(tx, "leaves_independent")
    later = gx.scale_by_prodigy(gx.identity(), estimate_first=True)
    assert not holds(later, "leaves_independent")
    whole_params, whole = draw(100), tx.init(draw(100))
    params = draw(100)
    states = {k: tx.init({k: p}) for k, p in params.items()}
    for t in range(20):
        before, totals = states["w"].shared, [torch.zeros((), dtype=torch.float64)] * 2
        grads = pull(params, t)
        for k in order:
            collect = Collect()
            updates, states[k] = tx.update(
                {k: grads[k]}, states[k], {k: params[k]}, hyper={"lr": 1.0}, reduce=collect
            )
            params[k] = params[k] + updates[k]
            totals = [a + b for a, b in zip(totals, collect.noted, strict=True)]
        after = tx.next_shared(before, tuple(totals), hyper={"lr": [1.0] * 4})
        states = {k: s._replace(shared=after) for k, s in states.items()}
        whole_params, whole = steps(tx, 1, whole, whole_params, t, hyper={"lr": 1.0})
        assert_close(params, whole_params)
        assert_close(after, whole.shared)
    assert after.d > 1e-2


def test_the_order_of_leaves_does_not_matter() -> None:
    tx = gx.prodigy_adv(d0=1e-2)
    params = draw(100)
    state, back = tx.init(params), tx.init(dict(reversed(params.items())))
    for t in range(8):
        grads = pull(params, t)
        updates, state = tx.update(grads, state, params)
        other, back = tx.update(dict(reversed(grads.items())), back, dict(reversed(params.items())))
        assert_close({k: other[k] for k in updates}, updates)
        params = gx.apply_updates(params, updates)
    assert shared(back).d.item() == pytest.approx(shared(state).d.item(), rel=1e-9)


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("b1", 1.0),
        ("b2", 1.0),
        ("beta3", 1.0),
        ("d_coef", 0.0),
        ("d0", 0.0),
        ("d0", math.inf),
        ("growth_rate", 0.9),
        ("growth_rate", math.nan),
        ("slice_p", 0),
        ("slice_p", 1.5),
        ("steps", -1),
    ],
)
def test_bad_values(name: str, value: Any) -> None:
    options = {"bias_correction": True, name: value}
    with pytest.raises(ValueError, match=f"scale_by_prodigy: {name} must be"):
        gx.scale_by_prodigy(gx.identity(), **options)


@pytest.mark.parametrize("name", ["ademamix", "cautious", "grams", "atan2"])
def test_what_simplified_ademamix_excludes(name: str) -> None:
    with pytest.raises(ValueError, match=f"prodigy_adv: simplified_ademamix and {name} exclude"):
        gx.prodigy_adv(simplified_ademamix=True, **{name: True})


def test_what_else_is_refused() -> None:
    with pytest.raises(ValueError, match="prodigy_adv: cautious and grams exclude"):
        gx.prodigy_adv(cautious=True, grams=True)
    with pytest.raises(ValueError, match="prodigy_adv: simplified_ademamix needs b1 > 0"):
        gx.prodigy_adv(b1=0.0, simplified_ademamix=True)
    with pytest.raises(ValueError, match="prodigy: eps must be > 0"):
        gx.prodigy(eps=0.0)
    tx = gx.scale_by_prodigy(gx.identity(), slice_p=2)
    state = tx.init({"w": torch.ones(4)})
    with pytest.raises(gx.TreeMismatchError, match=r"leaf 'w'.*p0"):
        tx.update({"w": torch.ones(6)}, state, {"w": torch.ones(6)})
    with pytest.raises(gx.TreeMismatchError, match="leaf 'w' has an update but no state"):
        tx.update({"w": torch.ones(4)}, tx.init({"w": None}), {"w": torch.ones(4)})


# -- other ways to run -------------------------------------------------------------------------


@pytest.mark.parametrize("features", [{}, {"grams": True}, {"orthograd": True}], ids=str)
def test_whole_slices_are_fused(features: dict[str, bool]) -> None:
    tx = gx.prodigy_adv(d0=1e-2, slice_p=1, stochastic_rounding=False, **features)
    step, params = gx.fuse(tx), draw(100)
    state = tx.init(params)
    for t in range(6):
        params, state = step(params, pull(params, t), state)
    want, want_state = steps(tx, 6)
    assert_close(params, want)
    assert_close(state, want_state, rtol=1e-4)
    assert step.report() == "everything is fused"


def test_estimates_in_parallel() -> None:
    """One program for several d_coef: the coefficient may be batched."""
    params, grads = draw(100), draw(1)
    tx = gx.prodigy_adv(d0=1e-2, stochastic_rounding=False)

    def estimate(d_coef: Tensor) -> Tensor:
        p, state = params, tx.init(params)
        for _ in range(4):
            updates, state = tx.update(grads, state, p, hyper={"d_coef": d_coef})
            p = gx.apply_updates(p, updates)
        return shared(state).d

    values = torch.tensor([0.5, 2.0, 8.0])
    got = torch.func.vmap(estimate)(values)
    torch.testing.assert_close(got, torch.stack([estimate(v) for v in values]), rtol=1e-5, atol=0)
    assert got[2] > got[0]
