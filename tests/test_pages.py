"""The blocks of the pages in docs run as they are printed, and print what stands below them."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

import gradtx as gx

from .test_readme import BLOCK, close

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("adapters", "capacity", "distributed", "solutions", "sparse")
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not a source tree")


@pytest.mark.parametrize("page", [*PAGES, "optax"])
def test_page(page: str) -> None:
    """Blocks of a page follow one another."""
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    assert blocks
    scope = {"torch": torch, "gx": gx}
    for number, (code, printed) in enumerate(blocks):
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, f"{page}.md, block {number}", "exec"), scope)
        assert close(out.getvalue(), printed), out.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_there(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    pictures = [line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if "![" in line]
    assert pictures
    assert all((DOCS / name).exists() for name in pictures)
