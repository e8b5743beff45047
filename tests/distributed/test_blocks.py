"""Which parts of a leaf are whole blocks of its codec, and that codecs keep their promise."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx
from gradtx.codecs import Codec
from gradtx.core.tree import leaves
from gradtx.fuse import Rows
from gradtx.optim.blocks import blocks_of


def rows(*bounds: int, width: int = 6) -> Rows:
    leaf = torch.empty(bounds[-1] // width, width, dtype=torch.float32, device="meta")
    return Rows(leaf, bounds, own=0)


def kept(codec: Codec) -> gx.Chain:
    return gx.chain(gx.scale_by_adam(mu_codec=codec, nu_codec=codec))


@pytest.mark.parametrize(
    "codec",
    [
        gx.codecs.blockwise(8, 6, min_size=0),
        gx.codecs.blockwise(4, 6, min_size=0),
        gx.codecs.dynamic8(6, min_size=0),
        gx.codecs.affine(4, 6),
        gx.codecs.symmetric(8, 6),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_blocks_are_kept_each_by_itself(codec: Codec, signed: bool) -> None:
    found = codec.of_blocks(36)
    assert found is not None
    size, own = found
    assert size == 6
    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.square()
    whole = leaves(codec.encode(x, codec.init(x, signed)))
    parts = [leaves(own.encode(part, own.init(part, signed))) for part in x.split([2, 1, 3])]
    for tensor, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(tensor, torch.cat(pieces))


def test_blocks_fit_equal_parts_of_whole_blocks() -> None:
    codec = gx.codecs.blockwise(8, 6, min_size=24)
    found = blocks_of(kept(codec), rows(0, 18, 36))
    assert found is not None
    assert found.own == kept(gx.codecs.blockwise(8, 6, min_size=0))
    assert found.dense == gx.chain(gx.scale_by_adam())
    assert blocks_of(kept(codec), rows(0, 24, 36)) is None  # another rank has less
    assert blocks_of(kept(codec), rows(0, 6, 12)) is None  # stays dense
    assert blocks_of(kept(gx.codecs.blockwise(8, 12, min_size=0)), rows(0, 18, 36)) is None
    assert blocks_of(kept(gx.codecs.blockwise(4, 3, min_size=0)), rows(0, 18, 36)) is None
    assert blocks_of(gx.chain(gx.scale_by_adam()), rows(0, 18, 36)) is None
    noisy = gx.chain(gx.trace(0.9, codec=gx.codecs.affine(4, 6, rounding="stochastic")))
    assert blocks_of(noisy, rows(0, 18, 36)) is None
