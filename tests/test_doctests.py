"""Every public name has a docstring with a short example, and every example of the package runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import types
from typing import Any

import pytest

import gradtx as gx

LINES = 12
PARSER = doctest.DocTestParser()
# Public names that are no functions or classes: nothing to put an example in.
VALUES = {"FirstMoment", "Hyper", "SecondMoment", "__version__"}


def public() -> dict[str, Any]:
    """Functions and classes that a user can reach by a public name."""
    rooms = {"gx": gx, "gx.schedules": gx.schedules, "gx.optim": gx.optim}
    rooms |= {"gx.adapters": gx.adapters, "gx.capacity": gx.capacity, "gx.solutions": gx.solutions}
    found = {}
    for room, module in rooms.items():
        for name in module.__all__:
            if name not in VALUES and not isinstance(getattr(module, name), types.ModuleType):
                found[f"{room}.{name}"] = getattr(module, name)
    for name, value in vars(gx.tree).items():
        if inspect.isfunction(value) and not name.startswith("_") and "." not in name:
            found[f"gx.tree.{name}"] = value
    return found


PUBLIC = public()


def is_state(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


def is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def own_doc(value: Any) -> str:
    """The docstring of the object itself, not one that it inherits or Python writes for it."""
    doc = (value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__) or ""
    return "" if doc.startswith(f"{getattr(value, '__name__', '')}(") else doc


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name: str) -> None:
    assert own_doc(PUBLIC[name]), f"{name} has no docstring"


@pytest.mark.parametrize(
    "name", [n for n, v in PUBLIC.items() if not is_state(v) and not is_error(v)]
)
def test_example(name: str) -> None:
    """States are made by transforms and errors by misuse; everything else shows its use."""
    assert PARSER.get_examples(own_doc(PUBLIC[name])), f"{name} has no doctest"


def test_values_are_values() -> None:
    assert set(gx.__all__) >= VALUES
    assert not any(
        inspect.isfunction(getattr(gx, n)) or inspect.isclass(getattr(gx, n)) for n in VALUES
    )


def modules() -> list[str]:
    walk = pkgutil.walk_packages(gx.__path__, "gradtx.")
    return ["gradtx", *(m.name for m in walk if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("module", modules())
def test_examples_run(module: str) -> None:
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    runner = doctest.DocTestRunner(verbose=False, optionflags=0)
    for test in tests:
        lines = sum(len(e.source.splitlines()) + len(e.want.splitlines()) for e in test.examples)
        assert lines <= LINES, f"{test.name}: the example has {lines} lines, at most {LINES}"
        assert not any(doctest.SKIP in e.options for e in test.examples), test.name
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)
