"""Every public function of Optax has its name here, or a line on the page of differences."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import gradtx as gx

PAGE = Path(__file__).parents[2] / "docs" / "optax.md"
NAMES = Path(__file__).with_name("names.txt").read_text().split()
CODE = re.compile(r"`([^`]*)`")
ROOMS = {"tree": gx.tree}


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


def named(cell: str) -> list[str]:
    """The names that the code in a cell begins with."""
    found = (re.match(r"[\w.*]+", code) for code in CODE.findall(cell))
    return [match.group() for match in found if match]


def exists(path: str) -> bool:
    """Whether ``gx.a.b`` does."""
    at: Any = gx
    for part in path.split(".")[1:]:
        at = getattr(at, part, None)
    return at is not None


def has_a_line(name: str) -> bool:
    """Whether the first column names it; of a name with a star, the second column has the rest."""
    for left, right, *_ in rows():
        for pattern in named(left):
            if "*" not in pattern and pattern.rpartition(".")[2] == name:
                return True
            if "*" in pattern and fnmatchcase(name, pattern):
                before, after = pattern.split("*")
                rest = name.removeprefix(before).removesuffix(after)
                if exists(named(right)[0].replace("*", rest)):
                    return True
    return False


def test_every_function_of_optax_is_here_or_on_the_page() -> None:
    missing = []
    for full in NAMES:
        room, _, name = full.rpartition(".")
        if not hasattr(ROOMS.get(room, gx), name) and not has_a_line(name):
            missing.append(full)
    assert not missing, f"add them to gradtx or to docs/optax.md: {missing}"


def test_the_names_of_the_page_exist() -> None:
    ours = [name for _, right, *_ in rows() for name in named(right) if name.startswith("gx.")]
    assert len(ours) > 40
    assert not [name for name in ours if "*" not in name and not exists(name)]


def test_a_name_that_is_missing_is_noticed() -> None:
    assert not has_a_line("adamw_of_tomorrow")
    assert not has_a_line("unheard_of_schedule")
    assert has_a_line("cosine_decay_schedule")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("linear_schedule", "schedules.linear"), ("multi_transform", "partition")),
        *(("MultiSteps", "multi_steps"), ("global_norm", "tree.norm"), ("adamww", "adamw")),
    ],
)
def test_names_of_optax_that_are_others_here_are_said(name, meant):
    with pytest.raises(AttributeError, match=f"{name!r}; did you mean {meant!r}"):
        getattr(gx, name)


def test_other_names_are_said_where_there_is_such_a_thing():
    from gradtx import _OPTAX

    for path in _OPTAX.values():
        found = gx
        for part in path.split("."):
            found = getattr(found, part)
