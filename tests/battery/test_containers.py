"""Containers that are registered for all users of optree, on a sample of rows."""

from __future__ import annotations

from typing import Any

import optree
import pytest

from gradtx.testing import Subject
from gradtx.testing.containers import Box, same_in
from tests.table import ROWS, Row


class GlobalBox(Box):
    pass


def _flatten(box: Any) -> tuple[Any, None]:
    return box.parts, None


optree.register_pytree_node(
    GlobalBox,
    _flatten,
    lambda _, parts: GlobalBox(*parts),
    namespace=optree.registry.__dict__["__GLOBAL_NAMESPACE"],
)


@pytest.mark.parametrize("row", ROWS[::25], ids=lambda row: row.id)
def test_registered_globally(row: Row) -> None:
    if "every_container" not in row.fails:
        same_in(Subject(row.make), "container registered globally", GlobalBox)
