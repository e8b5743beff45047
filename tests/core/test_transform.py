"""The base classes, and transforms from functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

import gradtx as gx


class CountState(NamedTuple):
    step: torch.Tensor
    last: torch.Tensor


@dataclass(frozen=True)
class remember(gx.LeafTransform):
    def init_leaf(self, p: Any, info: gx.LeafInfo) -> CountState:
        return CountState(torch.zeros((), dtype=torch.int32), torch.zeros_like(p))

    def update_leaf(self, u: Any, s: CountState, p: Any, h: Any) -> Any:
        return s.last + u * 0, CountState(s.step + 1, u)


@dataclass(frozen=True)
class center(gx.TreeTransform):
    weight: gx.Hyper = gx.dynamic(1.0, within="[0, 1]")

    def init_tree(self, ps: Any, infos: Any) -> Any:
        self_names = torch.tensor(len(infos), dtype=torch.int32)
        return [CountState(torch.zeros((), dtype=torch.int32), p * 0) for p in ps], self_names

    def update_tree(self, us: Any, leaves: Any, shared: Any, ps: Any, h: Any, reduce: Any) -> Any:
        total = reduce.sum(sum(u.sum() for u in us))
        new = [CountState(s.step + 1, u) for s, u in zip(leaves, us, strict=True)]
        return [u - h.weight * total for u in us], new, shared


@dataclass(frozen=True)
class towards_gradient(gx.LeafTransform):
    requires_params: ClassVar[bool] = True
    needs_grad: ClassVar[bool] = True

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u + p + 10 * h.grad, s


def test_leaves_advance_by_themselves() -> None:
    tx, params = remember(), {"a": torch.zeros(1), "b": torch.zeros(1)}
    state = tx.init(params)
    _, state = tx.update({"a": torch.ones(1), "b": None}, state)
    out, state = tx.update({"a": torch.ones(1), "b": torch.ones(1)}, state)
    assert (state["a"].step.item(), state["b"].step.item()) == (2, 1)
    assert (out["a"].item(), out["b"].item()) == (1.0, 0.0)


def test_a_leaf_without_state_cannot_be_updated() -> None:
    tx = remember()
    state = tx.init({"a": torch.zeros(1), "b": None})
    with pytest.raises(gx.TreeMismatchError, match="remember: leaf 'b' has an update but no state"):
        tx.update({"a": None, "b": torch.ones(1)}, state)


def test_tree_transform() -> None:
    tx, params = center(), {"a": torch.zeros(1), "b": torch.zeros(1), "c": None}
    state = tx.init(params)
    assert state.shared.item() == 2
    out, state = tx.update({"a": torch.ones(1), "b": torch.full((1,), 2.0), "c": None}, state)
    assert (out["a"].item(), out["b"].item(), out["c"]) == (-2.0, -1.0, None)
    out, state = tx.update({"a": None, "b": torch.ones(1), "c": None}, state, hyper={"weight": 0.5})
    assert out["b"].item() == 0.5
    assert (state.leaves["a"].step.item(), state.leaves["b"].step.item()) == (1, 2)


@dataclass(frozen=True)
class divide_by_largest(gx.TreeTransform):
    guarded: bool = False

    def update_tree(
        self, us: Any, leaves: Any, shared: Any, ps: Any, h: Any, reduce: Any
    ) -> tuple[list[Any], Any, Any]:
        largest = [u.abs().max() if u.numel() or not self.guarded else u.new_zeros(()) for u in us]
        total = reduce.max(torch.stack(largest).max())
        return [u / total for u in us], leaves, shared


def test_a_maximum_of_no_entries_names_the_leaf() -> None:
    updates = {"w": torch.tensor([2.0, -4.0]), "empty": torch.ones(0, 3)}
    with pytest.raises(ValueError, match=r"largest: leaf 'empty' has no entries.*max\(\)"):
        divide_by_largest().update(updates, ())
    out, _ = divide_by_largest(guarded=True).update(updates, ())
    assert torch.equal(out["w"], torch.tensor([0.5, -1.0]))
    with pytest.raises(RuntimeError, match="must match"):  # an error of its own stays as it is
        odd_sizes().update(updates, ())


@dataclass(frozen=True)
class odd_sizes(gx.TreeTransform):
    def update_tree(
        self, us: Any, leaves: Any, shared: Any, ps: Any, h: Any, reduce: Any
    ) -> tuple[list[Any], Any, Any]:
        return [torch.ones(2) + torch.ones(5) for u in us], leaves, shared


def test_reduce_is_asked() -> None:
    class Doubling:
        def sum(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    tx, params = center(), {"a": torch.zeros(1)}
    out, _ = tx.update({"a": torch.ones(1)}, tx.init(params), reduce=Doubling())
    assert out["a"].item() == -1.0


def test_what_a_leaf_receives() -> None:
    tx = gx.chain(gx.scale(0.0), towards_gradient())
    params = {"w": torch.full((1,), 3.0, dtype=torch.bfloat16)}
    out, _ = tx.update({"w": torch.ones(1, dtype=torch.bfloat16)}, tx.init(params), params)
    assert out["w"].dtype == torch.float32
    assert out["w"].item() == 13.0


def test_needs() -> None:
    grads = {"w": torch.ones(1)}
    with pytest.raises(ValueError, match="towards_gradient: needs the parameters"):
        towards_gradient().update(grads, ())
    with pytest.raises(ValueError, match=r"towards_gradient: needs the gradients.*gx\.chain"):
        towards_gradient().update(grads, (), grads)


def test_unknown_values_say_so() -> None:
    @dataclass(frozen=True)
    class wrong(gx.LeafTransform):
        def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
            return u * h.speed, s

    with pytest.raises(AttributeError, match="no dynamic hyperparameter is called 'speed'"):
        wrong().update({"w": torch.ones(1)}, ())


def test_undefined_methods_say_so() -> None:
    with pytest.raises(NotImplementedError, match="GradientTransformation: init is not defined"):
        gx.GradientTransformation().init({})
    with pytest.raises(NotImplementedError, match="LeafTransform: update_leaf is not defined"):
        gx.LeafTransform().update({"w": torch.ones(1)}, ())
    with pytest.raises(NotImplementedError, match="TreeTransform: update_tree is not defined"):
        gx.TreeTransform().update({"w": torch.ones(1)}, ())


def test_transforms_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        gx.scale(1.0).step_size = 2.0  # type: ignore[misc]


def test_repr_shows_what_differs() -> None:
    assert repr(gx.scale_by_adam()) == "scale_by_adam()"
    assert repr(gx.scale_by_adam(b1=0.5, nesterov=True)) == "scale_by_adam(b1=0.5, nesterov=True)"
    assert repr(gx.trace(torch.tensor(0.5))) == "trace(decay=tensor(0.5000))"


def test_transformation_from_functions() -> None:
    seen = {}

    def update(updates: Any, state: Any, params: Any, **extra: Any) -> Any:
        seen.update(extra)
        return updates, state + 1

    tx = gx.transformation(lambda params: 0, update, label="counter")
    assert tx.name == "counter"
    _, state = gx.chain(tx).update({"w": torch.ones(1)}, {"counter": 0}, value=3.0)
    assert state == {"counter": 1}
    assert seen["value"] == 3.0
    assert "grads" in seen


def test_stateless_gets_params() -> None:
    tx = gx.stateless(lambda u, p: gx.tree.map(torch.add, u, p))
    params = {"w": torch.ones(1)}
    assert tx.init(params) == ()
    assert tx.update(params, (), params)[0]["w"].item() == 2.0
