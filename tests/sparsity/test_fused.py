"""AC/DC through the fuser: what is compiled, what events do to a fused step, masks as bits."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradtx as gx
from gradtx.sparsity.bits import all_ones, as_matrix, pack, unpack

s = gx.sparsity
PHASES = s.phases(("dense", 2), ("sparse", 3), ("dense", 2), ("sparse", 4))
SHAPES = {
    "w": (9, 13),
    "conv": (4, 3, 3, 3),
    "b": (7,),
    "none": (0, 5),
    "one": (1, 1),
    "column": (6, 1),
}


def tree(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def same(a: Any, b: Any) -> bool:
    pairs = zip(gx.tree.leaves(a), gx.tree.leaves(b), strict=True)
    return all(x is y or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    "shape", [(), (5,), (8,), (9, 1), (3, 8), (3, 9), (2, 3, 3), (0, 4), (4, 0)]
)
def test_bits_hold_a_mask(shape) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    mask = torch.rand(shape, generator=generator) > 0.5
    rows, columns = as_matrix(shape)
    assert pack(mask).shape == (rows, (columns + 7) // 8)
    assert torch.equal(unpack(pack(mask), mask), mask)
    assert torch.equal(all_ones(mask), pack(torch.ones(shape, dtype=torch.bool)))


INNER: dict[str, Any] = {
    "adamw": lambda: gx.adamw(0.05),
    "sgd": lambda: gx.sgd(0.05, 0.9, weight_decay=0.1),
    "adafactor": lambda: gx.adafactor(0.05),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", INNER)
def test_fused_phases_are_those_of_the_pure_chain(inner, packed) -> None:
    tx = gx.acdc(INNER[inner](), PHASES, 0.6, packed=packed)
    step, params, own = gx.fuse(tx), tree(0), tree(0)
    state, kept = tx.init(params), tx.init(own)
    held = gx.tree.leaves(own), gx.tree.leaves(kept)
    for t in range(11):
        grads = tree(t + 1)
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
        own, kept = step(own, grads, kept)
        for name, p in params.items():
            torch.testing.assert_close(own[name], p, rtol=1e-4, atol=1e-6)
        assert same(s.masks_of(kept, own), s.masks_of(state, params))
        if PHASES.is_sparse(t):
            masks = s.masks_of(kept, own)
            assert not any(own[n][~masks[n]].any() for n in ("w", "conv", "column"))
    now = gx.tree.leaves(own), gx.tree.leaves(kept)
    assert all(a is b for x, y in zip(held, now, strict=True) for a, b in zip(x, y, strict=True))
    assert step.report() == "everything is fused"


def test_a_mask_is_a_bit_a_weight() -> None:
    params = {"w": torch.zeros(64, 128)}
    tx = gx.acdc(gx.adamw(0.1), PHASES)
    assert tx.init(params).masks["w"].mask.nbytes == 64 * 128 // 8
    assert "moved per parameter: 28.1 bytes" in gx.explain(tx, params)


def test_an_event_concerns_leaves_without_a_gradient() -> None:
    tx = gx.acdc(gx.sgd(0.1, 0.9), s.phases(("dense", 1), ("sparse", 3)), 0.5)
    step, params, own = gx.fuse(tx), tree(0), tree(0)
    state, kept = tx.init(params), tx.init(own)
    for t in range(4):
        grads: dict[str, Any] = tree(t + 1) | {"conv": None if t else torch.ones(SHAPES["conv"])}
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
        own, kept = step(own, grads, kept)
        assert same(s.masks_of(kept, own), s.masks_of(state, params))
        torch.testing.assert_close(own["w"], params["w"])
    assert step.report() == "everything is fused"  # but for the step that pruned


def test_nothing_changes_where_a_prune_meets_a_nan() -> None:
    tx = gx.acdc(gx.adamw(0.1), s.phases(("dense", 1), ("sparse", 3)), 0.5)
    step, params = gx.fuse(tx), tree(0)
    params, state = step(params, tree(1), tx.init(params))
    params["w"][0, 0] = torch.nan
    before = copy.deepcopy((params, state))
    with pytest.raises(ValueError, match="leaf 'w' has a NaN or an infinity"):
        step(params, tree(2), state)
    now = gx.tree.leaves((params, state))
    for a, b in zip(gx.tree.leaves(before), now, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("reset", ["first_moments", "all"])
def test_members_of_a_partition_have_phases(reset) -> None:
    tx = gx.partition(
        {
            "matrix": gx.chain(gx.scale(2.0), gx.acdc(gx.adam(0.1), PHASES, 0.5, reset)),
            "vector": s.reset_on(gx.sgd(0.1, 0.9), PHASES, what="all"),
        },
        by=lambda info: "matrix" if info.ndim == 2 else "vector",
    )
    step, params, own = gx.fuse(tx), tree(0), tree(0)
    state, kept = tx.init(params), tx.init(own)
    for t in range(9):
        grads = tree(t + 1)
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
        own, kept = step(own, grads, kept)
        for name, p in params.items():
            torch.testing.assert_close(own[name], p, rtol=1e-4, atol=1e-6)
        if PHASES.is_sparse(t):
            left = sum(int((own[name] != 0).sum()) for name in ("w", "one", "column"))
            assert left == 61  # ceil(124 / 2) - 1
    assert step.report() == "everything is fused"


def test_a_predicate_on_names_fuses() -> None:
    tx = gx.acdc(gx.adamw(0.1), PHASES, 0.5, prunable=lambda info: info.name == "conv")
    step, params = gx.fuse(tx), tree(0)
    state = tx.init(params)
    for t in range(4):
        params, state = step(params, tree(t), state)
    assert step.report() == "everything is fused"
    assert (params["w"] != 0).all()
    assert int((params["conv"] != 0).sum()) == 108 // 2 - 1


def test_reset_on_is_what_acdc_does_at_a_restore() -> None:
    never = s.magnitude_support(0.0)
    one = gx.acdc(gx.chain(gx.scale_by_adam(), gx.scale(-0.1)), PHASES, never)
    other = gx.chain(s.reset_on(gx.scale_by_adam(), PHASES), gx.scale(-0.1))
    fused = gx.fuse(other)
    p, q, r = tree(0), tree(0), tree(0)
    a, b, c = one.init(p), other.init(q), other.init(r)
    for t in range(9):
        grads = tree(t + 1)
        updates, a = one.update(grads, a, p)
        p = gx.apply_updates(p, updates)
        updates, b = other.update(grads, b, q)
        q = gx.apply_updates(q, updates)
        r, c = fused(r, grads, c)
        assert same(p, q)
        torch.testing.assert_close(q["w"], r["w"])
    assert fused.report() == "everything is fused"


def test_masked_moments_change_no_parameter() -> None:
    params, own = tree(0), tree(0)
    one = gx.acdc(gx.adamw(0.05), PHASES, 0.6)
    other = gx.acdc(gx.adamw(0.05), PHASES, 0.6, mask_state=True)
    a, b = one.init(params), other.init(own)
    step = gx.fuse(other)
    for t in range(9):
        grads = tree(t + 1)
        updates, a = one.update(grads, a, params)
        params = gx.apply_updates(params, updates)
        own, b = step(own, grads, b)
        torch.testing.assert_close(own["w"], params["w"], rtol=1e-4, atol=1e-6)
        mask, kept = s.masks_of(b, own)["w"], b.inner_state["scale_by_adam"]["w"]
        assert not kept.mu[~mask].any()
        assert kept.nu.all()
    assert a.inner_state["scale_by_adam"]["w"].mu[~mask].any()
    assert step.report() == "everything is fused"


def test_reset_moments_between_two_steps() -> None:
    tx = gx.chain(gx.adam(0.1), gx.keep_params_sparse())
    params = tree(0)
    _, state = tx.update(tree(1), tx.init(params), params)
    new = s.reset_moments(state, params)
    old, own = state["scale_by_adam"]["w"], new["scale_by_adam"]["w"]
    assert old.mu.all()
    assert not own.mu.any()
    assert torch.equal(own.nu, old.nu)
    assert s.masks_of(new, params)["w"].all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: s.reset_on(gx.trace(0.9), 3), TypeError, "schedule must be a PhaseSchedule"),
        (lambda: s.reset_on(gx.trace(0.9), PHASES, "end"), ValueError, "'prune' or 'restore'"),
        (lambda: s.reset_on(gx.trace(0.9), PHASES, what="mu"), ValueError, "what must be"),
        (
            lambda: s.reset_on(gx.trace(0.9), PHASES, what="all").update(tree(0), ()),
            ValueError,
            "needs the parameters",
        ),
    ],
)
def test_bad_resets(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


# -- torch optimizers -------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6))


def acdc(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return gx.optim.ACDC(
        model.named_parameters(),
        lr=0.05,
        schedule=PHASES,
        support=0.7,
        weight_decay=0.01,
        **options,
    )


def adamw(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    tx = gx.acdc(gx.adamw(0.05), PHASES, 0.7)
    return gx.optim.from_transform(tx, model.named_parameters(), **options)


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        gx.optim.project(opt)
        if PHASES.is_sparse(t):
            weights = torch.cat([p.flatten() for p in model.parameters() if p.ndim > 1])
            assert int((weights == 0).sum()) == 168 - 50  # ceil(168 * 0.3) - 1 are kept
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(t))
        model(x).square().sum().backward()
        opt.step()
        opt.zero_grad()


@pytest.mark.parametrize("make", [acdc, adamw])
def test_classes_run_fused_and_resume_in_the_middle_of_a_phase(make, caplog) -> None:
    whole = network()
    with caplog.at_level(logging.INFO, "gradtx"):
        train(whole, make(whole, fused=True), range(9))
    assert not caplog.records
    first = network()
    opt = make(first, fused=True)
    train(first, opt, range(4))
    saved = copy.deepcopy((first.state_dict(), opt.state_dict()))
    second = network()
    opt = make(second, fused=True)
    second.load_state_dict(saved[0])
    opt.load_state_dict(saved[1])
    train(second, opt, range(4, 9))
    for p, q in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
    eager = network()
    train(eager, make(eager, fused=False), range(9))
    for p, q in zip(whole.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_group_may_stay_dense_and_a_file_holds_the_schedule(tmp_path) -> None:
    model = network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "sparse": False}]
    opt = gx.optim.ACDC(groups, schedule=s.phases(("sparse", 5)), support=s.nm_support(2, 4))
    model(torch.ones(1, 8)).sum().backward()
    opt.step()
    assert (model[0].weight.reshape(-1, 4) != 0).sum(1).tolist() == [2] * 24
    assert (model[2].weight != 0).all()
    torch.save(opt.state_dict(), tmp_path / "state")
    other = gx.optim.ACDC(groups, schedule=s.phases(("dense", 1), ("sparse", 5)))
    other.load_state_dict(torch.load(tmp_path / "state"))
    assert other.param_groups[0]["schedule"] == s.phases(("sparse", 5))
    assert other.param_groups[0]["support"] == s.nm_support(2, 4)


def test_project_asks_for_acdc() -> None:
    with pytest.raises(ValueError, match="AdamW has no acdc in its chain"):
        gx.optim.project(gx.optim.AdamW([nn.Parameter(torch.ones(2))]))


def test_events_between_steps_ask_for_optimizers_of_the_library() -> None:
    other: Any = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    for call in (gx.optim.project, gx.optim.masks, lambda o: gx.optim.apply_event(o, lambda *x: x)):
        with pytest.raises(TypeError, match=r"expected an optimizer of gx.optim, got torch.*SGD"):
            call(other)


def test_an_event_between_steps_prunes_a_torch_optimizer() -> None:
    model = network()
    tx = gx.chain(gx.adamw(0.05), gx.keep_params_sparse())
    opt = gx.optim.from_transform(tx, model.named_parameters(), fused=True)

    def prune(params: Any, state: Any) -> Any:
        event = s.obs_prune(0.5, score="magnitude", update="none")
        new = event(params, s.masks_of(state, params))
        return new.params, s.reset_moments(s.replace_masks(state, new.masks), params)

    for t in range(6):
        if t == 3:
            gx.optim.apply_event(opt, prune)
            assert not opt.state[model[0].weight]["scale_by_adam"]["mu"].any()
            assert opt.state[model[0].weight]["scale_by_adam"]["step"] == 3
        model(torch.randn(5, 8)).square().sum().backward()
        opt.step()
        opt.zero_grad()
    found = gx.optim.masks(opt)
    assert found["0.bias"] is None
    for name, p in model.named_parameters():
        if (mask := found[name]) is not None:
            assert torch.equal(p != 0, mask)
    assert "45.2%" in s.report(model, found)  # 84 of 186
    with pytest.raises(ValueError, match=r"leaf '0.weight' has shape \(12, 8\)"):
        gx.optim.apply_event(opt, lambda ps, state: ({k: p[:1] for k, p in ps.items()}, state))
