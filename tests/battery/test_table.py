"""The table is complete, and says nothing about things that do not exist."""

from __future__ import annotations

import inspect

import gradtx as gx
from tests.table import NOT_TRANSFORMS, ROWS


def constructors() -> set[str]:
    """Lower-case callables among the exports: transforms, combinators and recipes."""
    names = [*gx.__all__, *gx.transforms.__all__, *gx.recipes.__all__]
    return {
        name
        for name in names
        if name == name.lower()
        and callable(getattr(gx, name))
        and not inspect.ismodule(getattr(gx, name))
    }


def test_every_export_has_a_row() -> None:
    missing = constructors() - {row.name for row in ROWS} - set(NOT_TRANSFORMS)
    assert not missing, f"add a row to tests/table.py for {sorted(missing)}"


def test_no_row_for_what_is_not_exported() -> None:
    unknown = ({row.name for row in ROWS} | set(NOT_TRANSFORMS)) - constructors()
    assert not unknown, f"tests/table.py names {sorted(unknown)}, which gradtx does not export"


def test_exports_of_the_rooms_are_exported_at_the_top() -> None:
    assert set(gx.transforms.__all__) | set(gx.recipes.__all__) <= set(gx.__all__)
    assert len(gx.__all__) == len(set(gx.__all__))


def test_rows_are_named_apart() -> None:
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids))


def test_rows_make_what_they_say() -> None:
    for row in ROWS:
        tx = row.make()
        assert isinstance(tx, gx.GradientTransformation), row.id
        again = row.make()
        assert tx is not again, row.id
        assert tx == again, row.id


def test_flags_name_properties_and_give_reasons() -> None:
    known = set(gx.testing.PROPERTIES)
    for row in ROWS:
        assert set(row.fails) <= known, (row.id, set(row.fails) - known)
        assert all(len(reason.split()) >= 3 for reason in row.fails.values()), row.id
