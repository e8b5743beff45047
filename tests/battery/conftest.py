"""Every test of the battery that takes ``row`` runs on every row of the table."""

from __future__ import annotations

import pytest

from tests.table import ROWS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" not in metafunc.fixturenames:
        return
    prop = metafunc.function.__name__.removeprefix("test_")
    metafunc.parametrize(
        "row",
        [
            pytest.param(
                row,
                id=row.id,
                # Strict: a row that says a property cannot hold must really fail it.
                marks=[pytest.mark.xfail(reason=row.fails[prop], strict=True)]
                if prop in row.fails
                else [],
            )
            for row in ROWS
        ],
    )
