"""Muon, Dion, Trion and DCT-AdamW: identities between them, odd leaves, groups, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtx as gx

SHAPES = {"tall": (12, 5), "wide": (4, 9), "square": (6, 6), "conv": (4, 3, 2, 2), "line": (1, 7)}
HEAVY = {"average": False, "nesterov": False, "weight_decay": 0.05}


def run(tx, steps=6, shapes=SHAPES, dtype=torch.float32, zeros=()):
    """Parameters after some steps."""
    generator = torch.Generator().manual_seed(0)

    def draw():
        return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}

    params = draw()
    state = tx.init(params)
    for _ in range(steps):
        grads = {n: torch.zeros_like(g) if n in zeros else g for n, g in draw().items()}
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
    return params


def assert_same(a, b, atol=2e-6):
    for name, x in a.items():
        torch.testing.assert_close(x, b[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("basis", ["dct2", "dct3", "released_matmul"])
@pytest.mark.parametrize("transform", ["fft", "matmul"])
def test_full_rank_trion_is_heavy_ball_muon(basis, transform):
    muon = gx.muon(0.1, ns_scaling="add", **HEAVY)
    trion = gx.trion(0.1, rank=100, weight_decay=0.05, basis=basis, transform=transform)
    assert_same(run(trion), run(muon), 1e-5)


def test_dion2_of_all_rows_is_heavy_ball_muon():
    options = {"coefficients": "polar_express5", "ns_eps": 1e-8, "scale": "spectral_norm"}
    muon = gx.muon(0.1, ns_scaling=None, **HEAVY, **options)
    assert_same(run(gx.dion2(0.1, weight_decay=0.05, fraction=1.0)), run(muon), 1e-5)
    normuon = gx.normuon(0.1, weight_decay=0.05)
    assert_same(run(gx.dion2(0.1, weight_decay=0.05, fraction=1.0, b2=0.95)), run(normuon), 1e-5)


def test_both_forms_of_momentum_have_one_direction():
    for nesterov in (True, False):
        one = run(gx.muon(0.1, nesterov=nesterov, average=True))
        assert_same(one, run(gx.muon(0.1, nesterov=nesterov, average=False)), 1e-5)


def test_the_iteration_approximates_the_exact_factor():
    exact = run(gx.muon(0.01, coefficients="svd"))
    near = run(gx.muon(0.01, coefficients="five_polynomials", ns_scaling=None))
    assert_same(near, exact, 0.03)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_torch_muon(adjust, nesterov):
    """The reference iterates in bfloat16, in which equal formulas give nearly equal bits."""
    options = {"lr": 0.02, "nesterov": nesterov, "adjust_lr_fn": adjust, "momentum": 0.9}
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(s)) for s in ((6, 4), (4, 9), (5, 5), (6, 4))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = (
        gx.optim.Muon(ours, ns_dtype=torch.bfloat16, **options),
        torch.optim.Muon(theirs, **options),
    )
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)


def test_arguments_in_the_order_of_torch():
    p = nn.Parameter(torch.ones(2, 2))
    args = (0.1, 0.2, 0.9, False, (3.0, -3.2, 1.2), 1e-6, 7, "match_rms_adamw")
    group = gx.optim.Muon([p], *args).param_groups[0]
    theirs = torch.optim.Muon([p], *args).param_groups[0]
    for name in set(theirs) - {"params"}:
        assert group[name] == theirs[name], name


RECIPES = {
    "muon": lambda: gx.muon(0.05),
    "kernel": lambda: gx.muon(0.05, convolutions="kernel"),
    "batch": lambda: gx.muon(0.05, convolutions="batch"),
    "normuon": lambda: gx.normuon(0.05),
    "dion": lambda: gx.dion(0.05, rank_fraction=0.5, rank_multiple_of=4, power_iters=2),
    "dion2": lambda: gx.dion2(0.05, b2=0.9),
    "trion": lambda: gx.trion(0.05, rank=2),
    "dct_adamw": lambda: gx.dct_adamw(0.05, rank=2, use_ef=True, ef_bits=4),
    "spectral": lambda: gx.dct_adamw(0.05, rank=2, use_ef=True, ef_bits=8, ef_domain="spectral"),
}
ODD = SHAPES | {
    "bias": (3,),
    "scalar": (),
    "three": (2, 3, 4),
    "no_rows": (0, 3),
    "no_columns": (3, 0),
    "ones": (1, 1, 1, 1),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_odd_leaves_in_every_dtype(name, dtype):
    start = run(RECIPES[name](), 0, ODD, dtype)
    end = run(RECIPES[name](), 4, ODD, dtype)
    for leaf, p in end.items():
        assert p.dtype == dtype
        assert torch.isfinite(p).all(), leaf
        if p.numel() and (p.ndim > 1 or dtype != torch.bfloat16):  # AdamW takes small steps
            assert not torch.equal(p, start[leaf]), leaf


@pytest.mark.parametrize("name", RECIPES)
def test_zero_gradients_only_decay(name):
    """Nothing is divided by zero, and a leaf that starts with zeros stays where it is."""
    end = run(RECIPES[name](), 3, zeros=tuple(SHAPES))
    start = run(RECIPES[name](), 0)
    for leaf, p in end.items():
        assert torch.isfinite(p).all()
        torch.testing.assert_close(p, start[leaf], rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["dion", "dion2", "trion", "dct_adamw"])
def test_ranks_above_the_smaller_dimension_are_full(name):
    makes = {
        "dion": lambda r: gx.dion(0.1, rank_multiple_of=r),
        "dion2": lambda r: gx.dion2(0.1, fraction=min(1.0, r / 12)),
        "trion": lambda r: gx.trion(0.1, rank=r),
        "dct_adamw": lambda r: gx.dct_adamw(0.1, rank=r),
    }
    assert_same(run(makes[name](12)), run(makes[name](1000)))


def test_momentum_keeps_what_is_not_used():
    tx = gx.low_rank_momentum(gx.compressors.power_iteration(0.3), 0.0)
    g = {"w": torch.randn(6, 5)}
    payload, state = tx.update(g, tx.init(g))
    torch.testing.assert_close(state["w"].momentum + payload["w"].to_dense(), g["w"])
    kept = gx.low_rank_momentum(gx.compressors.power_iteration(0.3), 1.0)
    _, state = kept.update(g, kept.init(g))
    torch.testing.assert_close(state["w"].momentum, g["w"])


def test_power_iteration_survives_zeros_and_nan():
    compressor = gx.compressors.power_iteration(0.5)
    for shape in ((6, 4), (4, 6)):
        state = compressor.init(torch.zeros(shape), "w")
        payload, after = compressor.compress(torch.zeros(shape), state)
        assert torch.equal(after.basis, state.basis)
        assert not payload.to_dense().any()
        bad = torch.randn(shape)
        bad[0, 0] = torch.nan
        _, after = compressor.compress(bad, state)
        assert torch.isfinite(after.basis).all()
    with pytest.raises(gx.TreeMismatchError, match="needs a basis of shape"):
        compressor.compress(torch.ones(8, 8), state)


def test_feedback_in_both_domains_is_the_same_without_quantisation():
    options = {"rank": 2, "use_ef": True, "update_proj_gap": 2}
    one = run(gx.dct_adamw(0.1, **options))
    assert_same(one, run(gx.dct_adamw(0.1, ef_domain="spectral", **options)))
    eight = run(gx.dct_adamw(0.1, ef_bits=8, **options))
    assert_same(eight, one, 0.2)
    assert any(not torch.equal(eight[n], one[n]) for n in one)


def test_no_error_is_left_with_full_rank():
    tx = gx.dct_adamw(rank=100, use_ef=True)
    g = {"w": torch.randn(6, 4)}
    _, state = tx.update(g, tx.init(g), g)
    assert gx.tree.get(state, "error").abs().max() == 0


def test_wide_embeddings_have_full_moments():
    params = {"w": torch.ones(4, 4), "emb": torch.ones(50, 4), "conv": torch.ones(2, 5, 5)}
    state = gx.dct_adamw(rank=1, max_shape=25).init(params)
    (low_rank,) = gx.tree.get_all(state, "indices")
    assert low_rank.endswith(".w")


def test_blocks_of_rows_are_leaves_of_their_own():
    sizes, whole = (6, 2, 4), {"w": (12, 5)}
    tx = gx.normuon(0.1, split_sizes=sizes)
    parts = {f"{i}": (n, 5) for i, n in enumerate(sizes)}

    def cut(tree):
        return {f"{i}": x for i, x in enumerate(tree["w"].split(sizes))}

    params = run(tx, 0, whole)
    grads = [torch.randn(12, 5) for _ in range(4)]
    alone, apart = gx.normuon(0.1), cut(params)
    state, states = tx.init(params), alone.init(apart)
    for g in grads:
        u, state = tx.update({"w": g}, state, params)
        params = gx.apply_updates(params, u)
        u, states = alone.update(cut({"w": g}), states, apart)
        apart = gx.apply_updates(apart, u)
    assert set(parts) == set(apart)
    assert_same(cut(params), apart)
    heads = run(gx.muon(0.1, num_heads=2), 3, whole)
    assert_same(run(gx.muon(0.1, split_sizes=(6, 6)), 3, whole), heads)


def test_cautious_decay():
    p = {"w": torch.tensor([1.0, 1.0, -1.0, 0.0])}
    u = {"w": torch.tensor([2.0, -2.0, 0.0, 1.0])}
    out, _ = gx.add_decayed_weights(0.5, cautious=True).update(u, (), p)
    assert out["w"].tolist() == [2.5, -2.0, -0.5, 1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gx.muon(momentum=1.0), "decay must be in"),
        (lambda: gx.muon(lr=-1.0), "lr must be in"),
        (lambda: gx.muon(weight_decay=-1.0), "weight_decay must be in"),
        (lambda: gx.muon(scale="big"), "rule"),
        (lambda: gx.muon(convolutions="fold"), "convolutions"),
        (lambda: gx.muon(ns_steps=100), "steps"),
        (lambda: gx.muon(split_sizes=(3,)), "at least two"),
        (lambda: gx.muon(num_heads=1), "at least two"),
        (lambda: gx.muon(split_sizes=(3, 3), num_heads=2), "either"),
        (lambda: gx.normuon(b2=1.0), "b2 must be in"),
        (lambda: gx.dion(rank_fraction=0.0), "fraction"),
        (lambda: gx.dion(rank_fraction=1.5), "fraction"),
        (lambda: gx.dion(rank_multiple_of=0), "multiple_of"),
        (lambda: gx.dion(power_iters=0), "iterations"),
        (lambda: gx.dion(momentum=1.5), "decay must be in"),
        (lambda: gx.dion2(fraction=0.0), "fraction"),
        (lambda: gx.trion(rank=0), "rank"),
        (lambda: gx.trion(rank=2.5), "rank"),
        (lambda: gx.trion(momentum=-0.1), "decay must be in"),
        (lambda: gx.trion(basis="dct4"), "basis"),
        (lambda: gx.trion(transform="slow"), "transform"),
        (lambda: gx.trion(scaling_type="large"), "scaling_type"),
        (lambda: gx.trion(selection_norm="l3"), "norm"),
        (lambda: gx.dct_adamw(b1=1.0), "b1 must be in"),
        (lambda: gx.dct_adamw(eps=0.0), "eps must be in"),
        (lambda: gx.dct_adamw(update_proj_gap=0), "every"),
        (lambda: gx.dct_adamw(ef_bits=3), "ef_bits"),
        (lambda: gx.dct_adamw(ef_levels=15), "ef_levels needs"),
        (lambda: gx.dct_adamw(use_ef=True, ef_bits=4, ef_levels=16), "levels"),
        (lambda: gx.dct_adamw(ef_domain="frequency"), "ef_domain"),
        (lambda: gx.dct_adamw(side="top"), "side"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("recipe", [gx.muon, gx.normuon, gx.dion, gx.dion2, gx.trion])
def test_vectors_among_the_matrices_are_refused_by_name(recipe):
    params = {"w": torch.ones(4, 3), "b": torch.ones(3)}
    for matrices in (lambda info: True, {"w": True, "b": True}):
        with pytest.raises(ValueError, match="leaf 'b'"):
            recipe(matrices=matrices).init(params)
    chosen = recipe(matrices={"w": False, "b": False}).init(params)
    assert len(gx.tree.get_all(chosen, "nu")) == 2


def test_rows_that_cannot_be_split():
    with pytest.raises(ValueError, match=r"leaf 'w' of shape \(5, 2\): sizes \(3, 3\)"):
        gx.muon(split_sizes=(3, 3)).init({"w": torch.ones(5, 2)})
    with pytest.raises(ValueError, match="2 blocks do not fit to its 5 rows"):
        gx.muon(num_heads=2).init({"w": torch.ones(5, 2)})


class Model(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 8)
        self.places = nn.Embedding(8, 8)
        self.inner = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.conv = nn.Conv1d(8, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 50, bias=False)
        if tied:
            self.lm_head.weight = self.tokens.weight


def names(groups):
    return {g["kind"]: [name for name, _ in g["params"]] for g in groups}


def test_groups_of_a_module():
    found = names(gx.matrix_groups(Model()))
    assert found["matrix"] == [
        "inner.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "conv.weight",
    ]
    assert found["embedding"] == ["tokens.weight", "places.weight"]
    assert found["head"] == ["lm_head.weight"]
    assert all("bias" in name or "norm" in name for name in found["vector"])
    assert names(gx.matrix_groups(Model(tied=True)))["embedding"][0] == "tokens.weight"
    other = names(gx.matrix_groups(Model(), heads=["inner"]))
    assert other["head"] == ["inner.weight"]
    with pytest.raises(ValueError, match="no module 'outer'"):
        gx.matrix_groups(Model(), heads=["outer"])


def test_groups_that_are_no_matrices_get_adamw():
    torch.manual_seed(0)
    model, twin = Model(), Model()
    twin.load_state_dict(model.state_dict())
    groups = gx.matrix_groups(model, {"lr": 0.0}, {"lr": 0.01, "weight_decay": 0.1})
    matrices = names(groups)["matrix"]
    ours = gx.optim.Muon(groups)
    theirs = torch.optim.AdamW(
        twin.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1
    )
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    ours.step()
    theirs.step()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        if name not in matrices:
            torch.testing.assert_close(p, q, msg=name)


@pytest.mark.parametrize("name", ["Muon", "NorMuon", "Dion", "Dion2", "Trion", "DCTAdamW"])
def test_classes_are_their_recipes(name):
    """Group options reach the members that they mean, in every kind of group."""
    recipe = {"DCTAdamW": gx.dct_adamw}.get(name) or getattr(gx, name.lower())
    cls = getattr(gx.optim, name)
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(6, 4))
    options = {"lr": 0.05, "weight_decay": 0.3}
    options |= {} if name == "DCTAdamW" else {"momentum": 0.5}
    opt, params = cls([p], **options), {"0": p.detach().clone()}
    tx = recipe(**options)
    state = tx.init(params)
    for _ in range(3):
        p.grad = torch.randn_like(p)
        opt.step()
        updates, state = tx.update({"0": p.grad}, state, params)
        params = gx.apply_updates(params, updates)
    torch.testing.assert_close(p.detach(), params["0"], rtol=1e-5, atol=1e-6)


def test_options_of_vectors():
    p = nn.Parameter(torch.ones(3))
    opt = gx.optim.Muon([p], adam_lr=0.5, adam_weight_decay=0.1)
    p.grad = torch.ones(3)
    opt.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 0.5 * 1.1))
