"""The example of adapters at a tiny size: what it writes, and that its text follows its table."""

import json

import pytest

TINY = (
    *("--steps", "6", "--first-steps", "6", "--layers", "1", "--width", "64", "--heads", "2"),
    *("--batch-size", "4", "--context", "32", "--threads", "1", "--batches", "2", "--rank", "4"),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    from adapters import main

    out = tmp_path_factory.mktemp("adapters")
    main([*TINY, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def runs(out):
    found = json.loads((out / "results.json").read_text())["runs"]
    return {run["name"]: run for run in found}


def test_adapters_can_be_cut_and_whole_models_cannot(runs):
    for name in ("LoRA", "DyLoRA", "MatryoshkaLoRA", "MatryoshkaLoRA, mean"):
        assert list(runs[name]["at"]) == ["1", "2", "4"]
        assert runs[name]["at"]["4"] == runs[name]["full"]
    for name in ("AdamW, all weights", "MicroAdam, all weights"):
        assert runs[name]["at"] == {}


def test_frozen_weights_have_no_state(runs):
    few, whole = runs["LoRA"], runs["AdamW, all weights"]
    assert few["trained"] < whole["trained"] / 10
    assert few["state_bytes"] < 1.01 * 8 * few["trained"] + 100
    assert whole["state_bytes"] > 8 * whole["trained"]


def test_all_learn(runs):
    for name, run in runs.items():
        assert run["validation_loss"][-1] < run["validation_loss"][0], name


def test_the_text_follows_from_the_numbers(out):
    from adapters import Tuned, findings

    runs = [
        Tuned("LoRA", full=50.0, at={1: 40.0, 2: 45.0, 4: 50.0}),
        Tuned("DyLoRA", full=48.0, at={1: 45.0, 2: 45.1, 4: 48.0}),
        Tuned("AdamW, all weights", full=49.0),
    ]
    first, areas, against, whole = findings(runs, bytes_seen=10_000)
    assert "a standard error of an accuracy is at most 0.50" in first
    assert areas.endswith("DyLoRA 45.80, LoRA 45.00.")
    assert against == (
        "DyLoRA against LoRA: rank 1 above (+5.00), rank 2 no different from (+0.10), "
        "rank 4 below (-2.00)."
    )
    assert whole.startswith("DyLoRA at its full rank is no different from AdamW, all weights")
    table = (out / "table.txt").read_text()
    assert "AURAC log2" in table
    assert "One seed" in table
    assert (out / "ranks.png").read_bytes().startswith(b"\x89PNG")
