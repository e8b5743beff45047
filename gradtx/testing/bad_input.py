"""Wrong trees, shapes and leaves raise an error that says where, and change nothing."""

from __future__ import annotations

import re
from typing import Any

import torch

from ..core.errors import TreeMismatchError, UnsupportedLeafError
from ..core.protocol import GradientTransformation, members
from .claims import Snapshot, refusal, require
from .subject import Subject, holds_for_all
from .trees import call, filled, number, some_grads, some_params, tensors

Kinds = type[Exception] | tuple[type[Exception], ...]


def any_name(tx: GradientTransformation) -> str:
    """The names of the transform and of everything in it: an error must say one of them."""
    return "^(" + "|".join(re.escape(m.name) for _, m in members(tx)) + "): "


def refuse(s: Subject, what: str, grads: Any, error: Kinds, *words: str) -> None:
    """Raise unless an update with such gradients is refused with such words."""
    params, state = some_params(), s.state_after(1)
    strided = [g for g in tensors(grads) if g.layout == torch.strided]
    before = Snapshot(params, state, strided)
    with refusal(error, any_name(s.tx), what) as text:
        call(s.tx, grads, state, params)
    before.check()
    missing = [word for word in words if word not in text[0]]
    require(not missing, f"{what}: the error does not say {missing}: {text[0]}")
    require("tensor(" not in text[0], f"{what}: the error prints values: {text[0]}")


@holds_for_all
def mismatched_tree_is_an_error(s: Subject) -> None:
    """A leaf too few, one too many, a leaf for a node, a node for a leaf."""
    grads = some_grads(0)
    wrong = {
        "w": {k: v for k, v in grads.items() if k != "w"},
        "new": grads | {"new": filled((1,))},
        "deep": grads | {"deep": number(1.0)},
        "w ": grads | {"w": {"x": grads["w"]}},
    }
    for name, bad in wrong.items():
        what = f"a tree that differs at {name.strip()!r}"
        refuse(s, what, bad, TreeMismatchError, repr(name.strip()))


@holds_for_all
def mismatched_shape_is_an_error(s: Subject) -> None:
    """Shapes that would broadcast, shapes that would not, and shapes of the same size."""
    for shape in ((1, 2), (4, 2), (2, 3), (6,)):
        grads = some_grads(0) | {"w": filled(shape)}
        what = f"a gradient of shape {shape}"
        refuse(s, what, grads, TreeMismatchError, "'w'", str(shape), "(3, 2)")


@holds_for_all
def no_silent_broadcasting(s: Subject) -> None:
    """Without parameters to compare with: an error, or nothing that depends on the old shape."""
    state = s.state_after(1)
    for shape in ((1, 2), (3, 1), (1, 1), (3, 2, 1)):
        try:
            out, new = call(s.tx, some_grads(0) | {"w": filled(shape)}, state, None)
        except (ValueError, RuntimeError):
            continue
        require(out["w"].shape == shape, f"{shape} became {tuple(out['w'].shape)}")
        kept = [x.shape for x in tensors(new)] == [x.shape for x in tensors(state)]
        require(kept, f"a gradient of shape {shape} changed shapes of the state")


@holds_for_all
def sparse_gradient_is_an_error(s: Subject) -> None:
    """A sparse tensor is refused, with the leaf's name."""
    grads = some_grads(0) | {"w": filled((3, 2)).to_sparse()}
    refuse(s, "a sparse gradient", grads, UnsupportedLeafError, "'w'", "sparse")


@holds_for_all
def complex_gradient_is_an_error(s: Subject) -> None:
    """A complex tensor is refused, with the leaf's name."""
    grads = some_grads(0) | {"w": filled((3, 2), dtype=torch.complex64)}
    refuse(s, "a complex gradient", grads, UnsupportedLeafError, "'w'", "complex")


@holds_for_all
def integer_gradient_is_an_error(s: Subject) -> None:
    """Integers, truth values and Python numbers are refused, with the leaf's name."""
    for dtype in (torch.int32, torch.bool):
        grads = some_grads(0) | {"w": filled((3, 2), 1, dtype)}
        refuse(s, f"a gradient of {dtype}", grads, UnsupportedLeafError, "'w'", str(dtype))
    refuse(s, "a number as a gradient", some_grads(0) | {"w": 1.0}, TypeError, "'w'", "float")


@holds_for_all
def unsupported_parameter_is_an_error(s: Subject) -> None:
    """Sparse, complex and integer parameters and strings are refused by init."""
    for what, bad in {
        "a sparse parameter": filled((3, 2)).to_sparse(),
        "a complex parameter": filled((3, 2), dtype=torch.complex64),
        "an integer parameter": filled((3, 2), 1, torch.int64),
        "a string as a parameter": "a string",
    }.items():
        with refusal((UnsupportedLeafError, TypeError), any_name(s.tx), what) as text:
            s.tx.init(some_params() | {"w": bad})
        require("'w'" in text[0], f"{what}: the error does not say 'w': {text[0]}")


@holds_for_all
def missing_parameters(s: Subject) -> None:
    """Without parameters a transform works, or says that it needs them."""
    grads, state = some_grads(0), s.state_after(1)
    needs = any(getattr(m, "requires_params", False) for _, m in members(s.tx))
    words = any_name(s.tx) + "needs the parameters"
    before = Snapshot(state, grads)
    try:
        out, _ = call(s.tx, grads, state, None)
    except ValueError as error:
        require(re.match(words, str(error)), f"without parameters the error is {error}")
    else:
        require(not needs, "it declares that it needs the parameters, and works without them")
        require(len(tensors(out)) == 3, "without parameters there are no updates")
    before.check()


@holds_for_all
def state_of_another_tree_is_an_error(s: Subject) -> None:
    """A state that was made for other parameters is refused."""
    state = s.tx.init({"other": filled((2,))})
    if tensors(state):
        with refusal(TreeMismatchError, any_name(s.tx), "the state of another tree"):
            call(s.tx, some_grads(0), state, some_params())
