import json
from importlib import import_module

TINY = (
    *("--steps", "6", "--sweep-steps", "3", "--layers", "1", "--width", "64", "--heads", "2"),
    *("--batch-size", "4", "--context", "32", "--threads", "1", "--rates", "1e-4", "3e-3"),
    *("--optimizers", "AdamW", "SOAP", "sparse M-FAC"),
)


def test_every_optimizer_learns_at_a_rate_of_the_sweep(tmp_path):
    import_module("preconditioners").main([*TINY, "--out", str(tmp_path)])
    assert (tmp_path / "races.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.txt").read_text().count("\n") == 5
    races = json.loads((tmp_path / "results.json").read_text())["races"]
    assert [race["name"] for race in races] == ["AdamW", "SOAP", "sparse M-FAC"]
    for race in races:
        assert race["rate"] in (1e-4, 3e-3)
        assert race["sweep"][str(race["rate"])] == min(race["sweep"].values())
        losses = race["steps"]["validation_loss"]
        assert losses[-1] < losses[0]
        assert 1 <= len(race["time"]["train_loss"]) <= 6
