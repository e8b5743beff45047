"""Options of groups: names, numbers of any type, one value an entry, what counts for all (3)."""

from __future__ import annotations

import io
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import gradtx as gx

from .cases import assert_close, parameters, run, set_gradients

# What Accelerate, DeepSpeed, Hugging Face, Megatron, timm, torchtitan and schedulers put there.
FRAMEWORKS = {
    "initial_lr": 0.1,
    "lr_scale": 0.5,
    "lr_mult": 1.0,
    "wd_mult": 0.0,
    "max_lr": 1.0,
    "min_lr": 0.0,
    "swa_lr": 0.1,
    "base_momentum": 0.8,
    "max_momentum": 0.9,
    "name": "decay",
    "layer_name": "blocks.0",
    "is_expert_parallel": False,
    "moe": False,
    "note": "kept",
}


@pytest.mark.parametrize("key", FRAMEWORKS)
@pytest.mark.parametrize("make", [gx.optim.AdamW, gx.optim.SGD, gx.optim.Muon])
def test_keys_of_frameworks_pass(make, key):
    opt = make([{"params": parameters()[:1], key: FRAMEWORKS[key]}])
    assert opt.param_groups[0][key] == FRAMEWORKS[key]


@pytest.mark.parametrize(
    "make, key, meant",
    [
        (gx.optim.AdamW, "learning_rate", "lr"),
        (gx.optim.AdamW, "lrr", "lr"),
        (gx.optim.AdamW, "LR", "lr"),
        (gx.optim.AdamW, "wd", "weight_decay"),
        (gx.optim.AdamW, "beta1", "betas"),
        (gx.optim.AdamW, "epsilon", "eps"),
        (gx.optim.AdamW, "weigth_decay", "weight_decay"),
        (gx.optim.AdamW, "weight_decay_", "weight_decay"),
        (gx.optim.AdamW, "_lr", "lr"),
        (gx.optim.AdamW, "learningRate", "lr"),
        (gx.optim.AdamW, "weight decay", "weight_decay"),
        (gx.optim.AdamW, "epsilons", "eps"),
        (gx.optim.SGD, "mu", "momentum"),
        (gx.optim.SGD, "moment", "momentum"),
        (gx.optim.Muon, "use_muon", "matrix"),
    ],
)
def test_an_option_by_another_name_is_refused(make, key, meant):
    with pytest.raises(ValueError, match=f"{key!r}; did you mean {meant!r}"):
        make([{"params": parameters()[:1], key: 0.5}])
    opt = make(parameters()[:1])
    with pytest.raises(ValueError, match=f"{key!r}; did you mean {meant!r}"):
        opt.add_param_group({"params": parameters()[1:2], key: 0.5})
    assert len(opt.param_groups) == 1
    with pytest.raises(TypeError, match=f"{key!r}; did you mean {meant!r}"):
        make(parameters()[:1], **{key: 0.5})
    if make is gx.optim.Muon:
        return
    tx = gx.adamw(0.1) if make is gx.optim.AdamW else gx.sgd(0.1, 0.9)
    with pytest.raises(TypeError, match=f"{key!r}; did you mean"):
        gx.optim.from_transform(tx, parameters(), **{key: 0.5})


def test_options_that_matrix_groups_hands_on():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    with pytest.raises(ValueError, match="'lrr'; did you mean 'lr'"):
        gx.matrix_groups(model, {"lrr": 0.02})
    with pytest.raises(ValueError, match="'wd'; did you mean 'weight_decay'"):
        gx.matrix_groups(model, others={"wd": 0.02})
    with pytest.raises(TypeError, match=r"write matrix_groups\(model\)"):
        gx.matrix_groups(model.parameters())


def test_usual_options_are_not_asked_for_in_vain():
    chain = gx.scale_by_adam()
    gx.optim.from_transform(chain, [{"params": parameters(), "weight_decay": 0.0}])
    with pytest.raises(ValueError, match=r"no option .weight_decay., got 0\.1"):
        gx.optim.from_transform(chain, [{"params": parameters(), "weight_decay": 0.1}])


def test_only_a_momentum_is_called_one():
    """OneCycleLR and CyclicLR overwrite what is called momentum, and the first of the betas."""

    def options(tx):
        return gx.optim.from_transform(tx, parameters()).param_groups[0].keys()

    assert {"decay"} <= options(gx.scale_by_rms(0.9)) - {"momentum"}
    assert {"momentum", "decay"} <= options(gx.chain(gx.scale_by_rms(0.9), gx.trace(0.5)))
    assert "betas" not in options(gx.root_second_moment(0.9))
    opt = gx.optim.from_transform(gx.scale_by_rms(0.9), parameters())
    with pytest.raises(ValueError, match="momentum"):
        torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=5)
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=5, cycle_momentum=False)
    assert opt.param_groups[0]["decay"] == 0.9


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, Fraction])
def test_numbers_of_any_type(kind):
    options = {"lr": 0.5, "weight_decay": 0.25, "eps": 0.125, "betas": (0.5, 0.75)}
    given = {k: kind(v) if k != "betas" else tuple(map(kind, v)) for k, v in options.items()}
    mine, theirs = parameters(), parameters()
    opt, plain = gx.optim.AdamW(mine, **given), torch.optim.AdamW(theirs, **options)
    for t in range(3):
        run(opt, mine, range(t, t + 1))
        run(plain, theirs, range(t, t + 1))
        opt.param_groups[0].update(lr=kind(0.25), betas=(kind(0.25), 0.75))
        plain.param_groups[0].update(lr=0.25, betas=(0.25, 0.75))
    assert_close(mine, theirs)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    assert torch.load(file)["param_groups"][0]["lr"] == 0.25


def test_numbers_that_no_tensor_holds():
    """Large integers are floats; what no float holds is infinite, and out of every interval."""
    for options in ({"eps": 2**62}, {"weight_decay": 2**70}, {"lr": np.uint64(2**63)}):
        after = []
        for kind in (lambda v: v, float):
            params = parameters()
            opt = gx.optim.AdamW(params, **{k: kind(v) for k, v in options.items()})
            run(opt, params, range(1))
            after.append(params)
        assert all(torch.equal(a, b) for a, b in zip(*after, strict=True))
    for value in (10**400, Fraction(10**400), Decimal("1e400"), Decimal("sNaN"), -(10**400)):
        with pytest.raises(ValueError, match=r"AdamW: eps must be in .*, got -?(inf|nan)"):
            gx.optim.AdamW(parameters(), eps=value)
    w = torch.nn.Parameter(torch.ones(3))
    opt = gx.optim.MFAC([w], damping=2**62, window=2)
    w.grad = torch.ones(3)
    opt.step()
    with pytest.raises(ValueError, match="window must be at most 2147483647 steps"):
        gx.optim.MFAC([w], window=2**62)
    gx.optim.AdamAdv([w], seed=2**64 - 1)


def test_structural_options_of_any_type():
    w = torch.nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    for rank in (2, np.int64(2), np.array(2), torch.tensor(2)):
        opt = gx.optim.GaLoreAdamW([w], rank=rank, update_proj_gap=np.int32(3))
        w.grad = torch.ones_like(w)
        opt.step()
    for value in (True, np.bool_(True), torch.tensor(True)):
        with pytest.raises((TypeError, ValueError), match="AdamW: lr must be"):
            gx.optim.AdamW([w], lr=value)


@pytest.mark.parametrize("several", [False, True])
def test_a_learning_rate_per_entry(several):
    """In one group or two, and a number again afterwards."""
    mine, theirs = [[torch.nn.Parameter(torch.ones(3)) for _ in range(2)] for _ in range(2)]
    rates = torch.tensor([0.0, 0.1, 0.2])
    groups = [{"params": mine[:1], "lr": rates}, {"params": mine[1:], "lr": rates}]
    opt = gx.optim.AdamW(groups if several else mine, lr=rates)
    for t in range(3):
        set_gradients(mine, t)
        opt.step()
    for i, rate in enumerate(rates.tolist()):
        plain = gx.optim.AdamW(theirs, lr=rate)
        with torch.no_grad():
            for p in theirs:
                p.fill_(1.0)
        run(plain, theirs, range(3))
        assert_close([p[i] for p in mine], [p[i] for p in theirs])
    for group in opt.param_groups:
        group["lr"] = 0.1
    opt.step()
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        gx.optim.AdamW(mine, lr=torch.ones(2))
    for group in opt.param_groups:
        group["lr"] = torch.ones(2)
    with pytest.raises(ValueError, match="lr has shape"):
        opt.step()


@pytest.mark.parametrize("fused", [None, False])
def test_groups_agree_in_what_counts_for_all(fused):
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.trace(0.9))
    a, b = parameters()[:2], parameters()[2:]
    groups = [{"params": a, "max_norm": 1.0}, {"params": b, "max_norm": 2.0}]
    with pytest.raises(ValueError, match=r"groups must agree in max_norm.* 1.0 and 2.0"):
        gx.optim.from_transform(tx, groups)
    opt = gx.optim.from_transform(tx, a, fused=fused)
    with pytest.raises(ValueError, match="groups must agree in max_norm"):
        opt.add_param_group({"params": b, "max_norm": 2.0})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": b, "momentum": 0.5})
    run(opt, a + b, range(1))
    opt.param_groups[1]["max_norm"] = 2.0
    before = [p.detach().clone() for p in a + b]
    with pytest.raises(ValueError, match="max_norm must be the same for all leaves"):
        run(opt, a + b, range(1))
    assert all(map(torch.equal, before, a + b))


def test_decay_after_the_learning_rate_warns():
    late = gx.chain(gx.scale_by_adam(), gx.scale(-0.1), gx.add_decayed_weights(0.1))
    with pytest.warns(UserWarning, match="add_decayed_weights comes after the learning rate"):
        gx.optim.from_transform(late, parameters())
    for tx in (gx.adamw(0.1), gx.chain(gx.add_decayed_weights(0.1), gx.sgd(0.1)), gx.muon(0.1)):
        gx.optim.from_transform(tx, parameters())  # warnings are errors


def test_muon_says_once_that_it_is_given_embeddings():
    model = torch.nn.Sequential(torch.nn.Embedding(100, 8), torch.nn.Linear(8, 8))
    decays = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    with pytest.warns(UserWarning, match=r"Muon: .*\(100, 8\).* gx.matrix_groups") as said:
        opt = gx.optim.Muon(groups)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_gradients(decays + rest, 0)
        opt.step()
        gx.optim.Muon(gx.matrix_groups(model))
    with pytest.warns(UserWarning, match="'wte.weight'"):
        gx.optim.Muon([("wte.weight", model[0].weight), ("fc.weight", model[1].weight)])


def test_modules_and_swapped_arguments():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"AdamW: .*write model.parameters\(\)"):
        gx.optim.AdamW(model)
    with pytest.raises(TypeError, match="the chain comes first"):
        gx.optim.from_transform(model.parameters(), gx.adam())
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters()), 1)
    with pytest.raises(TypeError, match="the torch scheduler StepLR"):
        gx.optim.AdamW(model.parameters(), lr=scheduler)
