import json
from importlib import import_module

import pytest

TINY = (
    *("--steps", "10", "--layers", "1", "--width", "64", "--heads", "2"),
    *("--batch-size", "4", "--context", "32", "--threads", "1"),
)
# What else a script is given, and the most bytes of state per parameter that a run may keep.
SCRIPTS = {
    "fine_tune": (("--first-steps", "5"), {"AdamW": 8.1, "AdamW, 8-bit": 3.0, "MicroAdam": 1.5}),
    "matrices": ((), {"AdamW": 8.1, "Muon": 8.1, "LDAdam": 14.0, "DCT-AdamW": 9.0, "SNSM": 8.1}),
}


@pytest.fixture(scope="module", params=SCRIPTS)
def outcome(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    options, most = SCRIPTS[request.param]
    import_module(request.param).main([*TINY, *options, "--out", str(out)])
    assert (out / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "results.json").read_text())["runs"]
    return {run["optimizer"]: run for run in found}, most


def test_every_optimizer_learns(outcome):
    for run in outcome[0].values():
        assert run["validation_loss"][-1] < run["validation_loss"][0], run["optimizer"]


def test_state_is_as_small_as_promised(outcome):
    runs, most = outcome
    for name, limit in most.items():
        assert runs[name]["bytes_per_parameter"] < limit, name
