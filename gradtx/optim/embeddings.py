"""Embeddings and heads among the matrices of an optimizer that orthogonalises matrices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAMES = ("embed", "wte", "wpe", "lm_head")


def warn_of_embeddings(who: str, groups: Sequence[Mapping[str, Any]]) -> None:
    """Warn where groups that say nothing of matrices hold what looks like embeddings or heads.

    Frameworks make two groups, with and without weight decay, of which the first holds both.

    Args:
        who: the class.
        groups: its parameter groups.
    """
    if any("kind" in group or not group["matrix"] for group in groups):
        return
    found = [name for group in groups for name in _likely(group, len(groups) > 1)]
    if found:
        warnings.warn(
            f"{who}: {', '.join(found[:3])}{' and others' if len(found) > 3 else ''} look like "
            "embeddings or heads, which should not be treated as other matrices; make groups with "
            "gx.matrix_groups(model), or give theirs matrix=False",
            stacklevel=4,
        )


def _likely(group: Mapping[str, Any], several: bool) -> Iterator[str]:
    names = group.get("param_names")
    for i, p in enumerate(group["params"]):
        if p.ndim != 2:
            continue
        if names is not None:
            if any(part in names[i].lower() for part in _NAMES):
                yield repr(names[i])
        elif several and p.shape[0] > 4 * p.shape[1] > 4:
            yield f"a matrix of shape {tuple(p.shape)}"
