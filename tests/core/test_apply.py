from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given

import gradtx as gx

from .strategies import like, same, seeds, trees


@given(trees(), seeds)
def test_adds(params: Any, seed: int) -> None:
    updates = like(params, seed)
    assert same(gx.apply_updates(params, updates), gx.tree.map(torch.add, params, updates))


def test_half_precision_rounds_once() -> None:
    """1 + 2^-9 + 2^-9 is 1 + 2^-8 in float32; adding twice in bf16 would stay at 1."""
    p = {"w": torch.ones(1, dtype=torch.bfloat16)}
    out = gx.apply_updates(p, {"w": torch.tensor([1.5 * 2.0**-8])})
    want = torch.tensor([1 + 1.5 * 2.0**-8]).to(torch.bfloat16)
    assert out["w"].dtype == torch.bfloat16
    assert torch.equal(out["w"], want)
    rounded_first = p["w"] + torch.tensor([1.5 * 2.0**-8]).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    p = {"w": torch.randn(1000, generator=generator).to(torch.bfloat16)}
    u = {"w": torch.randn(1000, generator=generator) * 0.01}
    out = gx.apply_updates(p, u)["w"]
    exact = p["w"].double() + u["w"].double()
    assert torch.equal(out, exact.to(torch.bfloat16))
    assert not torch.equal(out, p["w"] + u["w"].to(torch.bfloat16))
    assert rounded_first.dtype == torch.bfloat16


def test_none_leaves_the_parameter() -> None:
    w = torch.ones(1)
    out = gx.apply_updates({"w": w, "b": torch.ones(1)}, {"w": None, "b": torch.ones(1)})
    assert out["w"] is w
    assert out["b"].item() == 2.0


def test_structured_updates() -> None:
    u = gx.SparseUpdate(torch.tensor([1]), torch.tensor([3.0]), (2,))
    assert gx.apply_updates({"w": torch.ones(2)}, {"w": u})["w"].tolist() == [1.0, 4.0]


def test_errors() -> None:
    params = {"a": {"w": torch.ones(2, 3)}}
    with pytest.raises(
        gx.TreeMismatchError,
        match=r"apply_updates: leaf 'a\.w': update has shape \(1, 3\), parameter has .*\(2, 3\)",
    ):
        gx.apply_updates(params, {"a": {"w": torch.ones(1, 3)}})
    with pytest.raises(gx.TreeMismatchError, match=r"apply_updates: .*'v'"):
        gx.apply_updates(params, {"a": {"v": torch.ones(2, 3)}})
    with pytest.raises(gx.TreeMismatchError, match="apply_updates: "):
        gx.apply_updates(params, {"a": {"w": {"x": torch.ones(2, 3)}}})
    assert torch.equal(params["a"]["w"], torch.ones(2, 3))
