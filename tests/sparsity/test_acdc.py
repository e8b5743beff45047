"""AC/DC: phases, masks, what a closed loop sees, resumption, bad input."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import gradtx as gx

s = gx.sparsity
PHASES = s.phases(("dense", 2), ("sparse", 3), ("dense", 2), ("sparse", 4))


def quadratic(params: dict[str, Tensor]) -> Tensor:
    target = torch.linspace(-1, 1, 24, dtype=torch.float32).reshape(4, 6)
    return (params["w"] - target).square().sum() + params["b"].square().sum()


def test_masked_weights_are_zero_at_every_sparse_forward_pass() -> None:
    tx = gx.acdc(gx.sgd(0.1, 0.9), PHASES, 0.5)
    params = {
        "w": torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),
        "b": torch.ones(3),
    }
    state = tx.init(params)
    for t in range(11):
        seen, before = tx.project(params, state), params["w"]
        if PHASES.is_sparse(t):
            assert (seen["w"] == 0).sum() == 13  # one more than half, as published
        grads = torch.func.grad(quadratic)(seen)
        updates, state = tx.update(grads, state, params)
        params = gx.apply_updates(params, updates)
        if PHASES.is_sparse(t):
            assert torch.equal(params["w"] != 0, seen["w"] != 0)
            assert torch.equal(s.masks_of(state, params)["w"], seen["w"] != 0)
        else:
            assert torch.equal(seen["w"], before)
            assert s.masks_of(state, params)["w"].all()


@pytest.mark.parametrize("reset", ["first_moments", "all", "nothing"])
def test_what_a_restore_resets(reset) -> None:
    tx = gx.acdc(gx.adam(0.1), s.phases(("sparse", 1), ("dense", 1)), 0.5, reset)
    params = {"w": torch.randn(2, 4)}
    grads, state = {"w": torch.ones(2, 4)}, tx.init(params)
    _, state = tx.update(grads, state, params)
    _, state = tx.update({"w": torch.zeros(2, 4)}, state, params)
    moments = gx.tree.get(state, "mu"), gx.tree.get(state, "nu")
    assert (moments[0] != 0).any() == (reset == "nothing")
    assert (moments[1] != 0).any() == (reset != "all")


def test_a_class_resumes_in_the_middle_of_a_phase() -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(8, 6)
        return model, gx.optim.from_transform(
            gx.acdc(gx.adamw(0.05), PHASES, 0.7), model.named_parameters()
        )

    def train(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
        for t in steps:
            x = torch.randn(5, 8, generator=torch.Generator().manual_seed(t))
            model(x).square().sum().backward()
            opt.step()
            opt.zero_grad()

    whole, opt = make()
    train(whole, opt, range(9))
    first, opt = make()
    train(first, opt, range(4))
    saved = copy.deepcopy((first.state_dict(), opt.state_dict()))
    second, opt = make()
    second.load_state_dict(saved[0])
    opt.load_state_dict(saved[1])
    train(second, opt, range(4, 9))
    assert torch.equal(whole.weight, second.weight)
    assert int((whole.weight == 0).sum()) == 48 - 14


def test_published_schedules() -> None:
    imagenet = s.acdc_imagenet_schedule()
    sparse = [t for t in range(100) if imagenet.is_sparse(t)]
    assert sparse[:5] == [10, 11, 12, 13, 14]
    assert sparse[-15:] == list(range(85, 100))
    assert not any(imagenet.is_sparse(t) for t in range(75, 85))
    package = s.layerwise_schedule(100, 10, 5, 90)
    assert [t for t in range(80, 100) if package.is_sparse(t)] == [
        80,
        81,
        82,
        83,
        84,
        *range(90, 100),
    ]


def test_gradual_schedules() -> None:
    linear = [s.cubic_sparsity(0.2, 0.8, t, 2, 5, degree=1) for t in range(7)]
    assert linear == pytest.approx([0.2, 0.2, 0.2, 0.4, 0.6, 0.8, 0.8])
    late = [s.cubic_sparsity(0.0, 1 - 1e-9, t, 0, 8, degree=1 / 3) for t in (0, 7, 8)]
    assert late == pytest.approx([0, 0.5, 1], abs=1e-6)


def test_supports() -> None:
    w = torch.tensor([[4.0, -3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    ones = torch.ones_like(w, dtype=torch.bool)

    def kept(support: s.Support) -> int:
        return int(support.choose([w], [ones])[0].sum())

    assert kept(s.magnitude_support(0.5)) == 3  # strictly above the fourth largest
    assert kept(s.magnitude_support(0.5, count="exact")) == 4
    assert kept(s.magnitude_support(0.0)) == 8
    assert kept(s.block_support(0.5, 4)) == 4
    pattern = s.nm_support(1, 4).choose([w], [ones])[0]
    assert pattern.tolist() == [[True, False, False, False], [False, False, False, True]]
    again = s.magnitude_support(0.25, count="exact").choose([w * 0], [ones])[0]
    assert again.flatten().tolist() == [True] * 6 + [False] * 2  # ties go to the lower index


@pytest.mark.parametrize("count", ["reference", "exact", "floor"])
@pytest.mark.parametrize("scope", ["global", "leaf"])
def test_supports_of_many_weights_are_those_of_the_rule_on_all_of_them(scope, count) -> None:
    generator = torch.Generator().manual_seed(0)
    ws = [torch.randn(n, generator=generator) for n in ((700, 900), (3, 4), (0, 5), (90_000,))]
    ws = [w.mul(20).round().div(20) for w in ws]  # ties
    masks = [torch.rand(w.shape, generator=generator) > 0.3 for w in ws]
    rule = s.magnitude_support(0.77, scope, count)
    found = rule.choose(ws, masks)
    # Maps cannot read thresholds, and compare all weights at once.
    mapped = torch.func.vmap(lambda *xs: tuple(rule.choose(xs, masks)))(*(w[None] for w in ws))
    for a, b in zip(found, mapped, strict=True):
        assert torch.equal(a, b[0])
    if count == "exact" and scope == "global":
        n = sum(w.numel() for w in ws)
        assert sum(int(m.sum()) for m in found) == -int(-n * (1 - 0.77) // 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.magnitude_support(1.0), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: s.magnitude_support(), "give sparsity or density"),
        (lambda: s.magnitude_support(0.5, "layer"), "scope must be 'global' or 'leaf'"),
        (lambda: s.nm_support(4, 4), "n must be less than m"),
        (lambda: s.phases(("dense", 0)), "a length must be an integer >= 1"),
        (lambda: s.phases("dense", 3), "a pair such as \\('dense', 10\\), got 'dense'"),
        (lambda: s.phases(("idle", 3)), "'dense' or 'sparse', got 'idle'"),
        (lambda: s.phase_schedule([(1, 0, 5)]), "step >= 1, got"),
        (lambda: s.phase_schedule([], [(3, 1, 4)]), "nothing has been pruned"),
        (lambda: s.layerwise_schedule(5, 5, 1, 5), "total_epochs must be an integer >= 6"),
        (lambda: gx.acdc(gx.sgd(0.1), PHASES, 0.5, "some"), "reset must be"),
        (lambda: s.cubic_sparsity(0.5, 0.4, 0, 0, 1), "0 <= initial <= final < 1"),
        (lambda: s.cubic_sparsity(0.0, 0.4, 0, 0, 1, 0.0), "degree must be > 0"),
    ],
)
def test_bad_options(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_input() -> None:
    tx = gx.acdc(gx.sgd(0.1), s.phases(("sparse", 1)), 0.5)
    with pytest.raises(ValueError, match="prunable chooses none of the leaves"):
        tx.update(one := {"b": torch.ones(3)}, tx.init(one), one)
    with pytest.raises(ValueError, match="leaf 'w' of shape"):
        gx.acdc(gx.sgd(0.1), PHASES, s.nm_support()).init({"w": torch.ones(3, 3)})
    params = {"w": torch.tensor([[1.0, torch.nan]])}
    with pytest.raises(ValueError, match="leaf 'w' has a NaN or an infinity"):
        tx.update({"w": torch.ones(1, 2)}, tx.init(params), params)
    with pytest.raises(TypeError, match="schedule must be a PhaseSchedule"):
        gx.acdc(gx.sgd(0.1), 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s.phase_schedule([(1, 1, 3)], [(2, 1, 3)])
    assert "prune and restore" in str(caught[0].message)


def test_masks_go_in_and_out() -> None:
    params = {"w": torch.ones(1, 3), "b": torch.ones(3)}
    state = gx.chain(gx.sgd(0.1, 0.9), gx.keep_params_sparse()).init(params)
    new = torch.tensor([[True, False, True]])
    state = s.replace_masks(state, {"w": new, "b": None})
    assert torch.equal(s.masks_of(state, params)["w"], new)
    with pytest.raises(ValueError, match="leaf 'b' takes no mask"):
        s.replace_masks(state, {"w": new, "b": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"a bool tensor of shape \(1, 3\)"):
        s.replace_masks(state, {"w": new.float(), "b": None})
    layer = nn.Linear(3, 1)
    s.to_torch_prune(layer, {"weight": new, "bias": None})
    assert layer.weight[0, 1] == 0
    assert "33.3%" in s.report({"w": layer.weight}, {"w": new})
    with pytest.raises(ValueError, match="no parameter 'weigth'"):
        s.to_torch_prune(nn.Linear(3, 1), {"weigth": new})
