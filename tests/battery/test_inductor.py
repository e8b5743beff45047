"""torch.compile of an update with the compiler's own back end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.table import ROWS, Row

from .helpers import assert_close, call, grads_, params_


@pytest.fixture
def clean_dynamo() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# What Inductor generates code for, one row each; MicroAdam's last block is shorter than others.
INDUCTOR = ("microadam", "adamw", "adafactor", "galore_adamw", "scale_by_sm3")


def chosen_rows(names: tuple[str, ...]) -> list[Any]:
    first = [next(row for row in ROWS if row.name == name) for name in names]
    slow = [[], *([pytest.mark.slow] for _ in first[1:])]
    return [pytest.param(r, id=r.id, marks=m) for r, m in zip(first, slow, strict=True)]


@pytest.mark.usefixtures("clean_dynamo")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # Inductor itself
@pytest.mark.parametrize("sample", chosen_rows(INDUCTOR))
def test_inductor(sample: Row) -> None:
    """The numbers of eager mode with the compiler's own back end."""
    shapes = {"w": (7, 5)}
    tx, params = sample.make(), params_(shapes)
    compiled = torch.compile(lambda g, s: call(tx, g, s, params), fullgraph=True)
    state = want_state = tx.init(params)
    for t in range(2):
        out, state = compiled(grads_(t, shapes), state)
        want, want_state = call(tx, grads_(t, shapes), want_state, params)
        assert_close(out, want, rtol=1e-5)
        assert_close(state, want_state, rtol=1e-5)
