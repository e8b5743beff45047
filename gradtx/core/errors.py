"""The errors that gradtx raises for leaves and trees."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch


class UnsupportedLeafError(RuntimeError):
    """A leaf has a type, dtype or layout that the named transform cannot take."""


class TreeMismatchError(ValueError):
    """Two trees that must have the same structure or shapes do not."""


def shape_mismatch(
    who: str, path: str, what: str, got: Sequence[int], other: str, want: Sequence[int]
) -> TreeMismatchError:
    """Build the error for two shapes that differ at one leaf."""
    return TreeMismatchError(
        f"{who}: leaf {path!r}: {what} has shape {tuple(got)}, {other} has shape {tuple(want)}"
    )


def some(names: Iterable[Any]) -> str:
    """The first of names, for a message.

    >>> from gradtx.core.errors import some
    >>> some("abcdef"), some([])
    ("'a', 'b', 'c', 'd' and others", 'nothing')
    """
    first = list(map(repr, names))
    return (", ".join(first[:4]) or "nothing") + (" and others" if first[4:] else "")


def with_article(name: str) -> str:
    """``"an int"``."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def described(value: Any) -> str:
    """What was given by mistake, and what to write instead where that can be told.

    >>> import gradtx as gx
    >>> from gradtx.core.errors import described
    >>> described(gx.trace), described([1])
    ('the class trace; call it: trace(...)', 'a list')
    """
    name = type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}; call it: {value.__name__}(...)"
    if inspect.isfunction(value):
        return f"the function {value.__name__}; call it: {value.__name__}(...)"
    if isinstance(value, torch.nn.Module):
        return f"the module {name}; write dict(model.named_parameters())"
    if isinstance(value, torch.optim.Optimizer):
        return f"the torch optimizer {name}; chains are made of transforms, such as gx.adamw(1e-3)"
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return (
            f"the torch scheduler {name}; it sets the lr of an optimizer, StepLR(opt, ...); "
            "schedules of a chain are in gx.schedules"
        )
    if isinstance(value, Iterator):
        return f"a {name}, which can be gone through once; write dict(model.named_parameters())"
    if isinstance(value, Mapping):
        return f"a {name}"
    return with_article(name)
