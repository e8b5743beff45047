"""The generated pages are those that the docstrings give."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_api_page_is_up_to_date():
    render = runpy.run_path(str(DOCS / "generate.py"))["render"]
    assert (DOCS / "api.md").read_text() == render(), "run python docs/generate.py"


def test_stubs_are_up_to_date():
    stubs = runpy.run_path(str(DOCS / "stubs.py"))["stubs"]
    for path, text in stubs().items():
        assert path.read_text() == text, f"{path.name}: run python docs/stubs.py"
