"""Hints for executors: what may be declared, what is inherited, what is refused."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import pytest

import gradtx as gx
from gradtx.core.execution import holds
from gradtx.core.roles import roles


def test_a_class_inherits_what_it_does_not_name() -> None:
    class careful(gx.LeafTransform):
        execution: ClassVar[gx.Execution] = gx.Execution(cannot_raise=True)

    assert holds(careful(), "cannot_raise")
    assert holds(careful(), "leaves_independent")

    class reckless(careful):
        execution: ClassVar[gx.Execution] = gx.Execution(cannot_raise=False)

    assert not holds(reckless(), "cannot_raise")
    assert holds(reckless(), "leaves_independent")


def test_a_hint_may_depend_on_options() -> None:
    assert holds(gx.orthogonalize(), "cannot_raise")
    assert not holds(gx.orthogonalize("svd"), "cannot_raise")


def test_what_is_no_hint_raises_when_the_class_is_defined() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'can_not_raise'"):

        class misspelt(gx.LeafTransform):
            execution: ClassVar[gx.Execution] = gx.Execution(can_not_raise=True)

    with pytest.raises(TypeError, match="cannot_raise must be True, False or a function"):

        class mistyped(gx.LeafTransform):
            execution: ClassVar[gx.Execution] = gx.Execution(cannot_raise="yes")

    with pytest.raises(TypeError, match="matrix_view must be a function of the transform"):

        class no_function(gx.LeafTransform):
            execution: ClassVar[gx.Execution] = gx.Execution(matrix_view=True)

    with pytest.raises(TypeError, match="next_shared must be NextShared"):

        class no_contract(gx.LeafTransform):
            execution: ClassVar[gx.Execution] = gx.Execution(next_shared=True)

    with pytest.raises(TypeError, match="events must be Events"):

        class no_events(gx.LeafTransform):
            execution: ClassVar[gx.Execution] = gx.Execution(events=3)

    with pytest.raises(TypeError, match="loose: execution must be an Execution"):

        class loose(gx.LeafTransform):
            execution = ("cannot_raise", True)

    with pytest.raises(TypeError, match=r"former: per_leaf is now a hint, execution = Execution"):

        class former(gx.GradientTransformation):
            per_leaf = True


def test_states_with_annotations_that_only_type_checkers_read_have_no_roles() -> None:
    class State(NamedTuple):
        mu: NotImportedAtRunTime  # type: ignore[name-defined]  # noqa: F821

    assert roles(State(1)) == {}
