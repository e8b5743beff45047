import json

import pytest


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from step_in_backward import main

    out = tmp_path_factory.mktemp("step_in_backward")
    main(["--steps", "12", "--layers", "2", "--width", "32", "--out", str(out)])
    return json.loads((out / "results.json").read_text())


def test_both_ways_run(runs):
    assert [run["name"] for run in runs] == ["step()", "step in backward"]
    for run in runs:
        assert len(run["loss"]) == 12
        assert run["loss"][-1] < run["loss"][0] - 0.5
        assert run["seconds"] > 0


def test_losses_are_equal(runs):
    usual, in_backward = runs
    assert in_backward["loss"] == pytest.approx(usual["loss"], abs=1e-6)


def test_only_one_gradient_exists_at_a_time(runs):
    usual, in_backward = runs
    assert usual["peak_gradient_bytes"] == usual["parameter_bytes"]
    assert in_backward["peak_gradient_bytes"] == 4 * 256 * 32  # the embedding's
