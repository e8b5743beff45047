"""Functions of the user's that are asked about a leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import described
from .leaves import LeafInfo

_HOW = "is called with the LeafInfo of one leaf (info.name, info.shape, info.ndim, info.dtype)"


def ask(what: str, function: Callable[[LeafInfo], Any], info: LeafInfo) -> Any:
    """What a function says of a leaf.

    Args:
        what: what errors call it, such as ``"masked: mask"``.
        function: of a ``LeafInfo``.
        info: of the leaf.

    Raises:
        TypeError: it was written for something else: a tree of parameters, a tensor, a name; or
            it gives a tree. Says how to write it.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.predicates import ask
    >>> ask("mask", lambda info: info.ndim > 1, gx.LeafInfo.of(torch.zeros(3, 2), "w"))
    True
    """
    try:
        said = function(info)
    except (AttributeError, TypeError) as error:
        if not any(word in str(error) for word in ("LeafInfo", "positional argument")):
            raise
        raise TypeError(
            f"{what} {_HOW}, as in lambda info: info.ndim > 1; of a function of all parameters "
            f"give the tree that it makes: {error}"
        ) from error
    if isinstance(said, (Mapping, list)):
        raise TypeError(
            f"{what} {_HOW} and answers for that leaf alone, got {described(said)}; "
            "of a function of all parameters give the tree that it makes"
        )
    return said


def is_chosen(what: str, function: Callable[[LeafInfo], Any], info: LeafInfo) -> bool:
    """Whether a function chooses a leaf.

    Raises:
        TypeError: as from ``ask``, or it answers by words.
    """
    said = ask(what, function, info)
    if isinstance(said, str):
        raise TypeError(f"{what} must answer True or False, got {said!r}")
    return bool(said)
