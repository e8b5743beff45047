"""The constant P, slices and merges, and adapters as functions of trees."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtx as gx
from gradtx.adapters import Adapter, AdapterConfig

X = gx.adapters
RANKS = (1, 2, 4, 8)


def config(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AdapterConfig(*args, **options)


def factors(into=10, rank=8, out=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rank)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=dtype)  # noqa: E731
    return draw(out, into), draw(into, rank), draw(rank, out)


@pytest.mark.parametrize(
    ("scaling", "wanted"),
    [
        ("none", [4, 3, 2, 2, 1, 1, 1, 1]),
        ("rank", [1.875, 0.875, 0.375, 0.375, 0.125, 0.125, 0.125, 0.125]),
        ("sqrt", [2.56066, 1.56066, 0.853553, 0.853553, *[0.353553] * 4]),
    ],
)
def test_published_diagonals(scaling, wanted):
    P = X.adapter_diagonal(8, train_ranks=RANKS, scaling=scaling)
    assert P.dtype == torch.float32
    assert P.tolist() == pytest.approx(wanted, abs=1e-6)


@st.composite
def configs(draw):
    rank = draw(st.integers(1, 12))
    ranks = draw(st.sets(st.integers(1, rank), min_size=1))
    return config(
        rank,
        train_ranks=draw(st.permutations(sorted(ranks))),
        scaling=draw(st.sampled_from(["none", "rank", "sqrt"])),
        alpha=draw(st.floats(0.1, 4.0)),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_diagonal_is_the_sum_over_nested_ranks(c):
    P = c.diagonal()
    assert (P.diff() <= 0).all()
    assert (P[max(c.ranks) :] == 0).all()
    assert (P[: max(c.ranks)] > 0).all()
    _, A, B = factors(rank=c.rank)
    nested = sum(c.scale(k) * A[:, :k] @ B[:k] for k in c.ranks)
    torch.testing.assert_close(A * P @ B, nested, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        config(c.rank, train_ranks=c.ranks, scaling=c.scaling, alpha=c.alpha, normalize="mean")
        .diagonal()
        .mul(len(c.ranks)),
        P,
    )


@settings(max_examples=60, deadline=None)
@given(configs(), st.data())
def test_slices_and_merges_agree(c, data):
    W, A, B = factors(rank=c.rank)
    b = data.draw(st.integers(1, c.rank))
    x = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(3, 10)
    wanted = x @ W.mT + c.scale(b) * (x @ A[:, :b]) @ B[:b]
    merged = X.merge(W, A, B, b, c.scaling, c.alpha)
    torch.testing.assert_close(x @ merged.mT, wanted)
    cut = X.slice_adapter(A, B, b, c.scaling, c.alpha)
    torch.testing.assert_close(x @ W.mT + x @ cut.A @ cut.B, wanted)
    tree = X.apply_adapters({"l.weight": W}, {"l": Adapter(A, B)}, c, rank=b)
    torch.testing.assert_close(tree["l.weight"], merged)


def test_all_ranks_without_scaling_count_down():
    assert X.adapter_diagonal(5, train_ranks=range(1, 6), scaling="none").tolist() == [
        5,
        4,
        3,
        2,
        1,
    ]


def test_the_other_kinds():
    assert X.adapter_diagonal(4, "lora", scaling="rank").tolist() == [0.25] * 4
    drawn = X.adapter_diagonal(4, "dylora", RANKS[:3], "rank", active=2)
    assert drawn.tolist() == [0.5, 0.5, 0.0, 0.0]


def test_two_layers_do_not_share_a_diagonal():
    """Of other rank, set or scaling, one after the other and back."""
    first = X.adapter_diagonal(4, scaling="none")
    second = X.adapter_diagonal(6, train_ranks=(3, 6), scaling="rank")
    assert second.shape == (6,)
    assert torch.equal(X.adapter_diagonal(4, scaling="none"), first)


@pytest.mark.parametrize("tokens", [3, 40])  # P on the activations, P on the weights
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_linear_layer_and_its_gradients(tokens, dtype):
    W, A, B = factors(dtype=dtype)
    P = X.adapter_diagonal(8, train_ranks=RANKS)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, 10, generator=generator, dtype=dtype)
    dy = torch.randn(tokens, 6, generator=generator, dtype=dtype)
    bias = torch.ones(6, dtype=dtype)
    out, pull = torch.func.vjp(lambda A, B: X.matryoshka_linear(x, W, bias, A, B, P), A, B)
    assert out.dtype == dtype
    rtol = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    x, dy, W, A, B, bias = (t.double() for t in (x, dy, W, A, B, bias))
    wanted = (
        x @ W.mT + bias + (x @ A * P) @ B,
        x.mT @ (dy @ B.mT * P),
        (x @ A * P).mT @ dy,
    )
    for got, want in zip((out, *pull(dy.to(dtype))), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=rtol, atol=rtol * want.abs().max())


def test_sequences_and_examples():
    W, A, B = factors()
    P = X.adapter_diagonal(8)
    x = torch.linspace(-1, 1, 120, dtype=torch.float64).reshape(3, 4, 10)
    out = X.matryoshka_linear(x, W, None, A, B, P)
    assert out.shape == (3, 4, 6)
    many = torch.func.vmap(lambda A, B: X.matryoshka_linear(x, W, None, A, B, P))
    twice = many(torch.stack([A, 2 * A]), torch.stack([B, B]))
    torch.testing.assert_close(twice[0], out)
    assert not torch.allclose(twice[1], out)


def test_gradient_descent_on_a_has_a_rate_per_column():
    """With P folded into A, plain descent on A moves column i at the rate P_i squared."""
    W, A, B = factors()
    P = X.adapter_diagonal(8, train_ranks=RANKS, scaling="none").double()
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(4, 10)
    loss = lambda A: X.matryoshka_linear(x, W, None, A, B, P).square().sum()  # noqa: E731
    folded = lambda A: (x @ W.mT + x @ A @ B).square().sum()  # noqa: E731
    step = -0.1 * torch.func.grad(loss)(A)
    torch.testing.assert_close(step * P, -0.1 * P.square() * torch.func.grad(folded)(A * P))


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


@pytest.mark.parametrize("kind", ["matryoshka", "lora", "dylora"])
def test_training_a_tree_of_adapters(kind):
    """Only adapters have state, frozen leaves stay, and every rank can be used afterwards."""
    model, c = network(), AdapterConfig(rank=4, kind=kind, scaling="none")
    frozen = {name: p.detach() for name, p in model.named_parameters()}
    adapters = X.init_adapters(frozen, c)
    assert list(adapters) == ["0", "2"]
    before = {name: p.clone() for name, p in frozen.items()}
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].sin()

    def loss_fn(adapters, rank):
        params = X.apply_adapters(frozen, adapters, c, rank)
        return (torch.func.functional_call(model, params, x) - y).square().mean()

    tx = gx.adamw(3e-2)
    state = tx.init(adapters)
    first = loss_fn(adapters, 4)
    for step in range(60):
        rank = X.dylora_rank(c.ranks, step) if kind == "dylora" else None
        grads = torch.func.grad(loss_fn)(adapters, rank)
        updates, state = tx.update(grads, state, adapters)
        adapters = gx.apply_updates(adapters, updates)
    moments = [s for s in gx.tree.leaves(state) if s.ndim == 2]
    assert sorted(s.shape for s in moments) == sorted(
        2 * [p.shape for a in adapters.values() for p in a]
    )
    assert all(torch.equal(frozen[name], p) for name, p in before.items())
    if kind != "lora":
        assert all(loss_fn(adapters, rank) < first for rank in (1, 2, 3))
    assert loss_fn(adapters, 4) < 0.5 * first


def test_frozen_leaves_of_one_tree_have_no_state():
    """The other way: one tree of all, and a partition or a mask for the adapters in it."""
    params = {"w": torch.ones(3, 4), "adapter": Adapter(torch.ones(4, 2), torch.zeros(2, 3))}

    def shapes(state):
        return sorted({tuple(s.shape) for s in gx.tree.leaves(state) if s.ndim})

    tx = gx.partition(
        {True: gx.scale_by_adam(), False: gx.scale(0.0)}, by=lambda info: "adapter" in info.name
    )
    state = tx.init(params)
    assert shapes(state) == [(2, 3), (4, 2)]
    updates, _ = tx.update(params, state, params)
    assert not updates["w"].any()
    masked = gx.masked(gx.scale_by_adam(), {"w": False, "adapter": True})
    assert shapes(masked.init(params)) == [(2, 3), (4, 2)]


@pytest.mark.parametrize(("init_A", "bound"), [("reference", 1 / 2), ("peft", 1 / 20)])
def test_start(init_A, bound):
    c = AdapterConfig(rank=4, init_A=init_A)
    made = X.init_adapters({"a.weight": torch.zeros(9, 400), "b.weight": torch.zeros(9, 400)}, c)
    A, B = made["a"]
    assert not B.any()
    assert A.abs().max() <= bound
    assert A.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not torch.equal(A, made["b"].A)
    again = X.init_adapters({"a.weight": torch.zeros(9, 400)}, c)
    assert torch.equal(again["a"].A, A)
    half = X.init_adapters({"a.weight": torch.zeros(9, 400, dtype=torch.bfloat16)}, c)
    assert half["a"].A.dtype == half["a"].B.dtype == torch.bfloat16


def test_targets_are_last_components_or_predicates():
    names = ("up.proj.weight", "down.up.weight", "up.weight", "update.weight")
    params = {name: torch.zeros(3, 3) for name in names} | {"up.bias": torch.zeros(3)}
    c = AdapterConfig(rank=2)
    assert list(X.init_adapters(params, c, "up")) == ["down.up", "up"]
    assert list(X.init_adapters(params, c, ["up", "proj"])) == ["up.proj", "down.up", "up"]
    assert list(X.init_adapters(params, c, lambda n: n.startswith("up."))) == ["up.proj"]
    assert len(X.init_adapters(params, c)) == 4
    with pytest.raises(ValueError, match="init_adapters: targets match none of the matrices"):
        X.init_adapters(params, c, "q_proj")


def test_merging_into_half_precision_rounds_once():
    W, A, B = (t.bfloat16() for t in factors())
    wanted = (W.double() + 0.5 * (A.double()[:, :4] @ B.double()[:4]).mT).float().bfloat16()
    torch.testing.assert_close(X.merge(W, A, B, 4), wanted, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"rank": 2.5}, "rank must be an integer >= 1, got 2.5"),
        ({"kind": "lorra"}, "kind must be one of .* got 'lorra'; did you mean 'lora'"),
        ({"scaling": "alpha"}, "scaling must be one of"),
        ({"normalize": "max"}, "normalize must be one of"),
        ({"init_A": "zeros"}, "init_A must be one of"),
        ({"alpha": 0.0}, r"alpha must be in \(0, inf\), got 0.0"),
        ({"train_ranks": ()}, "train_ranks must not be empty"),
        ({"train_ranks": (1, 9)}, r"train_ranks must be an integer in \[1, 8\], got 9"),
        ({"train_ranks": (0, 4)}, r"train_ranks must be an integer in \[1, 8\], got 0"),
        ({"train_ranks": (2, 2, 8)}, r"train_ranks must not repeat, got \(2, 2, 8\)"),
        ({"train_ranks": (9, 16), "truncate": True}, "train_ranks has none that is at most 8"),
        ({"kind": "lora", "train_ranks": (1, 8)}, "kind 'lora' trains its own rank 8 alone"),
    ],
)
def test_bad_configs(options, words):
    with pytest.raises(ValueError, match=f"AdapterConfig: {words}"):
        AdapterConfig(**{"rank": 8, **options})


def test_sets_are_put_in_order():
    assert AdapterConfig(8, train_ranks=[8, 1, 4]).ranks == (1, 4, 8)
    assert AdapterConfig(8, train_ranks=(16, 8, 2), truncate=True).ranks == (2, 8)
    with pytest.warns(UserWarning, match="largest of train_ranks is 5; the last 4 of 9 columns"):
        AdapterConfig(9, train_ranks=(2, 5))


def test_bad_calls():
    W, A, B = factors()
    P = X.adapter_diagonal(8)
    for rank in (0, 9, True):
        with pytest.raises(ValueError, match=r"slice_adapter: rank must be an integer in \[1, 8\]"):
            X.slice_adapter(A, B, rank)
    with pytest.raises(ValueError, match=r"A and B must have shapes \(in, r\) and \(r, out\)"):
        X.slice_adapter(A, B[:3], 2)
    with pytest.raises(ValueError, match=r"merge: A and B have shapes .* the weight"):
        X.merge(W.mT, A, B, 2)
    with pytest.raises(ValueError, match=r"A and B must be floating, got torch.int64"):
        X.matryoshka_linear(W, W, None, A.long(), B, P)
    with pytest.raises(ValueError, match=r"P has shape \(3,\)"):
        X.matryoshka_linear(W, W, None, A, B, P[:3])
    with pytest.raises(ValueError, match="kind 'dylora' needs active"):
        X.adapter_diagonal(8, "dylora")
    frozen, adapters = {"l.weight": W}, {"l": Adapter(A, B)}
    with pytest.raises(ValueError, match="no parameter belongs to the layers"):
        X.apply_adapters(frozen, {"m": Adapter(A, B)}, AdapterConfig(8))
    with pytest.raises(ValueError, match="of 'l' have rank 8, config says 4"):
        X.apply_adapters(frozen, adapters, AdapterConfig(4))
    with pytest.raises(ValueError, match=r"rank must be an integer in \[1, 8\], got 9"):
        X.apply_adapters(frozen, adapters, AdapterConfig(8), rank=9)
    with pytest.raises(ValueError, match="kind 'dylora' needs rank"):
        X.apply_adapters(frozen, adapters, AdapterConfig(8, "dylora"))


# -- ranks that are drawn, and areas -----------------------------------------------------------


def test_draws_are_uniform_and_depend_on_all_counters():
    draws = [X.dylora_rank(RANKS, step, micro) for step in range(300) for micro in range(4)]
    for rank in RANKS:
        assert 245 < draws.count(rank) < 355
    assert draws[:4] != [X.dylora_rank(RANKS, 0, micro, seed=1) for micro in range(4)] or draws[
        4:12
    ] != [X.dylora_rank(RANKS, s, m, seed=1) for s in (1, 2) for m in range(4)]
    assert len({tuple(draws[4 * step : 4 * step + 4]) for step in range(300)}) > 100
    torch.manual_seed(123)
    assert X.dylora_rank((8, 4, 2, 1), 7, 3) == draws[7 * 4 + 3]


def test_bad_draws():
    with pytest.raises(ValueError, match="train_ranks must not repeat"):
        X.dylora_rank((1, 1, 2), 0)
    with pytest.raises(ValueError, match="train_ranks must not be empty"):
        X.dylora_rank((), 0)
    with pytest.raises(ValueError, match="step must be an integer >= 0, got -1"):
        X.dylora_rank(RANKS, -1)
    with pytest.raises(ValueError, match=r"micro_step must be an integer >= 0, got 0.5"):
        X.dylora_rank(RANKS, 0, 0.5)


def test_areas():
    ranks, accuracies = [1, 3, 7, 20], [20.514, 52.299, 55.28, 73.795]
    assert X.aurac(ranks, accuracies) == pytest.approx(51.18122646, rel=1e-9)
    assert X.aurac(ranks, accuracies, axis="linear") == pytest.approx(59.31360527, rel=1e-9)
    assert X.aurac([16], [51.0]) == 51.0
    assert X.aurac(np.array(ranks), np.array(accuracies)) == X.aurac(ranks, accuracies)
    for a, b, words in (
        ([], [], "at least one"),
        ([1, 2], [1.0], "got 2 ranks and 1 accuracies"),
        ([2, 1], [1.0, 2.0], "ranks must ascend"),
        ([1, 1], [1.0, 2.0], "ranks must ascend"),
        ([0, 1], [1.0, 2.0], "ranks must be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=f"aurac: .*{words}"):
            X.aurac(a, b)
    with pytest.raises(ValueError, match="axis must be one of"):
        X.aurac([1], [1.0], axis="log10")
