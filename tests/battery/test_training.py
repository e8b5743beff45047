"""Derivatives of whole runs of every recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradtx import recipes
from gradtx.testing import check_transform
from tests.table import ROWS, Row

from .proofs import proved_by_others

# What is a constant of differentiation, so that derivatives are not the limits of differences.
CONSTANTS = {
    "a basis is a constant of differentiation": (
        *("adam_snsm", "apollo", "dion", "galore_adafactor", "galore_adafactor-relative"),
        *("galore_adamw", "kl_soap", "kl_soap_h", "ldadamw", "lowrank_mfac", "rekls"),
        *("shampoo-corrected", "shampoo-eigh", "soap", "soap-current", "soap_muon"),
    ),
    "what is kept in few bits is a constant of differentiation": (
        *("adamw4bit", "adamw8bit", "galore_adamw8bit", "microadam", "microadam-feed"),
        *("microadam-parity", "microadam-release", "soap-codec"),
    ),
}
FAILS = {name: {"differences": why} for why, names in CONSTANTS.items() for name in names}


# What takes long is done of a few: of pointwise steps, a basis, the compiled windows, few bits, a
# decomposition that is differentiated.
LINEARIZED = ("adamw", "soap", "microadam", "galore_adamw8bit", "muon-options")
MADE = [row for row in ROWS if row.name in recipes.__all__]
PROVED = proved_by_others(ROWS)


def marked(slow: Callable[[Row], bool]) -> list[Any]:
    """Rows of recipes, some of them marked as slow."""
    marks = [[pytest.mark.slow] if slow(row) else [] for row in MADE]
    return [pytest.param(row, id=row.id, marks=m) for row, m in zip(MADE, marks, strict=True)]


@pytest.mark.parametrize("row", marked(lambda row: row.id in PROVED))
def test_training(row: Row) -> None:
    check_transform(row.make, only=("training",), skip=("linearize",), fails=FAILS.get(row.id))


@pytest.mark.parametrize("row", marked(lambda row: row.id not in LINEARIZED))
def test_linearize(row: Row) -> None:
    check_transform(row.make, only=("linearize",))


def test_constants_are_those_of_recipes() -> None:
    assert set(FAILS) <= {row.id for row in ROWS if row.name in recipes.__all__}
