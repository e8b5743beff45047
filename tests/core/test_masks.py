"""Masks are values."""

from __future__ import annotations

import pickle

import pytest
import torch

import gradtx as gx


@pytest.mark.parametrize("mask", [gx.masks.matrices, gx.masks.vectors], ids=repr)
def test_a_chain_with_a_named_mask_is_a_value(mask):
    make = lambda: gx.chain(gx.scale_by_adam(), gx.add_decayed_weights(0.1, mask=mask))  # noqa: E731
    again = pickle.loads(pickle.dumps(make()))
    assert again == make()
    assert hash(again) == hash(make())
    assert repr(mask) in repr(make())
    assert "0x" not in repr(make())


def test_every_leaf_has_one_of_both():
    for shape in ((), (3,), (3, 2), (3, 2, 1)):
        info = gx.LeafInfo.of(torch.zeros(shape))
        assert gx.masks.matrices(info) == (len(shape) > 1)
        assert gx.masks.vectors(info) == (len(shape) < 2)
    assert gx.masks.matrices != gx.masks.vectors
