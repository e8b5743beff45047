"""Every row of the table has the properties of all transforms."""

from __future__ import annotations

from typing import Any

import pytest

from gradtx import recipes
from gradtx.testing import check_transform
from tests.table import ROWS, Row

from .proofs import OF_MEMBERS, proved_by_others

PROVED = proved_by_others(ROWS)
# Recipes of many operations a step, whose one heavy member is in rows of its own.
DEAR = {"psgd", "psgd_kron"}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
dear_ones_apart = pytest.mark.parametrize(
    "row",
    [pytest.param(r, id=r.id, marks=[pytest.mark.slow] if r.id in DEAR else []) for r in ROWS],
)


@dear_ones_apart
def test_row(row: Row) -> None:
    skip = ("fused", "compiled", "training", *(OF_MEMBERS if row.id in PROVED else ()))
    check_transform(row.make, skip=skip, fails=row.fails)


@every_row
def test_fused(row: Row) -> None:
    check_transform(row.make, only=("fused",), fails=row.fails, runs=row.runs)


def marked() -> list[Any]:
    """Slow is what compiles a recipe, whose members are compiled in rows of their own, and what
    hands torch.compile a transform that another row has handed it.
    """
    seen = set(recipes.__all__)
    found = []
    for row in ROWS:
        marks = [pytest.mark.slow] if row.name in seen else []
        found.append(pytest.param(row, id=row.id, marks=marks))
        seen.add(row.name)
    return found


@pytest.mark.parametrize("row", marked())
def test_compiled(row: Row) -> None:
    check_transform(row.make, only=("compiled",), fails=row.fails)


def test_most_recipes_are_proved_by_their_members() -> None:
    made = [row for row in ROWS if row.name in recipes.__all__]
    assert len(made) / 2 < len(PROVED) < len(made)
