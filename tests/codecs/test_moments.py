"""Moment transforms with codecs: plain states are as before, lossy ones still learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.codecs import blockwise, dense, nbytes, rank1

# Transform and its codec fields.
MOMENTS = [
    (lambda **c: gx.scale_by_adam(**c), ("mu_codec", "nu_codec")),
    (
        lambda **c: gx.scale_by_adam(amsgrad="raw", **c),
        ("mu_codec", "nu_codec"),
    ),
    (lambda **c: gx.scale_by_lion(**c), ("mu_codec",)),
    (lambda **c: gx.ema(0.9, **c), ("codec",)),
    (lambda **c: gx.ema(0.9, debias=False, **c), ("codec",)),
    (lambda **c: gx.trace(0.9, **c), ("codec",)),
    (lambda **c: gx.damped_trace(0.9, 0.1, **c), ("codec",)),
    (lambda **c: gx.scale_by_rms(**c), ("nu_codec",)),
    (lambda **c: gx.scale_by_rms(initial_scale=1.0, **c), ("nu_codec",)),
    (lambda **c: gx.scale_by_stddev(eps=1e-3, **c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_belief(**c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_adan(**c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_nadam(**c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_radam(**c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_yogi(**c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_adamax(**c), ("mu_codec", "nu_codec")),
    (lambda **c: gx.scale_by_novograd(**c), ("mu_codec",)),
    (lambda **c: gx.scale_by_rss(**c), ("codec",)),
]
every_moment = pytest.mark.parametrize(
    ("make", "fields"), MOMENTS, ids=[repr(make()) for make, _ in MOMENTS]
)
STEPS = 5
SHAPES = {"w": (24, 20), "b": (13,), "s": ()}


def random(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(shape, generator=generator) for k, shape in SHAPES.items()}


def run(tx: gx.GradientTransformation) -> tuple[dict[str, Tensor], object]:
    """The last of a few updates from random gradients around a fixed one, and the state."""
    params, mean = random(100), random(101)
    state = tx.init(params)
    for step in range(STEPS):
        grads = gx.tree.map(lambda m, g: m + 0.3 * g, mean, random(step))
        updates, state = tx.update(grads, state, params)
    return updates, state


@every_moment
def test_dense_is_what_no_codec_is(make, fields):
    plain, plain_state = run(make())
    dense_, dense_state = run(make(**dict.fromkeys(fields, dense())))
    assert gx.tree.flatten(dense_state)[1] == gx.tree.flatten(plain_state)[1]
    for a, b in zip(
        gx.tree.leaves((plain, plain_state)), gx.tree.leaves((dense_, dense_state)), strict=True
    ):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@every_moment
def test_a_dtype_is_a_codec(make, fields):
    by_codec = run(make(**dict.fromkeys(fields, torch.bfloat16)))
    assert torch.bfloat16 in {x.dtype for x in gx.tree.leaves(by_codec[1])}
    named = run(make(**dict.fromkeys(fields, dense(torch.bfloat16))))
    for a, b in zip(gx.tree.leaves(by_codec), gx.tree.leaves(named), strict=True):
        assert torch.equal(a, b)


@every_moment
@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [(blockwise(8, min_size=0), 0.03), (blockwise(4, min_size=0), 0.25), (rank1(), 0.6)],
    ids=repr,
)
def test_lossy_states_are_near_and_smaller(make, fields, codec, tolerance):
    exact, exact_state = run(make())
    lossy, lossy_state = run(make(**dict.fromkeys(fields, codec)))
    for name in SHAPES:
        if isinstance(make(), gx.scale_by_lion):
            assert (lossy[name] == exact[name]).float().mean() >= 1 - tolerance
        else:
            assert (lossy[name] - exact[name]).norm() <= tolerance * exact[name].norm()
    assert nbytes(lossy_state["w"]) < 0.45 * nbytes(exact_state["w"])


@every_moment
def test_what_is_no_codec_is_refused(make, fields):
    for codec in fields:
        with pytest.raises(TypeError, match=rf"{make().name}: {codec} must be .* got str"):
            make(**{codec: "rank1"})


@pytest.mark.parametrize(
    "make",
    [
        gx.first_moment,
        gx.slow_moment,
        gx.accumulate,
        gx.root_second_moment,
        gx.scale_by_adopt,
        gx.scale_by_smmf,
    ],
)
def test_parts_refuse_what_is_no_codec_when_they_are_made(make):
    with pytest.raises(TypeError, match="codec must be a codec, a dtype or None, got int"):
        make(codec=8)


def test_a_state_of_another_shape_is_refused():
    tx = gx.scale_by_adam(mu_codec=rank1(), nu_codec=rank1())
    state = tx.init({"w": torch.zeros(6, 6)})
    with pytest.raises(gx.TreeMismatchError, match=r"rank1: row has shape \(6,\)"):
        tx.update({"w": torch.zeros(5, 5)}, state)


def test_the_full_moment_makes_the_step():
    """Compression reaches the next step only: the first update is that of plain Adam."""
    grads = {"w": random(0)["w"]}
    plain, lossy = gx.scale_by_adam(), gx.scale_by_adam(mu_codec=rank1(), nu_codec=blockwise(4))
    a, _ = plain.update(grads, plain.init(grads))
    b, _ = lossy.update(grads, lossy.init(grads))
    assert torch.equal(a["w"], b["w"])


# -- learning --------------------------------------------------------------------------------------


def train(tx: gx.GradientTransformation, steps: int = 200) -> float:
    """The loss of a small network on a fixed regression after some minibatch steps."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = draw(256, 16)
    y = torch.tanh(x @ draw(16, 4)) + 0.1 * draw(256, 4)
    params = {"w1": draw(16, 64) / 4, "b1": torch.zeros(64), "w2": draw(64, 4) / 8}

    def loss(params: dict[str, Tensor], rows: Tensor) -> Tensor:
        hidden = torch.relu(x[rows] @ params["w1"] + params["b1"])
        return (hidden @ params["w2"] - y[rows]).square().mean()

    everything = torch.arange(256)
    state, slope = tx.init(params), torch.func.grad(loss)
    for _ in range(steps):
        rows = torch.randperm(256, generator=generator)[:64]
        updates, state = tx.update(slope(params, rows), state, params)
        params = gx.apply_updates(params, updates)
    return loss(params, everything).item()


def adamw(codec: gx.codecs.Codec | None) -> gx.GradientTransformation:
    return gx.chain(
        gx.scale_by_adam(mu_codec=codec, nu_codec=codec),
        gx.add_decayed_weights(0.01),
        gx.scale_by_learning_rate(1e-2),
    )


@pytest.mark.parametrize(
    ("codec", "most"),
    [(blockwise(8, min_size=0), 1.05), (blockwise(4, min_size=0), 1.25), (rank1(), 2.0)],
    ids=repr,
)
def test_adamw_learns_with_compressed_moments(codec, most):
    untrained, plain = train(adamw(None), steps=0), train(adamw(None))
    assert plain < 0.2 * untrained
    assert train(adamw(codec)) < most * plain


def test_lion_learns_with_a_factored_moment():
    def lion(codec: gx.codecs.Codec | None) -> gx.GradientTransformation:
        return gx.chain(gx.scale_by_lion(mu_codec=codec), gx.scale_by_learning_rate(2e-3))

    plain = train(lion(None))
    assert plain < 0.2 * train(lion(None), steps=0)
    assert train(lion(rank1())) < 1.5 * plain
