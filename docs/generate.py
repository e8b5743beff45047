"""Write docs/api.md: one line per public name, from the first line of its docstring."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import gradtx as gx

SECTIONS: dict[str, tuple[ModuleType, str]] = {
    "Trees": (gx.tree, "gx.tree."),
    "Projections": (gx.projections, "gx.projections."),
    "Transforms": (gx.transforms, "gx."),
    "Preconditioning": (gx.precondition, "gx."),
    "Inverse roots": (gx.inverse_roots, "gx.inverse_roots."),
    "Sparse training": (gx.sparsity, "gx.sparsity."),
    "Subspaces": (gx.subspace, "gx.subspace."),
    "Compressors": (gx.compressors, "gx.compressors."),
    "State codecs": (gx.codecs, "gx.codecs."),
    "Recipes": (gx.recipes, "gx."),
    "Schedules": (gx.schedules, "gx.schedules."),
    "Torch optimizers": (gx.optim, "gx.optim."),
    "Derivatives of training": (gx.meta, "gx.meta."),
    "Several processes": (gx.distributed, "gx.distributed."),
    "Adapters of low rank": (gx.adapters, "gx.adapters."),
    "Capacity of formats": (gx.capacity, "gx.capacity."),
    "Checks": (gx.testing, "gx.testing."),
    "Properties of solutions": (gx.solutions, "gx.solutions."),
}


def first_line(thing: object) -> str:
    """The summary of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("|", "\\|")


def table(names: list[str], owner: ModuleType, prefix: str) -> list[str]:
    """Markdown rows for public callables."""
    rows = ["| name | what it does |", "|---|---|"]
    for name in sorted(names, key=str.lower):
        thing = getattr(owner, name)
        if callable(thing) and first_line(thing) and not name.endswith("State"):
            rows.append(f"| `{prefix}{name}` | {first_line(thing)} |")
    return rows


def render() -> str:
    """The whole page."""
    rooms = [module for module, prefix in SECTIONS.values() if prefix == "gx."]
    grouped = {name for module in (*rooms, gx.sparsity, gx.subspace) for name in module.__all__}
    core = [name for name in gx.__all__ if name not in grouped]
    lines = ["# API", "", "Written by `python docs/generate.py` from the docstrings.", ""]
    lines += ["## Core", "", *table(core, gx, "gx."), ""]
    for title, (module, prefix) in SECTIONS.items():
        lines += [f"## {title}", "", *table(list(module.__all__), module, prefix), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(render())
