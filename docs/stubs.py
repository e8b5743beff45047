"""Write the stubs of the declared optimizer classes: their signatures for static tools."""

from __future__ import annotations

import math
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gradtx as gx
from gradtx.core.hyper import is_dynamic
from gradtx.optim import RecipeOptimizer

OPTIM = Path(gx.optim.__file__).parent
COMMON = """\
        *,
        maximize: bool = ...,
        foreach: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
        fused: bool | None = ...,
        fallback: Literal["eager", "compile"] = ...,
"""
# Who may own a name: public rooms, and the bases in this one.
OWNERS = (
    *("gradtx.codecs", "gradtx.compressors", "gradtx.subspace", "gradtx.core.leaves"),
    "gradtx.sparsity",
    *("gradtx.optim.recipe_optimizer", "gradtx.optim.matrix_optimizer"),
    *("gradtx.optim.averaging", "gradtx.optim.estimating", "gradtx.optim.evaluating"),
    "gradtx.precondition.inverse_roots",
)
NUMBER = "float | Tensor"


def declared() -> dict[str, list[type[RecipeOptimizer]]]:
    """The declared classes by module."""
    found: dict[str, list[type[RecipeOptimizer]]] = {}
    for name in gx.optim.__all__:
        cls = getattr(gx.optim, name)
        if isinstance(cls, type) and issubclass(cls, RecipeOptimizer) and cls.signature:
            found.setdefault(cls.__module__, []).append(cls)
    order = {module: list(vars(sys.modules[module])) for module in found}
    return {m: sorted(found[m], key=lambda c: order[m].index(c.__name__)) for m in sorted(found)}


def words(hint: Any, names: set[str]) -> str:
    """A type as it is written; the names that have to be imported are added to ``names``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (None, type(None)):
        return "None"
    if hint is Ellipsis:
        return "..."
    if is_dynamic(hint) and origin not in (typing.Union, types.UnionType):
        names.add("Tensor")
        return NUMBER
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(words(x, names) for x in args))
    if origin is Literal:
        names.add("Literal")
        return f"Literal[{', '.join(map(quoted, args))}]"
    if origin in (Callable, typing.get_origin(Callable[..., Any])):
        names.add("Callable")
        *takes, gives = args
        inner = "..." if takes == [...] else f"[{', '.join(words(x, names) for x in takes[0])}]"
        return f"Callable[{inner}, {words(gives, names)}]"
    name = (origin or hint).__name__
    names.add(name)
    return name + (f"[{', '.join(words(x, names) for x in args)}]" if args else "")


def quoted(value: Any) -> str:
    """A literal with the quotes of this project."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def type_of(cls: type[RecipeOptimizer], option: str, names: set[str]) -> str:
    """The type of an option."""
    hints = cls.declaration.hints
    arguments = cls.declaration.options.get(option)
    if arguments is None:
        default = cls.signature[option]  # an option that no chain depends on, a number
        return "int | None" if default is None else type(default).__name__
    parts = []
    for argument in arguments:
        text = words(hints[argument], names)
        if argument in cls.declaration.dynamic and not cls.declaration.may_be_none(argument):
            text = text.removesuffix(" | None")
        parts.append(text)
    return parts[0] if len(parts) == 1 else f"tuple[{', '.join(parts)}]"


def render(module: str, classes: Sequence[type[RecipeOptimizer]]) -> str:
    """The stub of a module."""
    names = {"Literal", "ParamsT"}
    body = ""
    for cls in classes:
        base = cls.__bases__[0]
        body += f"\nclass {cls.__name__}({base.__name__}):\n    def __init__(\n        self,\n"
        body += "        params: ParamsT,\n"
        for option, default in cls.signature.items():
            body += f"        {option}: {type_of(cls, option, names)} = {shown(default)},\n"
        body += f"{COMMON}    ) -> None: ...\n"
        if base.__module__ != module:
            names.add(base.__name__)
    text = f'"""Signatures of the classes in {module.rpartition(".")[2]}.py."""\n\n'
    text += "# Written by python docs/stubs.py.\n"
    rank = None
    for owner, found in sorted(_owners(names).items(), key=lambda x: (_rank(x[0]), x[0])):
        text += "\n" if _rank(owner) != rank else ""
        rank = _rank(owner)
        text += f"from {owner} import {', '.join(sorted(found))}\n"
    return text + body


def shown(default: Any) -> str:
    """A default as a stub shows it."""
    parts = default if isinstance(default, tuple) else (default,)
    plain = all(x is None or type(x) in (bool, int, float, str) for x in parts)
    if not plain or math.inf in parts:
        return "..."
    if isinstance(default, tuple):
        return f"({', '.join(map(quoted, parts))})"
    return quoted(default)


def _rank(owner: str) -> int:
    """Standard library, torch, other rooms, this one."""
    room = 3 if owner.startswith(".") else 2
    return {"typing": 0, "collections.abc": 0, "torch": 1, "torch.optim.optimizer": 1}.get(
        owner, room
    )


def _owners(names: set[str]) -> dict[str, set[str]]:
    """Where names come from."""
    homes = {
        **dict.fromkeys(("Any", "Literal"), "typing"),
        **dict.fromkeys(("Callable", "Sequence", "Mapping"), "collections.abc"),
        **dict.fromkeys(("Tensor", "dtype"), "torch"),
        "ParamsT": "torch.optim.optimizer",
    }
    found: dict[str, set[str]] = {}
    for name in names - {"int", "float", "str", "bool", "tuple", "list", "dict"}:
        owner = homes.get(name) or next(o for o in OWNERS if name in vars(sys.modules[o]))
        found.setdefault(owner.replace("gradtx.optim", ""), set()).add(name)
    return found


def stubs() -> dict[Path, str]:
    """All stubs by file."""
    return {
        OPTIM / f"{module.rpartition('.')[2]}.pyi": render(module, classes)
        for module, classes in declared().items()
    }


if __name__ == "__main__":
    for path, text in stubs().items():
        path.write_text(text)
