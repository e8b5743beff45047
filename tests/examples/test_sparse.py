"""The example of sparse training at a tiny size: what it writes, and that methods are as sparse."""

import json

import pytest

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    from sparse import main

    out = tmp_path_factory.mktemp("sparse")
    small = ["--epochs", "5", "--seeds", "0", "--batch-size", "128", "--rates", "0.01"]
    main([*small, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def found(out):
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def runs(found):
    return {run["method"]: run for run in found["runs"]}


def test_networks_are_as_sparse_as_their_names_say(runs):
    for name, run in runs.items():
        asked = 0 if name == "dense" else float(name.split(", ")[-1].split()[0])
        assert run["sparsity"][-1] == pytest.approx(asked, abs=0.02), name


def test_all_learn(runs):
    for name, run in runs.items():
        assert max(run["accuracy"]) > 20, name  # by chance: 10


def test_settings_are_those_of_the_trial_that_is_best_on_the_validation_set(found, runs):
    for name, run in runs.items():
        trials = [t for t in found["trials"] if t["method"] == name]
        assert len(trials) == 2
        assert all(t["seed"] not in found["settings"]["seeds"] for t in trials)
        best = max(trials, key=lambda t: t["accuracy"][-1])
        assert (run["rate"], run["own"]) == (best["rate"], best["own"])


def test_phases_end_sparse():
    from sparse import phases

    for epochs in (5, 10, 30):
        schedule = phases(epochs, steps=3)
        assert not schedule.is_sparse(0)
        assert schedule.is_sparse(3 * epochs - 1)


def test_what_is_written(out):
    table = (out / "table.txt").read_text().splitlines()
    assert len(table) == 2 + 7
    assert table[2].split()[:2] == ["dense", "0.00"]
    assert (out / "epochs.png").read_bytes().startswith(b"\x89PNG")
