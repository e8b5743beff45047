from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradtx as gx

from .strategies import close, like, run, same, seeds, some_transform, trees

MEMBERS = st.lists(
    st.sampled_from(
        [gx.scale(0.5), gx.trace(0.9), gx.scale_by_adam(), gx.add_decayed_weights(0.1)]
    ),
    max_size=4,
)


@given(trees(), MEMBERS, MEMBERS, MEMBERS)
def test_associative(params: Any, a: Any, b: Any, c: Any) -> None:
    left = gx.chain(gx.chain(*a, *b), *c)
    right = gx.chain(*a, gx.chain(*b, *c))
    flat = gx.chain(*a, *b, *c)
    assert left.members == right.members == flat.members
    assert left == right == flat
    nested = gx.named_chain(("first", gx.chain(*a, *b)), ("second", gx.chain(*c)))
    assert same(run(nested, params)[0], run(flat, params)[0])


@given(trees())
def test_identity_is_neutral(params: Any) -> None:
    tx = some_transform()
    want = run(tx, params)[0]
    assert same(run(gx.chain(gx.identity(), tx), params)[0], want)
    assert same(run(gx.chain(tx, gx.identity()), params)[0], want)


@given(trees(), seeds)
def test_empty_chain_is_the_identity(params: Any, seed: int) -> None:
    grads = like(params, seed)
    assert same(gx.chain().update(grads, gx.chain().init(params), params)[0], grads)


def test_members_are_named_and_numbered() -> None:
    tx = gx.chain(gx.scale(1.0), gx.chain(gx.trace(0.9), gx.scale(2.0)), gx.scale(3.0))
    assert [name for name, _ in tx] == ["scale", "trace", "scale_1", "scale_2"]
    assert tx["scale_2"] == gx.scale(3.0)
    assert list(tx.init({"w": torch.zeros(1)})) == ["scale", "trace", "scale_1", "scale_2"]


def test_splicing_renames_members_that_would_collide() -> None:
    twice = gx.chain(gx.scale(1.0), gx.scale(2.0))
    names = [name for name, _ in gx.chain(twice, twice)]
    assert len(set(names)) == 4
    assert all(name.startswith("scale") for name in names)


def test_splicing_keeps_given_names() -> None:
    tx = gx.chain(gx.named_chain(("mine", gx.scale(2.0))), gx.scale(3.0))
    assert [name for name, _ in tx] == ["mine", "scale"]


def test_names_are_printed_where_they_are_not_the_usual_ones() -> None:
    a, b = gx.scale(2.0), gx.scale(3.0)
    for tx in (gx.chain(a, b), gx.named_chain(("scale", a), ("scale_1", b))):
        assert repr(tx) == "chain(scale(step_size=2.0), scale(step_size=3.0))"
    names = {"named_chain": gx.named_chain, "scale": gx.scale, "chain": gx.chain}
    for tx in (
        gx.named_chain(("a", a), ("b", b)),
        gx.chain(gx.named_chain(("mine", a)), b),
        gx.named_chain(("chain", gx.chain(a))),
    ):
        assert eval(repr(tx), names) == tx


def test_named_chain_stays_nested() -> None:
    tx = gx.named_chain(("inner", gx.chain(gx.trace(0.9))), ("outer", gx.scale(-1.0)))
    state = tx.init({"w": torch.zeros(1)})
    assert list(state) == ["inner", "outer"]
    assert list(state["inner"]) == ["trace"]


def test_hyper_scope() -> None:
    tx = gx.named_chain(("a", gx.scale(1.0)), ("b", gx.named_chain(("c", gx.scale(1.0)))))
    grads = {"w": torch.ones(1)}
    state = tx.init(grads)

    def out(**hyper: float) -> float:
        named = {k.replace("__", "."): v for k, v in hyper.items()}
        return tx.update(grads, state, hyper=named)[0]["w"].item()

    assert out() == 1.0
    assert out(step_size=3.0) == 9.0
    assert out(a__step_size=3.0) == 3.0
    assert out(b__step_size=3.0) == 3.0
    assert out(b__c__step_size=5.0) == 5.0
    assert out(step_size=2.0, a__step_size=3.0) == 6.0
    with pytest.raises(ValueError, match=r"'c.step_size'.* did you mean 'b.c.step_size'"):
        out(c__step_size=5.0)


def test_members_get_the_gradients_of_the_outermost_chain() -> None:
    tx = gx.chain(gx.scale(-1.0), gx.named_chain(("x", gx.cautious_mask(rescale=None))))
    grads = {"w": torch.tensor([1.0, -2.0])}
    assert tx.update(grads, tx.init(grads))[0]["w"].tolist() == [0.0, 0.0]


def test_bad_members() -> None:
    with pytest.raises(TypeError, match=r"chain: member .* must be a GradientTransformation"):
        gx.chain(torch.neg)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"chain: member .x. must be"):
        gx.named_chain(("x", 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="named_chain: two members are called 'x'"):
        gx.named_chain(("x", gx.scale(1.0)), ("x", gx.scale(2.0)))
    for name in ("", "a.b"):
        with pytest.raises(ValueError, match="named_chain: a member name must have no dot"):
            gx.named_chain((name, gx.scale(1.0)))


def test_wrong_state() -> None:
    tx = gx.chain(gx.trace(0.9), gx.scale(1.0))
    for state in ((), {"trace": ()}, tx.init({"w": torch.ones(1)}) | {"more": ()}):
        with pytest.raises(gx.TreeMismatchError, match="chain: the state has members"):
            tx.update({"w": torch.ones(1)}, state)


def test_repr() -> None:
    tx = gx.chain(gx.scale_by_adam(b1=0.8), gx.scale(-0.1))
    assert repr(tx) == "chain(scale_by_adam(b1=0.8), scale(step_size=-0.1))"


@given(trees(), st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_scales_multiply(params: Any, a: float, b: float) -> None:
    close(
        run(gx.chain(gx.scale(a), gx.scale(b)), params)[0],
        run(gx.scale(a * b), params)[0],
        rtol=1e-4,
        atol=1e-5,
    )
