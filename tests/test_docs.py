"""The generated page under docs is up to date; blocks of the others run and print what is shown."""

from __future__ import annotations

import re
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from tests.test_readme import BLOCK, close

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("writing_a_transform", "what_fuses")


def test_api_page_is_up_to_date() -> None:
    render = runpy.run_path(str(DOCS / "generate.py"))["render"]
    assert (DOCS / "api.md").read_text() == render(), "run python docs/generate.py"


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks one after another, in one module, so that its classes can be pickled."""
    text = (DOCS / f"{page}.md").read_text()
    found = BLOCK.findall(text)
    assert len(found) == len(re.findall("^```python$", text, re.MULTILINE))
    module = ModuleType(page)
    monkeypatch.setitem(sys.modules, page, module)
    for number, (code, printed) in enumerate(found):
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, f"{page}.md, block {number}", "exec"), vars(module))
        assert close(out.getvalue(), printed), f"block {number} prints\n{out.getvalue()}"
