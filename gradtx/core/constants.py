"""Functions whose results are constants where ``torch.compile`` traces them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def constant(function: _F) -> _F:
    """Mark a function as ``torch.compiler.assume_constant_result`` does.

    That decorator imports the whole compiler, which takes as long as the rest of torch.

    Args:
        function: what is marked.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
