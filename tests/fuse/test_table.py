"""Every row of the table: fused gives what the pure chain gives."""

import pytest
import torch

from tests.fuse.helpers import assert_same, run_both
from tests.table import ROWS, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_fused_is_pure(row: Row) -> None:
    fused, pure, _ = run_both(row.make())
    assert_same(fused, pure)


# Rows that may run as torch operations, wholly or in part; all others must be fused.
UNFUSED: dict[str, str] = {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_is_fused(row: Row) -> None:
    _, _, step = run_both(row.make(), steps=1)
    why = step.report()
    if row.id in UNFUSED:
        assert UNFUSED[row.id] in why
    else:
        assert why == "everything is fused"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    assert dtype is not None
