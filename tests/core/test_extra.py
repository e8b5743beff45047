"""Extra arguments of ``update``: the loss, and trees like the updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import gradtx as gx

UPDATES = {"b": torch.tensor([1.0, 2.0]), "w": torch.full((2, 2), 3.0)}
HESSIAN = {"b": torch.tensor([2.0, 4.0]), "w": torch.full((2, 2), 6.0)}


@dataclass(frozen=True)
class newton(gx.LeafTransform):
    """Divides by a diagonal of the Hessian, and multiplies by the loss."""

    needs_value: ClassVar[bool] = True
    needs_extra: ClassVar[tuple[str, ...]] = ("hessian",)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return h.value * u / h.hessian, s


@dataclass(frozen=True)
class newton_tree(gx.TreeTransform):
    """The same for all leaves at once."""

    needs_value: ClassVar[bool] = True
    needs_extra: ClassVar[tuple[str, ...]] = ("hessian",)

    def update_tree(self, us: Any, leaves: Any, shared: Any, ps: Any, h: Any, reduce: Any) -> Any:
        return [h.value * u / d for u, d in zip(us, h.hessian, strict=True)], leaves, shared


def is_matrix(info: gx.LeafInfo) -> bool:
    return info.ndim == 2


def label(info: gx.LeafInfo) -> str:
    return "matrix" if info.ndim == 2 else "other"


def dense(tx: Any) -> Any:
    return gx.chain(gx.densify(), tx)


def one() -> Any:
    return gx.stateless(lambda u, p: gx.tree.map(lambda x: x + 1, u))


WRAPPERS = {
    "apply_if_finite": gx.apply_if_finite,
    "apply_if_leaf_finite": gx.apply_if_leaf_finite,
    "as_gradients": gx.as_gradients,
    "as_matrices": lambda tx: gx.as_matrices(tx),
    "chain": gx.chain,
    "conditionally": lambda tx: gx.conditionally_transform(tx, lambda count: count >= 0),
    "error_feedback": lambda tx: gx.error_feedback(
        gx.compressors.top_k(density=1.0), inner=dense(tx)
    ),
    "flatten": gx.flatten,
    "lookahead": gx.lookahead,
    "masked": lambda tx: gx.masked(tx, is_matrix),
    "multi_steps": gx.multi_steps,
    "parallel": gx.parallel,
    "quotient": lambda tx: gx.quotient(tx, gx.chain(gx.scale(0.0), one())),
    "skip_large_updates": lambda tx: gx.skip_large_updates(tx, 100.0),
    "split_rows": lambda tx: gx.split_rows(tx, blocks=2),
    "partition": lambda tx: gx.partition({"matrix": tx, "other": tx}, by=label),
}


@pytest.mark.parametrize("kind", [newton, newton_tree])
@pytest.mark.parametrize("name", WRAPPERS)
def test_trees_are_those_of_the_updates(name: str, kind: Any) -> None:
    tx = WRAPPERS[name](kind())
    value = torch.tensor(10.0)
    out, _ = tx.update(UPDATES, tx.init(UPDATES), UPDATES, value=value, hessian=HESSIAN)
    assert out["w"].tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert out["b"].tolist() == ([1.0, 2.0] if name == "masked" else [5.0, 5.0])


def test_trees_are_restricted_like_the_updates() -> None:
    seen = []

    def spy(updates: Any, state: Any, params: Any, **extra: Any) -> Any:
        seen.append(extra)
        return updates, state

    inner = gx.transformation(lambda params: (), spy)
    tx = gx.masked(inner, {"b": False, "w": True})
    extra = {"hessian": HESSIAN, "other": {"b": 1.0, "w": 2.0}, "value": torch.tensor(1.0)}
    tx.update(UPDATES, tx.init(UPDATES), UPDATES, **extra)
    assert seen[0]["hessian"] == {"b": None, "w": HESSIAN["w"]}
    assert seen[0]["other"] is extra["other"]
    assert seen[0]["value"] is extra["value"]


@pytest.mark.parametrize("kind", [newton, newton_tree])
@pytest.mark.parametrize("missing", ["value", "hessian"])
def test_what_is_needed_must_be_given(kind: Any, missing: str) -> None:
    extra = {"value": torch.tensor(1.0), "hessian": HESSIAN}
    del extra[missing]
    with pytest.raises(ValueError, match=f"{kind.__name__}: needs {missing}"):
        kind().update(UPDATES, (), **extra)


def test_value_reaches_a_fused_step() -> None:
    @dataclass(frozen=True)
    class by_value(gx.LeafTransform):
        needs_value: ClassVar[bool] = True

        def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
            return u * h.value, s

    params = {"w": torch.zeros(3)}
    step = gx.fuse(gx.chain(by_value(), gx.scale(-1.0)))
    step(params, {"w": torch.ones(3)}, step.transform.init(params), value=torch.tensor(2.0))
    assert params["w"].tolist() == [-2.0, -2.0, -2.0]


@pytest.mark.parametrize("kind", [newton, newton_tree])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"hessian": {"b": HESSIAN["b"], "w": HESSIAN["b"]}}, r"leaf 'w'.*\(2, 2\).*hessian"),
        ({"hessian": {"b": HESSIAN["b"], "w": None}}, "leaf 'w' has an update, but no hessian"),
        ({"hessian": HESSIAN["b"]}, "the hessian tree does not match"),
        ({"value": torch.ones(2)}, "value must be a number or a 0-d tensor"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Any, bad: Any, message: str) -> None:
    extra = {"value": torch.tensor(1.0), "hessian": HESSIAN, **bad}
    with pytest.raises(ValueError, match=message):
        kind().update(UPDATES, (), **extra)


@pytest.mark.parametrize("inner", [newton, gx.scale_by_sophia])
@pytest.mark.parametrize("wrap", [gx.in_basis, lambda tx: gx.in_subspace(gx.subspace.svd(1), tx)])
def test_other_coordinates_have_no_tree(inner: Any, wrap: Any) -> None:
    tx = wrap(inner())
    updates, hessian = {"w": UPDATES["w"]}, {"w": HESSIAN["w"]}
    with pytest.raises(ValueError, match=rf"{tx.name}: {inner.__name__} takes hessian, which has"):
        tx.update(updates, tx.init(updates), value=torch.tensor(1.0), hessian=hessian)


def test_a_fused_step_takes_trees_too() -> None:
    """As torch operations: kernels have no place for them."""
    params = {"b": torch.zeros(2), "w": torch.zeros(2, 2)}
    step = gx.fuse(gx.chain(newton(), gx.scale(-1.0)))
    step(params, UPDATES, step.transform.init(params), value=torch.tensor(10.0), hessian=HESSIAN)
    assert params["w"].tolist() == [[-5.0, -5.0], [-5.0, -5.0]]
    assert "'hessian' is no 0-d tensor" in step.report()
