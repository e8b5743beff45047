"""README's blocks run as they are printed, and print what stands below them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import gradtx as gx

README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="not a source tree")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")


def model() -> torch.nn.Module:
    """What the reader has."""
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4))
    for p in made.parameters():
        p.grad = torch.ones_like(p)
    return made


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(README.read_text()) if README.exists() else []


def names() -> dict[str, Any]:
    """What the blocks take as given."""
    hooks: list[Any] = []
    made = SimpleNamespace(
        module=None, register_comm_hook=lambda state, hook: hooks.append((state, hook))
    )
    return {
        **{"torch": torch, "gx": gx, "model": model(), "ddp_model": made},
        **{"NamedTuple": NamedTuple, "Tensor": Tensor, "dataclass": dataclass},
    }


def close(found: str, printed: str) -> bool:
    """Equal but for the last digits of numbers."""
    a, b = (list(map(float, NUMBER.findall(text))) for text in (found, printed))
    same = NUMBER.sub("", " ".join(found.split())) == NUMBER.sub("", " ".join(printed.split()))
    return same and a == pytest.approx(b, rel=0.05)


@pytest.mark.parametrize("number", range(len(blocks())))
def test_block(number: int) -> None:
    code, printed = blocks()[number]
    scope, out = names(), StringIO()
    with redirect_stdout(out):
        exec(compile(code, f"README.md, block {number}", "exec"), scope)
    assert close(out.getvalue(), printed), out.getvalue()
    for first, check in CHECKS.items():
        if code == next(block for block, _ in blocks() if first in block):
            check(scope)


def is_a_value(scope: dict[str, Any]) -> None:
    """What the text above the first block says of a chain."""
    import pickle

    tx = scope["tx"]
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert "0x" not in repr(tx)


def running_max(scope: dict[str, Any]) -> None:
    """What the text below it says of a user's transform."""
    make = scope["scale_by_running_max"]
    with pytest.raises(
        ValueError, match=re.escape("scale_by_running_max: eps must be in [1e-12, inf), got 0.0")
    ):
        make(eps=0.0)
    optimizer = gx.optim.from_transform(make(), scope["model"].parameters(), lr=0.1)
    optimizer.step()
    assert optimizer.param_groups[0]["eps"] == 1e-8


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "tx = gx.chain(": is_a_value,
    "class scale_by_running_max": running_max,
}


def test_every_block_of_python_is_found() -> None:
    assert len(blocks()) == README.read_text().count("```python") > 5
