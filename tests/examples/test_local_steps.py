"""The example of workers that seldom talk at a tiny size, alone and in two processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

TINY = ["--steps", "16", "--every", "4", "--rank", "8", "--width", "16", "--heads", "2"]
SMALL = ["--layers", "1", "--batch-size", "2", "--context", "16", "--threads", "1"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        from local_steps import main

        out = tmp_path_factory.mktemp("local_steps")
        main([*TINY, *SMALL, "--out", str(out)])
        sys.modules.pop("local_steps")
    return out


def test_what_is_written(out: Path) -> None:
    runs = json.loads((out / "results.json").read_text())["runs"]
    first = runs[0]
    assert first["method"] == "low-rank DDP"
    for run in runs:
        assert run["steps"] == [4, 8, 12, 16]
        assert run["validation_loss"][-1] < 5.6  # by chance: log 256 = 5.55
        assert run is first or run["sent_bytes"][-1] < 0.8 * first["sent_bytes"][-1]
    assert len((out / "table.txt").read_text().splitlines()) == 2 + len(runs)
    assert (out / "traffic.png").read_bytes().startswith(b"\x89PNG")


def in_two(rank: int) -> Any:
    """The same in a process group, as torchrun starts it."""
    sys.path[:0] = [str(EXAMPLE), str(EXAMPLE.parent)]
    import local_steps

    args = local_steps.parse_arguments([*TINY, *SMALL])
    run = local_steps.train("LoRDO", local_steps.methods(args)["LoRDO"](), args, say=False)
    return run.sent_bytes, run.validation_loss


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_processes_give_the_same_numbers(out: Path) -> None:
    from tests.distributed.workers import in_processes

    runs = json.loads((out / "results.json").read_text())["runs"]
    alone = next(run for run in runs if run["method"] == "LoRDO")
    for sent, losses in in_processes(in_two):
        assert sent == alone["sent_bytes"]
        assert losses == pytest.approx(alone["validation_loss"], rel=1e-4)
