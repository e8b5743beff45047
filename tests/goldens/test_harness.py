"""The harness itself, on a tiny golden whose trajectory a few lines of numpy make."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import gradtx as gx

from . import systems
from .__main__ import main
from .golden import Golden
from .replay import Comparison, replay, stepper_for, trajectory
from .steppers import Steps, fields, learning_rates, options, per_leaf, random_bits, values

LEAVES = {"a": (4, 3), "b": (5,), "c": ()}
RATES = {"a": 0.1, "b": 0.05, "c": 0.1}
ABSENT = {(2, "b"), (3, "c")}


def toy(meta, extra):
    def build(h):
        rate = gx.scale_by_learning_rate(h["lr"])
        return gx.named_chain(("momentum", gx.trace(h["momentum"])), ("rate", rate))

    return Steps(per_leaf(meta, build), view=lambda state, params: fields(state, params, m="trace"))


@pytest.fixture(autouse=True)
def toy_system(monkeypatch):
    monkeypatch.setitem(systems.SYSTEMS, "toy", toy)


def arrays(steps=4):
    """Heavy-ball descent with a learning rate per leaf and two missing gradients."""
    random = np.random.default_rng(0)
    params = {n: random.normal(size=s).astype(np.float32) for n, s in LEAVES.items()}
    momentum = {n: np.zeros_like(p) for n, p in params.items()}
    out = {f"param/0/{n}": p.copy() for n, p in params.items()}
    for t in range(1, steps + 1):
        for n, p in params.items():
            if (t, n) not in ABSENT:
                g = random.normal(size=p.shape).astype(np.float32)
                momentum[n] = np.float32(0.9) * momentum[n] + g
                params[n] = (p - np.float32(RATES[n]) * momentum[n]).astype(np.float32)
                out[f"grad/{t}/{n}"] = g
            out[f"param/{t}/{n}"] = np.asarray(params[n])
    out |= {f"state/{steps}/m/{n}": np.asarray(m, np.float32) for n, m in momentum.items()}
    out["state/1/unseen/a"] = np.ones(2)
    return out


META = {
    "system": "toy",
    "case": "tiny",
    "hyperparameters": {"lr": 0.1, "momentum": 0.9},
    "per_leaf": {"b": {"lr": 0.05}},
    "steps": 4,
    "leaves": list(LEAVES),
    "dtype": "float32",
    "rtol": 1e-5,
    "atol": 1e-7,
    "notes": "",
}


def save(folder, data, **changes):
    path = folder / "toy" / "tiny.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, meta=np.array(json.dumps({**META, **changes})), **data)
    return path


@pytest.fixture
def path(tmp_path):
    return save(tmp_path, arrays())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mode", ["pure", "fused", "backward"])
def test_a_right_trajectory_passes(path, mode, reverse):
    result = replay(Golden(path), mode, reverse)
    assert result.passed, result
    assert 0 <= result.worst < result.limit == 1e-5
    assert result.compared == 4 * len(LEAVES) + (mode != "backward") * len(LEAVES)


@pytest.mark.parametrize("mode", ["pure", "fused", "backward"])
@pytest.mark.parametrize("wrong", [1 + 1e-4, np.nan, np.inf, -1])
def test_a_wrong_number_fails(tmp_path, mode, wrong):
    data = arrays()
    data["param/3/a"][1, 1] *= wrong
    result = replay(Golden(save(tmp_path, data)), mode)
    assert not result.passed
    assert len(result.failures) == 1
    assert "param/3/a is off" in result.failures[0]
    assert "FAILED toy/tiny" in str(result)


def test_a_wrong_hyperparameter_fails(tmp_path):
    for change in ({"per_leaf": {}}, {"hyperparameters": {"lr": 0.1, "momentum": 0.8}}):
        assert not replay(Golden(save(tmp_path, arrays(), **change))).passed


def test_a_gradient_that_should_be_missing_fails(tmp_path):
    data = arrays()
    data["grad/2/b"] = np.zeros(5, np.float32)
    assert not replay(Golden(save(tmp_path, data))).passed


def test_states_are_compared(tmp_path):
    data = arrays()
    data["state/4/m/c"] = data["state/4/m/c"] + np.float32(1e-3)
    (failure,) = replay(Golden(save(tmp_path, data))).failures
    assert "state/4/m/c" in failure
    data["state/4/m/d"] = np.ones(2, np.float32)
    failures = replay(Golden(save(tmp_path, data))).failures
    assert "state/4/m/d is not shown" in failures[1]


def test_leaves_in_reverse_order_give_the_same_bits(path):
    golden = Golden(path)
    runs = [list(trajectory(golden, stepper_for(golden), reverse)) for reverse in (False, True)]
    for (_, there, *_), (_, back, *_) in zip(*runs, strict=True):
        assert list(there) == list(LEAVES)
        assert list(back) == list(reversed(LEAVES))
        assert all(torch.equal(there[leaf], back[leaf]) for leaf in LEAVES)


def compare(got, want, rtol=1e-5, atol=1e-7, bits=False):
    comparison = Comparison(rtol, atol, bits)
    comparison("x", got, want)
    comparison.finish()
    return comparison.failures


def test_tolerances():
    want = torch.tensor([1.0, -2.0, 0.0])
    assert not compare(want + torch.tensor([0.9e-5, -1.9e-5, 0.9e-7]), want)
    for i, error in enumerate([1.2e-5, 2.2e-5, 1.2e-7]):
        moved = want.clone().index_add(0, torch.tensor([i]), torch.tensor([error]))
        assert compare(moved, want)
    assert not compare(want.double() + 9e-8, want.double(), rtol=0.0)
    assert compare(want.double() + 2e-7, want.double(), rtol=0.0)
    infinite = torch.tensor([torch.inf, torch.nan])
    assert not compare(infinite, infinite)
    assert compare(-infinite, infinite)
    assert compare(want[:2], want) == ["x has shape (2,), want (3,)"]


def test_small_entries_of_a_state_are_measured_by_its_largest():
    want = torch.tensor([100.0, 1.0])
    got = want + torch.tensor([0.0, 9e-4])
    assert compare(got, want)
    comparison = Comparison(1e-5, 1e-7)
    comparison("m", got, want, is_state=True)
    assert not comparison.failures
    comparison("m", want + torch.tensor([0.0, 1.2e-3]), want, is_state=True)
    assert comparison.failures


def test_whole_numbers_are_exact_and_signs_may_round_once():
    want = torch.arange(300, dtype=torch.int32)
    assert compare(want + (want == 7), want)
    signs = torch.zeros(20, dtype=torch.uint8)
    once, often = signs.clone(), signs.clone()
    once[3], often[3] = 4, 12
    assert not compare(once, signs)
    assert compare(often, signs)
    assert compare(torch.tensor([True, True, False]), torch.tensor([False, False, False]))


def test_bfloat16_by_bits():
    want = torch.linspace(-3, 3, 400).bfloat16()
    bits = want.view(torch.int16)
    assert not compare(want, want, bits=True)
    for count, distance, passes in ((3, 1, True), (5, 1, False), (1, 2, False)):
        near = bits.clone()
        near[10 : 10 + count] += distance
        assert (not compare(near.view(torch.bfloat16), want, bits=True)) is passes
    assert compare(want.float(), want, bits=True)
    zeros = torch.tensor([0.0, -0.0]).bfloat16()
    assert not compare(zeros.flip(0), zeros, bits=True)


def test_bfloat16_files_hold_bits_and_random_integers(tmp_path):
    data = {f"{k}": v for k, v in arrays().items() if not k.startswith("state")}
    as_bits = {
        k: torch.from_numpy(np.asarray(v)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        for k, v in data.items()
    }
    rand = {f"extra/rand/1/{n}": np.full(s, 65535, np.uint16) for n, s in LEAVES.items()}
    golden = Golden(save(tmp_path, as_bits | rand, dtype="bfloat16", rtol=0, atol=0))
    assert golden.holds_bits
    first = golden.tree("param", 0)["a"]
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, torch.from_numpy(data["param/0/a"]).bfloat16())
    bits = random_bits(golden.meta, golden.extra)(1)
    assert bits["a"].dtype == torch.int32
    assert bits["a"].min() == 65535
    # The chain rounds at every step, this trajectory only when it is written down.
    result = replay(golden)
    assert not result.passed
    assert result.limit == 1.0


def test_stochastic_rounding_takes_the_recorded_bits(tmp_path):
    """Random integers of 65535 round every inexact magnitude up, 0 cuts it off."""
    steps = Steps(gx.scale(1.0), bits=lambda t: {"a": torch.tensor([65535, 0])})
    params = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(1)}
    grads = {"a": torch.full((2,), 2.0**-12), "b": torch.ones(1)}
    moved, _ = steps.step(params, grads, steps.init(params), 1)
    assert moved["a"].tolist() == [1.0078125, 1.0]
    assert moved["b"].tolist() == [2.0]


def test_helpers_for_hyperparameters():
    assert options(META)["b"] == {"lr": 0.05, "momentum": 0.9}
    assert values(META, "lr", "momentum") == {"lr": RATES, "momentum": 0.9}
    assert learning_rates(META) is None
    assert learning_rates({"lr_schedule": [3.0, 4.0]})(2) == {"lr": 4.0}
    assert random_bits(META, {}) is None
    params = {n: torch.zeros(s) for n, s in LEAVES.items()}
    tx = per_leaf(META, lambda h: gx.scale(h["lr"]))
    updates, _ = tx.update({n: torch.ones(s) for n, s in LEAVES.items()}, tx.init(params), params)
    assert {n: round(u.max().item(), 6) for n, u in updates.items()} == RATES
    same = per_leaf({**META, "per_leaf": {}}, lambda h: gx.scale(h["lr"]))
    assert same == gx.scale(0.1)


def test_fields_of_states():
    params = {"a": torch.zeros(4, 3), "b": torch.zeros(2)}
    codec = gx.codecs.rank1(vector_reshape=False)
    tx = gx.chain(gx.scale_by_adam(mu_codec=codec), gx.scale(-1.0))
    found = fields(tx.init(params), params, v="nu", m="mu", m_row="mu.row", lost="other")
    assert {key: list(leaves) for key, leaves in found.items()} == {
        "v": ["a", "b"],
        "m": ["b"],
        "m_row": ["a"],
    }


def test_command_line(path, tmp_path, capsys):
    assert main([str(path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("ok     toy/tiny: max relative error ")
    assert out[-1] == "1 passed, 0 failed"
    other = tmp_path / "toy" / "wrong.npz"
    np.savez(other, meta=np.array(json.dumps({**META, "hyperparameters": {"lr": 1}})), **arrays())
    unknown = tmp_path / "toy" / "unknown.npz"
    np.savez(unknown, meta=np.array(json.dumps({**META, "system": "nobody's"})), **arrays())
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "1 passed, 2 failed"
    assert "KeyError" in out[2]
    assert "no system of that name" in out[1]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([str(empty)]) == 1
    with pytest.raises(SystemExit):
        main([str(tmp_path / "missing")])


def test_every_system_name_is_defined_once(monkeypatch):
    from . import conformance

    monkeypatch.setattr(systems, "_HARNESS", systems._HARNESS - {"steppers"})
    from . import steppers

    monkeypatch.setattr(steppers, "CONFORMANCE", conformance.CONFORMANCE, raising=False)
    with pytest.raises(ValueError, match="defined elsewhere too"):
        systems._gather("CONFORMANCE")
