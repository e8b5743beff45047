"""What members prove of a recipe, so that it need not be shown again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from gradtx import recipes
from gradtx.core.hyper import dynamic_fields
from gradtx.core.protocol import GradientTransformation, members
from gradtx.testing.members import holds_transform
from tests.rows import Row

# A chain of members of which these hold, or a wrapper that keeps them, has them too. What depends
# on values (whether numbers stay finite), on how a recipe makes its members, on what is fused with
# what, or on names that reach nothing is checked of every recipe.
OF_MEMBERS = (
    *("inputs_untouched", "deterministic", "state_is_a_fixed_point", "state_owns_its_memory"),
    *("parameters_that_require_grad", "resume", "dtypes", "containers", "inference_mode"),
    *("missing_gradient", "absent_leaf", "all_gradients_missing", "no_leaves"),
    *("zero_d_and_empty_leaves", "non_contiguous", "nan_in_nan_out", "functional"),
    *("override_by_member", "override_per_leaf", "override_per_entry", "constructor_takes_tensors"),
    *("override_of_any_numeric_type", "schedule", "intervals", "options", "bad_input"),
)


def kind(member: GradientTransformation) -> Any:
    """A member but for numbers, functions of the user, seeds and what it holds."""
    if not dataclasses.is_dataclass(member):
        return repr(member)
    dynamic = dynamic_fields(member)
    values = {f.name: getattr(member, f.name) for f in dataclasses.fields(member)}
    return type(member).__name__, *(
        (name, callable(value) if name in dynamic else _form(value))
        for name, value in values.items()
        if not holds_transform(value) and name != "seed"
    )


def _form(value: Any) -> Any:
    """What of an option decides which code runs."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value).__name__, *((k, _form(v)) for k, v in parts.items() if k != "seed")
    if callable(value):
        return "function"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value > 0
    return repr(value)


def proved_by_others(rows: Iterable[Row]) -> set[str]:
    """The ids of recipes each of whose members is in a row that is checked in full."""
    rows = list(rows)
    proved: set[Any] = set()
    found = set()
    for row in sorted(rows, key=lambda row: row.name in recipes.__all__):
        kinds = {kind(member) for _, member in members(row.make())}
        if row.name in recipes.__all__ and kinds <= proved:
            found.add(row.id)
        proved |= kinds
    return found
