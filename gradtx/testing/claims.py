"""What a property says of a transform, as claims that hold or raise ``AssertionError``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from .trees import bits, structure, tensors


def require(holds: Any, otherwise: str) -> None:
    """Raise unless something holds.

    Raises:
        AssertionError: with the words of ``otherwise``.
    """
    if not holds:
        raise AssertionError(otherwise)


def require_same(found: Any, wanted: Any, what: str) -> None:
    """Raise unless two trees have the same structure, dtypes, shapes and bits."""
    require_same_structure(found, wanted, what)
    for x, y in zip(tree.leaves(found), tree.leaves(wanted), strict=True):
        kinds = (x.dtype, tuple(x.shape)), (y.dtype, tuple(y.shape))
        require(kinds[0] == kinds[1], f"{what}: a leaf is {kinds[0]}, not {kinds[1]}")
        if not torch.equal(bits(x), bits(y)):
            raise AssertionError(f"{what}: other numbers, by {_distance(x, y)}")


def require_close(
    found: Any, wanted: Any, what: str, rtol: float = 2e-6, atol: float = 1e-6
) -> None:
    """Raise unless two trees have the same structure and dtypes and nearly the same numbers."""
    require_same_structure(found, wanted, what)
    for x, y in zip(tree.leaves(found), tree.leaves(wanted), strict=True):
        torch.testing.assert_close(
            x, y, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )


def require_same_structure(found: Any, wanted: Any, what: str) -> None:
    """Raise unless two trees have the same structure."""
    a, b = structure(found), structure(wanted)
    if a != b:  # printing trees takes longer than comparing them
        raise AssertionError(f"{what}: the tree is {a}, not {b}")


def require_finite(trees: Any, what: str) -> None:
    """Raise unless all numbers of trees are finite."""
    for x in tensors(trees):
        if not torch.isfinite(x).all():
            raise AssertionError(f"{what}: not finite, {_first_bad(x)}")


@contextmanager
def refusal(
    kinds: type[Exception] | tuple[type[Exception], ...], pattern: str, of: str
) -> Iterator[list[str]]:
    """What stands inside must raise an error of a kind, whose text a pattern is found in.

    Args:
        kinds: the kinds of errors.
        pattern: a regular expression.
        of: what is to be refused, for the message.

    Yields:
        a list that the text is put into.
    """
    text: list[str] = []
    try:
        yield text
    except kinds as error:
        text.append(str(error))
    require(text, f"{of} is not refused")
    said = re.search(pattern, text[0])
    require(said, f"{of} is refused with other words: {text[0]}")


class Snapshot:
    """Remembers trees and raises if something touched them, or the global generator."""

    def __init__(self, *trees: Any) -> None:
        self.trees = trees
        self.copies = [tree.map(torch.clone, t) for t in trees]
        self.versions = [[x._version for x in tensors(t)] for t in trees]
        self.rng = torch.random.get_rng_state()

    def check(self) -> None:
        """Raise if something is not as it was."""
        for now, copy, versions in zip(self.trees, self.copies, self.versions, strict=True):
            require_same(now, copy, "an input was changed")
            written = [x._version for x in tensors(now)] != versions
            require(not written, "an input was written to")
        moved = not torch.equal(self.rng, torch.random.get_rng_state())
        require(not moved, "the global generator moved")


def _distance(x: Tensor, y: Tensor) -> str:
    return f"{(x - y).abs().double().nan_to_num(torch.inf).max().item():.3g} at most"


def _first_bad(x: Tensor) -> str:
    bad = x[~torch.isfinite(x)] if x.ndim else x.reshape(1)
    return f"{bad[0].item()} in a tensor of shape {tuple(x.shape)}"
