"""The example of sparse training at a tiny size: what it writes, and that methods are as sparse."""

import json

import pytest

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    from sparse import main

    out = tmp_path_factory.mktemp("sparse")
    main(["--epochs", "5", "--seeds", "0", "--batch-size", "256", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def runs(out):
    found = json.loads((out / "results.json").read_text())["runs"]
    return {run["method"]: run for run in found}


def test_networks_are_as_sparse_as_their_names_say(runs):
    for name, run in runs.items():
        asked = 0 if name == "dense" else float(name.split(", ")[-1].split()[0])
        assert run["sparsity"][-1] == pytest.approx(asked, abs=0.02), name


def test_all_learn(runs):
    for name, run in runs.items():
        assert max(run["accuracy"]) > 20, name  # by chance: 10


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
