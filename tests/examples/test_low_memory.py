import json

import pytest

TINY = (
    *("--steps", "10", "--layers", "1", "--width", "64", "--heads", "2"),
    *("--batch-size", "4", "--context", "32", "--threads", "1"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from low_memory import main

    out = tmp_path_factory.mktemp("low_memory")
    main([*TINY, "--out", str(out)])
    assert (out / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "results.json").read_text())["runs"]
    return {run["optimizer"]: run for run in found}


def test_every_optimizer_learns(runs):
    for run in runs.values():
        assert run["validation_loss"][-1] < run["validation_loss"][0] - 0.2


def test_state_shrinks_as_promised(runs):
    bytes_per_parameter = {name: run["bytes_per_parameter"] for name, run in runs.items()}
    assert 8.0 <= bytes_per_parameter["AdamW"] < 8.1
    # Leaves below the smallest size that is quantised are a large part of this tiny model.
    assert bytes_per_parameter["AdamW, 4-bit"] < bytes_per_parameter["AdamW, 8-bit"] < 3
    assert bytes_per_parameter["factored Lion"] < bytes_per_parameter["factored Adam"] < 0.5
