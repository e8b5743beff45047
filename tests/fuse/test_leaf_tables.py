"""Whole chains by tables of addresses: the bits of the operators on lists, wherever leaves lie."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
import gradtx_cuda
from gradtx.ops.tables import Entry, LeafTable

from .helpers import assert_same, copy, tensors

pytestmark = pytest.mark.skipif(not gradtx_cuda.status().active, reason=gradtx_cuda.status().reason)
SHAPES: dict[str, tuple[int, ...]] = {
    **{"scalar": (), "empty": (0,), "odd": (1031,), "square": (24, 24), "w": (200, 300)},
    **{f"many{i}": (i + 1,) for i in range(20)},
}
CHAINS: dict[str, Callable[..., gx.GradientTransformation]] = {
    "microadam": lambda **options: gx.microadam(0.1, window=3, **options),
    "sparse_mfac": lambda **options: gx.sparse_mfac(0.1, window=3, damping=0.1, **options),
}
chains = pytest.mark.parametrize("name", CHAINS)


def assert_equal(a: Any, b: Any) -> None:
    assert_same(a, b, rtol=0, atol=0)


def by_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let steps that are bound from now on call the operators."""
    monkeypatch.setattr(Entry, "is_there", False)


class Pair:
    """The same steps by a table and by the operators on lists."""

    def __init__(
        self, tx: gx.GradientTransformation, monkeypatch: pytest.MonkeyPatch, **options: Any
    ) -> None:
        self._monkeypatch, self._dtype = monkeypatch, options.get("dtype", torch.float32)
        self.steps = gx.fuse(tx), gx.fuse(tx)
        self.params = [tensors(SHAPES, 0, self._dtype) for _ in range(2)]
        self.states = [tx.init(p) for p in self.params]
        self._count = 0

    def step(self, change: Callable[[dict[str, Tensor]], Any] = lambda grads: None) -> None:
        """One step of both, which must give the same bits."""
        self._count += 1
        for k, step in enumerate(self.steps):
            grads = tensors(SHAPES, self._count, self._dtype)
            change(grads)
            with self._monkeypatch.context() as patch:
                if k == 1:
                    by_lists(patch)
                self.params[k], self.states[k] = step(self.params[k], grads, self.states[k])
            assert step.report() == "everything is fused"
        assert_equal(self.params[0], self.params[1])
        assert_equal(self.states[0], self.states[1])


@chains
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1, "density": 0.2, "block_size": 128}, {"nonfinite": "skip"}],
    ids=["default", "small blocks", "skip"],
)
def test_the_bits_of_the_operators(name, dtype, options, monkeypatch):
    if name == "sparse_mfac" and options.get("nonfinite") == "skip":
        options = {"momentum": 0.9, "nonfinite": "ignore", "dtype": torch.bfloat16}
    pair = Pair(CHAINS[name](**options), monkeypatch, dtype=dtype)
    for _ in range(5):
        pair.step()
    pair.step(lambda grads: grads.update(w=None))
    pair.step()


@chains
def test_a_table_is_used_on_the_cpu(name, monkeypatch):
    calls = []
    call = Entry.__call__
    monkeypatch.setattr(Entry, "__call__", lambda *args: (calls.append(args), call(*args))[1])
    params = tensors(SHAPES, 0)
    step, state = gx.fuse(CHAINS[name]()), CHAINS[name]().init(params)
    step(params, tensors(SHAPES, 1), state)
    assert len(calls) == {"microadam": 1, "sparse_mfac": 2}[name]


def moved(x: Tensor) -> None:
    """Let a tensor lie elsewhere, and spoil where it was."""
    old = x.data
    x.data = old.clone()
    old.fill_(77)


CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "a parameter elsewhere": lambda params, state: moved(params["w"]),
    "all parameters elsewhere": lambda params, state: gx.tree.map(moved, params),
    "all states elsewhere": lambda params, state: gx.tree.map(moved, state),
    "other parameters": lambda params, state: params.update(copy(params)),
    "a parameter resized": lambda params, state: params["many19"].untyped_storage().resize_(4000),
    "its storage replaced": lambda params, state: params["w"].set_(params["w"].clone()),
    "all states changed in place": lambda params, state: gx.tree.map(halved, state),
}


def halved(x: Tensor) -> None:
    """Another number of the same sort: codes, ranges, counts, positions and entries."""
    if x.is_floating_point():
        x.mul_(0.5)
    elif x.dtype == torch.uint8:
        x.bitwise_xor_(17)


@chains
@pytest.mark.parametrize("change", CHANGES)
def test_leaves_that_change_between_steps(name, change, monkeypatch):
    pair = Pair(CHAINS[name](), monkeypatch)
    for _ in range(3):
        pair.step()
        for params, state in zip(pair.params, pair.states, strict=True):
            CHANGES[change](params, state)
        pair.step()


@chains
def test_a_leaf_that_is_turned_in_place(name):
    tx = CHAINS[name]()
    params = tensors({"square": (24, 24)}, 0)
    step, state = gx.fuse(tx), tx.init(params)
    pure, pure_state = copy(params), copy(state)
    for t in range(1, 7):
        grads = tensors({"square": (24, 24)}, t)
        if t == 3:
            params["square"].t_()  # its address stays
            pure["square"] = pure["square"].t().contiguous()
        if t == 5:
            params["square"].t_()
            pure["square"] = pure["square"].t().contiguous()
        updates, pure_state = tx.update(grads, pure_state, pure)
        pure = gx.apply_updates(pure, updates)
        params, state = step(params, grads, state)
        assert_same((params, state), (pure, pure_state))


@chains
def test_gradients_of_every_form(name, monkeypatch):
    pair = Pair(CHAINS[name](), monkeypatch)
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda g: g,
        lambda g: g.t().contiguous().t(),
        lambda g: torch._neg_view(-g),
        lambda g: torch.stack([g, g], -1)[..., 0],
        lambda g: g.clone().requires_grad_(),
        lambda g: torch._efficientzerotensor(tuple(g.shape)),
    ]
    for form in forms:
        pair.step(lambda grads, form=form: grads.update(w=form(grads["w"])))


@chains
def test_signs_and_rows_that_change(name):
    cls = {"microadam": gx.optim.MicroAdam, "sparse_mfac": gx.optim.SparseMFAC}[name]
    options: dict[str, Any] = {"lr": 0.1, "window": 3}
    if name == "sparse_mfac":
        options["damping"] = 0.1
    sets = [[p.requires_grad_() for p in tensors(SHAPES, 0).values()] for _ in range(2)]
    optimizers = [
        cls([{"params": ps[:9]}, {"params": ps[9:], "weight_decay": 0.1}], fused=fused, **options)
        for ps, fused in zip(sets, (True, False), strict=True)
    ]
    for t in range(1, 9):
        for ps, opt in zip(sets, optimizers, strict=True):
            opt.param_groups[t % 2]["maximize"] = t > 3
            opt.param_groups[1]["lr"] = 0.1 / t
            for p, g in zip(ps, tensors(SHAPES, t).values(), strict=True):
                p.grad = g
            opt.step()
    assert_same(sets[0], sets[1])


@chains
def test_what_is_replaced_is_let_go(name):
    tx = CHAINS[name]()
    params = tensors(SHAPES, 0)
    step, state = gx.fuse(tx), tx.init(params)
    params, state = step(params, tensors(SHAPES, 1), state)
    seen = [weakref.ref(x) for x in gx.tree.leaves((params, state))]
    params, state = copy((params, state))
    params, state = step(params, tensors(SHAPES, 2), state)
    gc.collect()
    assert not any(ref() is not None for ref in seen)
    seen = [weakref.ref(x) for x in gx.tree.leaves((params, state))]
    del params, state, step
    gc.collect()
    assert not any(ref() is not None for ref in seen)


@chains
def test_an_error_inside_is_said(name):
    tx = CHAINS[name]()
    params = tensors({"w": (500,)}, 0)
    step, state = gx.fuse(tx), tx.init(params)
    params, state = step(params, tensors({"w": (500,)}, 1), state)
    before = copy(params)
    for x in gx.tree.leaves(state):
        if x.dtype == torch.int32 and x.ndim == 0:
            x.fill_(-1)
    with pytest.raises((RuntimeError, ValueError), match="step is negative"):
        step(params, tensors({"w": (500,)}, 2), state)
    assert_equal(params, before)


def test_numbers_of_a_table_may_be_the_same_list():
    table, rows = LeafTable(("a", "b"), a=[1, 2]), [3, 4]
    for _ in range(2):
        table.put("b", rows)
        assert table.records.tolist() == [[1, rows[0]], [2, rows[1]]]
        rows[0] = 9
