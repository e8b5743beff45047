"""Hyperparameters of the wrong value, type or name are refused, and nothing is changed."""

from __future__ import annotations

import re
from typing import Any

from ..core.hyper import is_per_entry
from .claims import Snapshot, refusal
from .members import replaced, with_value
from .subject import Subject, holds_for_all
from .trees import call, filled, run, some_grads, some_params


def fresh(s: Subject) -> tuple[Any, Any, Snapshot]:
    """Parameters, a state that init made, and what watches both."""
    params = some_params()
    state = s.tx.init(params)
    return params, state, Snapshot(params, state)


@holds_for_all
def override_of_what_nothing_has(s: Subject) -> None:
    """A misspelt name is refused and the right one named."""
    params, state, before = fresh(s)
    for d in s.dynamics:
        misspelt = d.key + d.key[-1]
        # No name is like one of a single letter: there the list of all names has it.
        named = "did you mean" if len(d.key) > 1 else re.escape(repr(d.key))
        words = re.escape(repr(misspelt)) + ".*" + named
        with refusal(ValueError, words, f"hyper {misspelt!r}"):
            call(s.tx, some_grads(0), state, params, hyper={misspelt: d.value})
    with refusal(ValueError, "'nothing_like_it'", "hyper 'nothing_like_it'"):
        call(s.tx, some_grads(0), state, params, hyper={"nothing_like_it": 1.0})
    before.check()


@holds_for_all
def value_outside_its_interval(s: Subject) -> None:
    """Values outside the interval are refused by constructor and override."""
    params, state, before = fresh(s)
    for d in s.dynamics:
        for bad in d.outside():
            with refusal(ValueError, d.label, f"{d.key}={bad} in the constructor"):
                replaced(d.member, **{d.name: bad})
            with refusal(ValueError, d.label, f"{d.key}={bad} as an override"):
                call(s.tx, some_grads(0), state, params, hyper={d.key: bad})
            before.check()


@holds_for_all
def leaf_value_outside_its_interval(s: Subject) -> None:
    """Values outside the interval are refused in a tree of overrides."""
    params, state, before = fresh(s)
    for d in s.dynamics:
        for bad in d.outside():
            values = {"b": bad, "deep": {"s": bad}, "w": bad}
            with refusal(ValueError, d.label, f"{d.key}={bad} of a leaf"):
                call(s.tx, some_grads(0), state, params, hyper={d.key: values})
    before.check()


@holds_for_all
def value_of_another_type(s: Subject) -> None:
    """Strings, None, truth values and lists are refused by the constructor."""
    for d in s.dynamics:
        for bad in ("0.5", None, True, [0.5]):
            with refusal(TypeError, d.label, f"{d.key}={bad!r} in the constructor"):
                replaced(d.member, **{d.name: bad})


@holds_for_all
def value_of_another_shape(s: Subject) -> None:
    """Tensors that fit no leaf are refused by constructor and override."""
    params, state, before = fresh(s)
    for d in s.dynamics:
        bad = filled((5,), d.other_value())
        with refusal(ValueError, d.label, f"a tensor of five as {d.key}"):
            made = with_value(s.tx, [d.member], d.name, bad)
            if is_per_entry(d.member, d.name):  # which shapes fit is known with the leaves
                run(made, steps=1)
        with refusal(ValueError, d.label, f"a tensor of five as an override of {d.key}"):
            call(s.tx, some_grads(0), state, params, hyper={d.key: bad})
    before.check()


@holds_for_all
def override_of_another_type(s: Subject) -> None:
    """Strings and truth values are refused as overrides."""
    params, state, before = fresh(s)
    for d in s.dynamics:
        with refusal((TypeError, ValueError), d.member.name, f"{d.key}='0.5' as an override"):
            call(s.tx, some_grads(0), state, params, hyper={d.key: "0.5"})
        with refusal(TypeError, d.label, f"{d.key}=True as an override"):
            call(s.tx, some_grads(0), state, params, hyper={d.key: True})
    before.check()
