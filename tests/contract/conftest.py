"""The ``case`` argument runs a test on every optimizer of the table."""

import pytest

from .cases import CASES, IDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames and not any(
        mark.args and "case" in str(mark.args[0])
        for mark in metafunc.definition.iter_markers("parametrize")
    ):
        metafunc.parametrize("case", CASES, ids=IDS)
