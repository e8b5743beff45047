"""Bad input of preconditioners: every option outside its range, leaves and values they refuse."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradtx as gx

ROOTS = gx.inverse_roots
INF, NAN = math.inf, math.nan
W = {"w": torch.ones(4, 3)}
WINDOWS = ("mfac", "sparse_mfac", "lowrank_mfac")
# By recipe and option: values that are refused, and what the message names where it is not the
# option but the part that takes it. Options after a colon go along.
OPTIONS: dict[str, tuple[Any, ...]] = {
    **{
        f"{recipe} {option}": values
        for recipe in WINDOWS
        for option, values in {
            "lr": (-1.0,),
            "window": (0, -1, 2.5, True),
            "damping": (0.0, -1.0, INF, NAN),
            "momentum": (1.0, -0.1, NAN),
            "weight_decay": (-0.1, NAN),
            "momentum_kind": ("nesterov",),
            "weight_decay_kind": ("l2",),
            "normalize": ("mean",),
            "nonfinite": ("stop",),
            "dtype": (torch.int8, torch.complex64),
            "max_bytes": (0, 1.5),
        }.items()
    },
    "sparse_mfac density": (0.0, -0.1, 1.5, NAN, None),
    "sparse_mfac error_dtype": (torch.int8,),
    "sparse_mfac block_size": (1, 0, -1, 32768, 1.5),
    "sparse_mfac scope": ("tree",),
    "sparse_mfac query": ("newest",),
    "lowrank_mfac rank": (0, -1, 1.5),
    "ggt window": (0,),
    "ggt b1": (1.0, -0.1),
    "ggt b2": (0.0, 1.1),
    "ggt eps": (0.0, -1.0),
    "ggt weight_decay": (-1.0,),
    "ggt gram_reg": (0.0,),
    "ggt density": (0.0, 2.0),
    "ggt nonfinite": ("stop",),
    "shampoo lr": (-1.0,),
    "shampoo b1 decay": (1.0, -0.1),
    "shampoo shampoo_beta b": (-0.1, 1.1),
    "shampoo beta3 b3": (1.0, -0.1),
    "shampoo eps": (0.0, -1.0, NAN),
    "shampoo eps_mode": ("trace",),
    "shampoo weight_decay": (-1.0,),
    "shampoo weight_decay_type": ("lr",),
    "shampoo max_preconditioner_dim size": (0, 1.5),
    "shampoo precondition_frequency every": (0,),
    "shampoo start_preconditioning_step": (0,),
    "shampoo grafting": ("lion",),
    "shampoo grafting_b2 b2": (1.0,),
    "shampoo grafting_eps eps": (-1.0,),
    "shampoo target_dims target": (0,),
    "shampoo one_dim": ("adam",),
    "shampoo momentum": (1.0, -0.1),
    "shampoo form": ("newton",),
    "shampoo root": ("svd",),
    "shampoo exponents": ({-1: 0.5}, {2: -0.5}, {2: {2: 0.5}}),
    "shampoo trace_scaling": (0.0, 1.5),
    "shampoo tolerated_failures failures": (-1,),
    "shampoo counts": ("rank",),
    "dash lr": (-1.0,),
    "dash beta_g b1": (1.0,),
    "dash beta_lr": (0.0, 1.1),
    "dash beta_graft": (1.0, 0.0, -0.1),
    "dash weight_decay": (-1.0,),
    "dash block_size size": (0,),
    "dash inv_root_freq every": (0,),
    "dash inv_root_method method": ("svd",),
    "dash eps_inv_root eps": (-1.0,),
    "dash eps_mode": ("trace",),
    "dash eps_grafting eps": (-1.0,),
    "dash mu": (1.0, -0.1),
    "dash nesterov_form": ("plain",),
    "dash one_dim": ("adam",),
    "dash adamw_b1 b1": (1.0,),
    "dash adamw_b2 b2": (1.0,),
    "dash adamw_eps eps": (-1.0,),
    "dash counts": ("rank",),
    "soap lr": (-1.0,),
    "soap b1": (1.0,),
    "soap b2": (1.0,),
    "soap shampoo_beta": (1.0,),
    "soap shampoo_beta b": (1.5, -0.5),
    "soap eps": (-1.0,),
    "soap weight_decay": (-1.0,),
    "soap precondition_frequency every": (0,),
    "soap max_precond_dim max_dim": (0,),
    "soap data_format": ("nhwc",),
    "soap matmul_dtype": (torch.float16,),
    "soap nonfinite": ("stop",),
    "kl_soap_h nonfinite": ("stop",),
    "rekls nonfinite": ("stop",),
    "soap_muon nonfinite": ("stop",),
    **{
        f"{recipe} {option}": values
        for recipe in ("kl_shampoo", "kl_soap")
        for option, values in {
            "b1": (1.0,),
            "shampoo_beta b": (1.5,),
            "eps": (-1.0,),
            "init_factor init": (0.0,),
            "clamp": (9.0,),
            "nonfinite": ("stop",),
            "precondition_frequency every": (0,),
        }.items()
    },
    "psgd_kron b1 decay": (1.0,),
    "psgd_kron weight_decay": (-1.0,),
    "psgd_kron precond_lr": (0.0, 1.1),
    "psgd_kron init_scale": (0.0, -1.0),
    "psgd_kron max_size": (0,),
    "psgd_kron min_ndim": (-1,),
    "psgd_kron probability": (0.0, 1.1),
    "psgd_kron form": ("QQ",),
    "psgd_kron memory_save_mode": ("none",),
    "psgd_kron norm": ("two",),
    "psgd_kron whiten": ("loss",),
    "psgd_kron noise": ("off",),
    "psgd beta_l": (0.0, 1.1),
    "psgd damping": (-1.0,),
    "psgd max_skew": (0.0, -1.0),
    "psgd whiten": ("momentum",),
    "psgd max_rms threshold": (0.0,),
}
TOGETHER: dict[str, tuple[Callable[[], Any], str]] = {
    "peak": (
        lambda: gx.shampoo(0.1, weight_decay_type="corrected", peak_lr=0.0),
        "needs peak_lr > 0, got 0.0",
    ),
    "dampening": (lambda: gx.shampoo(momentum=0.5, dampening=1.0), "dampening must be in"),
    "start": (
        lambda: gx.shampoo(precondition_frequency=5, start_preconditioning_step=4),
        "start_preconditioning_step must be >= precondition_frequency = 5, got 4",
    ),
    "pseudo-inverse": (
        lambda: gx.shampoo(root=ROOTS.evd("pseudo_inverse"), eps=1e-3),
        "eps must be > 0, and 0 with a pseudo-inverse, got 0.001",
    ),
    "power": (
        lambda: gx.shampoo(root="coupled_newton", exponents={2: 0.3}),
        "coupled_newton: p must be integer, got 3.33",
    ),
    "unturned": (lambda: gx.shampoo(form="qr", unturned={2: (2,)}), r"sides of 2 .* are 0\.\.1"),
    "iterations": (lambda: gx.shampoo(form="qr", qr_iterations=0), "iterations must be an int"),
    "tolerance": (lambda: gx.shampoo(form="qr", tolerance=-1.0), "tolerance must be in"),
    "abs": (
        lambda: gx.dash(inv_root_method=ROOTS.evd("abs"), eps_inv_root=0.0),
        "eps_inv_root must be > 0 with the rule 'abs', got 0",
    ),
    "newton": (lambda: ROOTS.coupled_newton(0), "steps must be an integer >= 1, got 0"),
    "db": (lambda: ROOTS.newton_db(0), "steps must be an integer >= 1, got 0"),
    "degree": (lambda: ROOTS.chebyshev(0), "degree must be an integer >= 1, got 0"),
    "power iteration": (lambda: ROOTS.power_iteration(0), "steps must be an integer >= 1, got 0"),
    "global density": (lambda: gx.sparse_mfac(density=1.5, scope="global"), "1.5"),
    "decayed gradient": (
        lambda: gx.sparse_mfac(query="gradient", weight_decay=0.1, weight_decay_kind="reg"),
        "exclude each other",
    ),
    "no parameters": (lambda: gx.optim.MFAC([]), "empty parameter list"),
    "dimensions": (
        lambda: gx.precondition_by_kron().init({"w": torch.ones((2,) * 14)}),
        "leaf 'w' has 14 dimensions, at most 13",
    ),
}
RECIPES = (
    *(*WINDOWS, "ggt", "shampoo", "dash", "one_sided_shampoo", "soap", "soap_muon"),
    *("kl_shampoo", "kl_soap", "kl_soap_h", "rekls", "psgd_kron", "psgd"),
)


def make(recipe: str) -> gx.GradientTransformation:
    return getattr(gx, recipe)(**({"window": 2} if recipe in (*WINDOWS, "ggt") else {}))


@pytest.mark.parametrize("what", OPTIONS)
def test_options(what: str) -> None:
    recipe, option, *part = what.split()
    for value in OPTIONS[what]:
        with pytest.raises((ValueError, TypeError), match=part[0] if part else option) as found:
            getattr(gx, recipe)(**{option: value})
        assert str(found.value).partition(":")[0].isidentifier()


@pytest.mark.parametrize("what", TOGETHER)
def test_options_together(what: str) -> None:
    call, message = TOGETHER[what]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("recipe", RECIPES)
def test_leaves(recipe: str) -> None:
    """Leaves that no optimizer takes, and those of another shape than the state's."""
    tx = make(recipe)
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(gx.UnsupportedLeafError, match="leaf 'w'"):
            tx.init({"w": torch.ones(4, 3, dtype=dtype)})
    with pytest.raises(gx.UnsupportedLeafError, match=r"leaf 'w'.* sparse"):
        tx.update({"w": torch.ones(4, 3).to_sparse()}, tx.init(W), W)
    optimizers = []
    for rows in (4, 5):
        p = torch.nn.Parameter(torch.ones(rows, 3))
        p.grad = torch.ones(rows, 3)
        optimizers.append(gx.optim.from_transform(tx, [("w", p)]))
        optimizers[-1].step()
    with pytest.raises(ValueError, match="state of parameter 'w' does not fit"):
        optimizers[1].load_state_dict(optimizers[0].state_dict())


@pytest.mark.parametrize("recipe", WINDOWS)
def test_values(recipe: str) -> None:
    tx = make(recipe)
    with pytest.raises(ValueError, match="leaf 'w': the update has a NaN or an infinity"):
        tx.update({"w": torch.full((4, 3), NAN)}, tx.init(W), W)
    falling = getattr(gx, recipe)(window=2, damping=gx.schedules.linear(0.1, 0.0, 1))
    _, state = falling.update(W, falling.init(W), W)
    with pytest.raises(ValueError, match=r"damping must be in \(0, inf\), got 0"):
        falling.update(W, state, W)


ASK = (*WINDOWS, "ggt", "soap", "soap_muon", "kl_shampoo", "kl_soap", "kl_soap_h", "rekls")


def steps(recipe: str, fused: bool, **options: Any) -> tuple[Any, list[Any]]:
    """Two steps, one with a NaN, and two more; which were refused, and whether by name."""
    given = {"window": 2, "damping": 0.1} if recipe in WINDOWS else {}
    given |= {"window": 2} if recipe == "ggt" else {}
    tx, refused = getattr(gx, recipe)(0.01, **given, **options), []
    params: Any = {"v": torch.ones(3), "w": torch.ones(4, 3)}
    state, step = tx.init(params), gx.fuse(tx)
    for t in range(5):
        generator = torch.Generator().manual_seed(t)
        grads = {k: torch.randn(p.shape, generator=generator) for k, p in params.items()}
        if t == 2:
            grads["w"][1, 1] = NAN
        before = gx.tree.map(torch.clone, (params, state))
        try:
            if fused:
                params, state = step(params, grads, state)
            else:
                updates, state = tx.update(grads, state, params)
                params = gx.apply_updates(params, updates)
        except ValueError as error:
            refused.append((t, "leaf 'w': the update has a NaN" in str(error)))
            pairs = zip(gx.tree.leaves(before), gx.tree.leaves((params, state)), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    return params, refused


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("recipe", ASK)
def test_gradients_that_are_not_finite(recipe: str, fused: bool) -> None:
    """They are refused, or left out; those that come later give what they would have given."""
    params, refused = steps(recipe, fused)
    assert refused == [(2, True)]
    assert all(p.isfinite().all() for p in params.values())
    skipped, refused = steps(recipe, fused, nonfinite="skip")
    assert not refused
    torch.testing.assert_close(skipped["w"], params["w"])
    assert (skipped["w"] != 1).any()
    ignored, refused = steps(recipe, fused, nonfinite="ignore")
    assert not refused
    assert ignored["w"].isnan().any()


@pytest.mark.parametrize("recipe", ASK)
def test_what_refuses_can_be_put_where_steps_are_skipped(recipe: str) -> None:
    tx = gx.apply_if_finite(make(recipe))
    updates, state = tx.update({"w": torch.full((4, 3), NAN)}, tx.init(W), W)
    assert not updates["w"].any()
    assert state.total_notfinite == 1


def test_a_leaf_that_is_left_out_spoils_no_gram_matrix() -> None:
    tx = gx.apply_if_leaf_finite(gx.precondition_mfac(2, 0.1, nonfinite="raise"), "skip")
    params = {"v": torch.ones(3), "w": torch.ones(2)}
    grads = {"v": torch.full((3,), INF), "w": torch.ones(2)}
    updates, state = tx.update(grads, tx.init(params), params)
    alone = gx.precondition_mfac(2, 0.1)
    zeros = {"v": torch.zeros(3), "w": torch.ones(2)}
    torch.testing.assert_close(updates, alone.update(zeros, alone.init(params), params)[0])
    assert all(x.isfinite().all() for x in gx.tree.leaves(state) if x.is_floating_point())


def test_what_is_only_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gradtx"):
        for _ in range(2):
            gx.lowrank_mfac(window=2, rank=7).init({"v": torch.ones(3), "small": torch.ones(4, 3)})
        gx.dash(inv_root_method=ROOTS.newton_db(10, matmul_dtype=torch.float16))
        gx.dash(inv_root_method=ROOTS.newton_db(10))
    assert [record.getMessage() for record in caplog.records] == [
        "precondition_mfac: leaf 'small' of shape (4, 3) is kept at rank 3, not 7",
        "dash: newton_db with products in torch.float16 is not stable; take coupled_newton",
    ]


REPEATED = {
    "mfac": lambda nonfinite: gx.mfac(0.1, 4, nonfinite=nonfinite),
    "sparse_mfac": lambda nonfinite: gx.sparse_mfac(0.1, 4, density=0.5, nonfinite=nonfinite),
    "lowrank_mfac": lambda nonfinite: gx.lowrank_mfac(
        0.1, 4, weight_decay=0.1, weight_decay_kind="reg", aggregate=False, nonfinite=nonfinite
    ),
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", REPEATED)
def test_inner_products_without_a_factor(name: str, fused: bool) -> None:
    """Gradients that are finite, far too large for the damping, and the same again and again."""

    def run(nonfinite: str) -> torch.Tensor:
        tx = REPEATED[name](nonfinite)
        params = {"w": torch.ones(1, 1, dtype=torch.float32)}
        state = tx.init(params)
        step = gx.fuse(tx) if fused else None
        for _ in range(4):
            grads = {"w": torch.full((1, 1), 3e13, dtype=torch.float32)}
            if step is not None:
                params, state = step(params, grads, state)
            else:
                updates, state = tx.update(grads, state, params)
                params = gx.apply_updates(params, updates)
        return params["w"]

    with pytest.raises(ValueError, match=r"no Cholesky factor.*more damping"):
        run("raise")
    for nonfinite in ("skip", "ignore"):
        assert torch.isfinite(run(nonfinite)).all()
