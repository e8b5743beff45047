"""Encodings through ``torch.optim``: state dicts are bit-exact and never cast."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradtx as gx
from gradtx.codecs import Codec, blockwise, rank1

CODECS = [rank1(), blockwise(8, min_size=0), blockwise(4, 8, min_size=8), torch.bfloat16]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=repr)
SHAPES = ((6, 5), (7,), ())


def make(codec: Codec | torch.dtype, dtype: torch.dtype) -> tuple[list[nn.Parameter], Any]:
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]
    tx = gx.chain(
        gx.scale_by_adam(mu_codec=codec, nu_codec=codec, amsgrad="raw"),
        gx.scale_by_learning_rate(0.1),
    )
    return params, gx.optim.from_transform(tx, params, lr=0.1)


def steps(params: list[nn.Parameter], optimizer: Any, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


def flat(nested: Any, path: str = "") -> dict[str, Tensor]:
    if not isinstance(nested, dict):
        return {path: nested}
    return {k: v for name, x in nested.items() for k, v in flat(x, f"{path}/{name}").items()}


def assert_same(a: Any, b: Any) -> None:
    for (name, x), (other, y) in zip(flat(a).items(), flat(b).items(), strict=True):
        assert name == other
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@every_codec
@every_dtype
def test_save_and_load_are_exact(codec, dtype):
    params, optimizer = make(codec, dtype)
    steps(params, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert_same(saved["state"], optimizer.state_dict()["state"])

    others, other = make(codec, dtype)
    other.load_state_dict(saved)
    assert_same(other.state_dict()["state"], saved["state"])
    with torch.no_grad():
        for p, q in zip(others, params, strict=True):
            p.copy_(q)
    steps(params, optimizer, range(3, 6))
    steps(others, other, range(3, 6))
    assert_same(other.state_dict()["state"], optimizer.state_dict()["state"])
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


@every_dtype
def test_factors_stay_float32_and_codes_bytes(dtype):
    for codec, kinds in (
        (rank1(), {"row": torch.float32, "col": torch.float32, "sign": torch.uint8}),
        (blockwise(8, min_size=0), {"codes": torch.uint8, "scale": torch.float32}),
    ):
        params, optimizer = make(codec, dtype)
        steps(params, optimizer, range(1))
        optimizer.load_state_dict(optimizer.state_dict())
        moments = optimizer.state[params[0]]["scale_by_adam"]
        assert {name: t.dtype for name, t in moments["mu"].items()} == kinds
        unsigned = {name: dtype for name, dtype in kinds.items() if name != "sign"}
        assert {name: t.dtype for name, t in moments["nu"].items()} == unsigned


def damaged(state_dict: Any, field: str, damage: Any) -> Any:
    broken = copy.deepcopy(state_dict)
    mu = broken["state"][0]["scale_by_adam"]["mu"]
    mu[field] = damage(mu[field])
    return broken


@pytest.mark.parametrize(
    ("codec", "field", "damage", "message"),
    [
        (rank1(), "row", lambda t: t[1:], r"float32 of shape \(5,\), needed is .* \(6,\)"),
        (rank1(), "col", lambda t: t.bfloat16(), r"bfloat16 of shape \(5,\), needed is .*float32"),
        (rank1(), "sign", lambda t: t.float(), r"float32 of shape \(6, 1\), needed is .*uint8"),
        (blockwise(8, min_size=0), "codes", lambda t: t[1:], r"\(29,\), needed is .* \(30,\)"),
        (blockwise(8, min_size=0), "scale", lambda t: t.half(), r"float16 .*, needed is .*float32"),
        (blockwise(8, min_size=0), "scale", lambda t: 1.0, "float, needed is torch.float32"),
    ],
)
def test_an_encoding_that_does_not_fit_is_refused(codec, field, damage, message):
    params, optimizer = make(codec, torch.float32)
    steps(params, optimizer, range(2))
    before = copy.deepcopy(optimizer.state_dict()["state"])
    broken = damaged(optimizer.state_dict(), field, damage)
    with pytest.raises(
        ValueError, match=rf"parameter '0' .*: scale_by_adam\.mu\.{field} is .*{message}"
    ):
        optimizer.load_state_dict(broken)
    assert_same(optimizer.state_dict()["state"], before)


def test_another_codec_is_refused():
    params, optimizer = make(rank1(), torch.float32)
    steps(params, optimizer, range(1))
    _, other = make(blockwise(8, min_size=0), torch.float32)
    with pytest.raises(ValueError, match=r"parameter '0' .* missing \['scale_by_adam\.mu\.codes'"):
        other.load_state_dict(optimizer.state_dict())
    _, other = make(blockwise(4, min_size=0), torch.float32)
    params, optimizer = make(blockwise(8, min_size=0), torch.float32)
    steps(params, optimizer, range(1))
    with pytest.raises(ValueError, match=r"mu\.codes is .* \(30,\), needed is .* \(15,\)"):
        other.load_state_dict(optimizer.state_dict())
