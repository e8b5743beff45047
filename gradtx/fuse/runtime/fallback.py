"""What runs where a chain cannot be fused: torch operations, compiled if asked."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...core import tree
from ...core.apply import apply_updates
from ...core.hyper import Overrides
from ...core.protocol import GradientTransformation
from ...core.tree import PyTree, children

logger = logging.getLogger("gradtx")
FALLBACKS = ("eager", "compile")


class Fallback:
    """A step of a chain as torch operations; it returns new tensors.

    Args:
        tx: the chain.
        how: "eager", or "compile" for ``torch.compile``. What cannot be compiled, or is to be
            differentiated, runs eagerly.

    Raises:
        ValueError: another ``how``.

    >>> import torch, gradtx as gx
    >>> from gradtx.fuse import Fallback
    >>> params, tx = {"w": torch.ones(1)}, gx.scale(-0.5)
    >>> Fallback(tx, "eager")({"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([0.5000])}
    """

    def __init__(self, tx: GradientTransformation, how: str) -> None:
        if how not in FALLBACKS:
            raise ValueError(f"fallback must be one of {FALLBACKS}, got {how!r}")
        self.transform = tx
        self._eager = functools.partial(step_purely, tx)
        self._compiles = how == "compile"
        self._compiled: Callable[..., Any] | None = None

    @property
    def runs(self) -> str:
        """How the chain runs, for the log."""
        return "through torch.compile" if self._compiles else "as torch operations"

    def __call__(
        self,
        grads: PyTree,
        state: PyTree,
        params: PyTree,
        hyper: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[PyTree, PyTree]:
        """New parameters and new state; arguments as those of ``update``, which are not changed.

        Every name in ``hyper`` means something.
        """
        extra = extra or {}
        if not self._compiles or torch.is_grad_enabled():
            return self._eager(grads, state, params, hyper, extra)
        try:
            self._compiled = self._compiled or torch.compile(self._eager)
            out = self._compiled(*map(_plain, (grads, state, params, hyper, extra)))
        except Exception as error:
            # The chain is pure: what is wrong with the arguments, it says itself.
            result = self._eager(grads, state, params, hyper, extra)
            self._compiles, self._compiled = False, None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.info(
                "gradtx: %s runs %s: torch.compile failed: %s",
                *(self.transform.name, self.runs, reason),
            )
            return result
        return _as(params, out[0]), _as(state, out[1])


def step_purely(
    tx: GradientTransformation,
    grads: PyTree,
    state: PyTree,
    params: PyTree,
    hyper: Mapping[str, Any] | None,
    extra: Mapping[str, Any],
) -> tuple[PyTree, PyTree]:
    """New parameters and new state; nothing is changed."""
    known = None if hyper is None else Overrides(hyper)
    updates, state = tx.update(grads, state, params, hyper=known, **extra)
    return apply_updates(params, updates), state


def _plain(node: PyTree) -> PyTree:
    """The tree with plain dicts, which the compiler can see through."""
    inside = children(node)
    if inside is None:
        return node
    values = [_plain(child) for _, child in inside]
    if isinstance(node, Mapping):
        return dict(zip(node, values, strict=True))
    return type(node)(*values) if hasattr(node, "_fields") else type(node)(values)


def _as(old: PyTree, new: PyTree) -> PyTree:
    """A tree of plain dicts in the containers of the tree that it comes from."""
    return tree.flatten(old)[1].unflatten(tree.flatten(new)[0])
