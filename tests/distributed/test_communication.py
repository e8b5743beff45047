"""What is counted of collectives, and how it is priced for more processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "communication.py"


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("communication", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(rank: int) -> dict[str, Any]:
    return benchmark().count(rank, ["AdamW", "Muon", "SOAP", "Prodigy"])  # type: ignore[no-any-return]


def test_whole_matrices_go_to_their_owners_and_back() -> None:
    ranks, module = in_processes(counted), benchmark()
    whole = module.matrices(module.Network())
    for rank in ranks:
        assert not [one["error"] for one in rank.values() if "error" in one]
        assert rank["AdamW"]["calls"] == {}
        assert rank["Muon"]["calls"] == {"all-to-all": 2}
        assert set(rank["Prodigy"]["calls"]) == {"all-reduce"}
        assert rank["Prodigy"]["bytes"]["all-reduce"] < 100
    # Each rank has half of every matrix: gradients of one half travel to its owner, updates of the
    # other half from it, with a few flags.
    for name in ("Muon", "SOAP"):
        sent = sum(rank[name]["bytes"]["all-to-all"] for rank in ranks)
        assert whole <= sent < 1.01 * whole + 100
    moved = module.of_all(ranks, "Muon", whole, whole)
    for many in (2, 8, 512):
        share = 2 * whole * (many - 1) / many**2
        assert module.volume(moved, many) == pytest.approx(share, rel=0.02)


def test_prices() -> None:
    module = benchmark()
    one = module.seconds(2, 400e9, 8, 0.0)
    assert one == pytest.approx(1 + 2 * 16e-6)
    assert module.seconds(2, 400e9, 8, 0.75) == pytest.approx(one / 4)
    assert module.seconds(0, 50e9, 64, 0.0) == pytest.approx(1)
    assert module.volume({"all-reduce": 8.0, "all-gather": 4.0}, 4) == pytest.approx(15)
