"""The examples under examples/functional at tiny sizes, and their page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "functional"
OUTPUTS = ROOT / "docs" / "examples" / "functional"
TINY = {
    "adversarial_digits": ("--epochs", "1"),
    "bilinear_game": ("--steps", "90"),
    "dp_sgd": ("--steps", "3"),
    "ensemble_rates": ("--steps", "20"),
    "hyperparameters_implicit": ("--steps", "3"),
    "imaml": ("--steps", "4"),
    "lbfgs": ("--steps", "60"),
    "learned_optimizer": ("--steps", "4"),
    "maml": ("--steps", "4"),
    "sam": ("--steps", "5"),
}
NUMBER = r"-?\d+\.\d+(?:e[+-]\d+)?"


@pytest.fixture(autouse=True)
def _on_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield


def printed(name: str, capsys: Any) -> list[str]:
    if name == "adversarial_digits":
        pytest.importorskip("sklearn")
    import_module(name).main(list(TINY[name]))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in ("sam", "dp_sgd") else n for n in TINY],
)
def test_example(name: str, capsys: Any) -> None:
    lines = printed(name, capsys)
    assert lines
    assert not re.search(r"\b(nan|inf)\b", " ".join(lines))
    if name == "bilinear_game":
        ends = {line[:20].strip(): [float(x) for x in re.findall(NUMBER, line)] for line in lines}
        assert ends["gradient descent"][-1] > 2 * ends["gradient descent"][0]
        assert ends["optimistic gradient"][-1] < ends["optimistic gradient"][0] / 4
    if name == "lbfgs":
        assert float(re.findall(NUMBER, lines[5])[0]) < 1e-20
        assert "16 at a minimum" in lines[-1]
    if name == "ensemble_rates":
        first, last = (re.findall(NUMBER, lines[i]) for i in (0, 3))
        assert min(map(float, last)) < min(map(float, first))


def test_every_example_is_short_and_on_the_page() -> None:
    page = (ROOT / "docs" / "functional.md").read_text()
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == set(TINY)
    for name in names:
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 100
        assert f"examples/functional/{name}.py" in page
        assert (OUTPUTS / f"{name}.txt").read_text() in page
