"""What is not finite does not come back from a codec as a number."""

from __future__ import annotations

import pytest
import torch

from gradtx import codecs
from gradtx.codecs import Codec

CODECS = [
    codecs.dense(),
    codecs.dense(torch.bfloat16),
    codecs.rank1(),
    codecs.rank1(signs=False),
    codecs.blockwise(8, 16, min_size=0),
    codecs.blockwise(4, 16, min_size=0),
    codecs.affine(8, block_size=16),
    codecs.affine(4, block_size=16),
    codecs.affine_rows(),
    codecs.symmetric(8, block_size=16),
    codecs.dynamic8(16, min_size=0),
]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_what_is_not_finite_stays(codec: Codec, signed: bool, bad: float) -> None:
    if bad < 0 and not signed:
        pytest.skip("no value of such a state")
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.square()
    x[2, 3] = bad
    enc = codec.encode(x, codec.init(torch.zeros(6, 20), signed=signed))
    assert not codec.decode(enc, like=x)[2, 3].isfinite()
    again = codec.decode(codec.encode(codec.decode(enc, like=x), enc), like=x)
    assert not again[2, 3].isfinite()
