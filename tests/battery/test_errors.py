"""Wrong trees, shapes and leaves raise an error that says where, and change nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core.protocol import members
from tests.table import Row

from .helpers import Snapshot, call, grads_, params_, run, tensors


def any_name(tx: gx.GradientTransformation) -> str:
    """The names of the transform and of everything in it: an error must say one of them."""
    return "(" + "|".join(re.escape(m.name) for _, m in members(tx)) + "): "


def refuse(
    tx: gx.GradientTransformation,
    grads: Any,
    error: type[Exception] | tuple[type[Exception], ...],
    *words: str,
) -> None:
    params = params_()
    _, state = run(tx, steps=1)
    strided = [g for g in tensors(grads) if g.layout == torch.strided]
    before = Snapshot(params, state, strided)
    with pytest.raises(error) as caught:
        call(tx, grads, state, params)
    before.check()
    text = str(caught.value)
    assert re.match(any_name(tx), text), text
    for word in words:
        assert word in text, text
    assert "tensor(" not in text, "an error must not print values"


def test_mismatched_tree_is_an_error(row: Row) -> None:
    grads = grads_(0)
    without = {k: v for k, v in grads.items() if k != "w"}
    refuse(row.make(), without, gx.TreeMismatchError, "'w'")
    refuse(row.make(), grads | {"new": torch.ones(1)}, gx.TreeMismatchError, "'new'")
    refuse(row.make(), grads | {"deep": torch.ones(())}, gx.TreeMismatchError, "'deep'")
    refuse(row.make(), grads | {"w": {"x": grads["w"]}}, gx.TreeMismatchError, "'w'")


def test_mismatched_shape_is_an_error(row: Row) -> None:
    """Shapes that would broadcast, shapes that would not, and shapes of the same size."""
    for shape in ((1, 2), (4, 2), (2, 3), (6,)):
        grads = grads_(0) | {"w": torch.ones(shape)}
        refuse(row.make(), grads, gx.TreeMismatchError, "'w'", str(shape), "(3, 2)")


def test_no_silent_broadcasting(row: Row) -> None:
    """Without parameters to compare with: an error, or nothing that depends on the old shape."""
    tx = row.make()
    _, state = run(tx, steps=1)
    for shape in ((1, 2), (3, 1), (1, 1), (3, 2, 1)):
        try:
            out, new = call(tx, grads_(0) | {"w": torch.ones(shape)}, state, None)
        except (ValueError, RuntimeError):
            continue
        assert out["w"].shape == shape
        assert [x.shape for x in tensors(new)] == [x.shape for x in tensors(state)]


def test_sparse_gradient_is_an_error(row: Row) -> None:
    grads = grads_(0) | {"w": torch.ones(3, 2).to_sparse()}
    refuse(row.make(), grads, gx.UnsupportedLeafError, "'w'", "sparse")


def test_complex_gradient_is_an_error(row: Row) -> None:
    grads = grads_(0) | {"w": torch.ones(3, 2, dtype=torch.complex64)}
    refuse(row.make(), grads, gx.UnsupportedLeafError, "'w'", "complex")


def test_integer_gradient_is_an_error(row: Row) -> None:
    for bad in (torch.ones(3, 2, dtype=torch.int32), torch.ones(3, 2, dtype=torch.bool)):
        refuse(row.make(), grads_(0) | {"w": bad}, gx.UnsupportedLeafError, "'w'", str(bad.dtype))
    refuse(row.make(), grads_(0) | {"w": 1.0}, TypeError, "'w'", "float")


def test_unsupported_parameter_is_an_error(row: Row) -> None:
    tx = row.make()
    for bad in (
        torch.ones(3, 2).to_sparse(),
        torch.ones(3, 2, dtype=torch.complex64),
        torch.ones(3, 2, dtype=torch.int64),
        "a string",
    ):
        with pytest.raises((gx.UnsupportedLeafError, TypeError), match=any_name(tx)) as caught:
            tx.init(params_() | {"w": bad})
        assert "'w'" in str(caught.value)


def test_missing_parameters(row: Row) -> None:
    """Without parameters a transform works, or says that it needs them."""
    tx, grads = row.make(), grads_(0)
    _, state = run(tx, steps=1)
    needs = [m for _, m in members(tx) if getattr(m, "requires_params", False)]
    if needs or isinstance(tx, gx.lookahead):
        before = Snapshot(state, grads)
        with pytest.raises(ValueError, match=any_name(tx) + "needs the parameters"):
            call(tx, grads, state, None)
        before.check()
    else:
        out, _ = call(tx, grads, state, None)
        assert len(tensors(out)) == 3


def test_state_of_another_tree_is_an_error(row: Row) -> None:
    tx, params = row.make(), params_()
    state = tx.init({"other": torch.ones(2)})
    if not tensors(state):
        return
    with pytest.raises(gx.TreeMismatchError, match=any_name(tx)):
        call(tx, grads_(0), state, params)
