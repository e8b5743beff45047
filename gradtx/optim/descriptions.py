"""Docstrings of optimizer classes, with what the recipe says of its rule and its arguments."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .declaration import Declaration, unwrapped

_WIDTH = 100 - 4
_COMMON = {
    "params": "parameters, named parameters, or groups of either with options of their own.",
    "maximize": "go up the gradient.",
    "foreach": "taken because torch's optimizers have it; changes nothing.",
    "capturable": "write state in place, for CUDA graphs.",
    "differentiable": "let derivatives flow through the step.",
    "fused": "None for compiled kernels where they can run, True to raise where they cannot, "
    "False for torch operations.",
    "fallback": 'what runs a chain that is not fused: "eager" or "compile".',
}
_EXAMPLE = """\
>>> import torch, gradtx as gx
>>> model = torch.nn.Linear(2, 1)
>>> opt = {name}(model.parameters(), lr=0.1)
>>> model(torch.ones(1, 2)).sum().backward()
>>> opt.step()
"""
_SECTIONS = ("Args:", "Raises:", "Returns:", "Source:", ">>>")
# What chains may have and groups may not: schedules, and no learning rate.
_OF_CHAINS = re.compile(r",? a schedule, or None to leave it[^.;]* out|,? or a schedule\b[^.;]*")


def describe(name: str, own: str, inherited: Iterable[str], made_by: Declaration) -> str:
    """The docstring of a class.

    Args:
        name: of the class, as the reader writes it.
        own: what its source says.
        inherited: what the sources of its bases say; only their arguments count.
        made_by: its declaration.
    """
    adapters = [inspect.getdoc(unwrapped(f)) or "" for f in made_by.functions]
    recipe = adapters[-1]
    of_options = _merged(map(arguments, (own, *inherited)))
    of_arguments = _merged(map(arguments, adapters))
    parts = [_without(own, "Args:", ">>>"), *_rule(recipe, own)]
    lines = ["Args:", *_entry("params", _COMMON["params"])]
    for option in made_by.signature:
        names = made_by.options.get(option, ())
        text = of_options.get(option) or _joined(names, of_arguments)
        lines += _entry(option, _OF_CHAINS.sub("", text))
    for option, text in _COMMON.items():
        lines += () if option == "params" else _entry(option, text)
    parts.append("\n".join(lines))
    parts += [p for p in _paragraphs(recipe) if p.startswith(("Raises:", "Source:"))]
    examples = [p for p in _paragraphs(own) if p.startswith(">>>")]
    parts += examples or [_EXAMPLE.format(name=name)]
    return "\n\n".join(parts)


def arguments(doc: str) -> dict[str, str]:
    """What the Args section of a docstring says, by argument."""
    section = next((p for p in _paragraphs(doc) if p.startswith("Args:")), "")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines()[1:]:
        start = re.match(r"    (?! )([\w*, ]+): (.*)", line)
        if start:
            name, text = start.groups()
            found |= dict.fromkeys(name.split(", "), text)
        else:
            found |= {n: f"{found[n]} {line.strip()}" for n in name.split(", ")}
    return found


def _paragraphs(doc: str) -> list[str]:
    return inspect.cleandoc(doc).split("\n\n")


def _without(doc: str, *headings: str) -> str:
    return "\n\n".join(p for p in _paragraphs(doc) if not p.startswith(headings))


def _rule(recipe: str, own: str) -> Iterator[str]:
    """The paragraphs of a recipe's docstring that say what it does, but for its first line."""
    for part in _paragraphs(recipe)[1:]:
        if part not in own and not part.startswith(_SECTIONS):
            yield part


def _joined(names: tuple[str, ...], texts: Mapping[str, str]) -> str:
    """What is said of one argument, or of the parts of a tuple."""
    if len(names) == 1:
        return texts.get(names[0], "")
    return " ".join(f"{name}: {texts.get(name, '')}" for name in names)


@functools.cache
def _entry(name: str, text: str) -> tuple[str, ...]:
    filled = textwrap.fill(
        f"{name}: {text}", _WIDTH, initial_indent="    ", subsequent_indent=" " * 8
    )
    return tuple(filled.splitlines())


def _merged(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries, the first where there are several."""
    out: dict[str, Any] = {}
    for mapping in found:
        out = {**mapping, **out}
    return out
