"""A transform is a value: pickle, copy, compare, print; its state saves and loads bit for bit."""

from __future__ import annotations

import copy
import io
import pickle

import torch

import gradtx as gx
from tests.table import Row

from .helpers import STEPS, params_, run, same_bits, structure, tensors


def test_copies_are_equal(row: Row) -> None:
    tx = row.make()
    want = run(tx)
    for twin in (pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx), row.make()):
        assert twin == tx
        assert hash(twin) == hash(tx)
        assert repr(twin) == repr(tx)
        got = run(twin)
        assert same_bits(got[0], want[0])
        assert same_bits(got[1], want[1])


def test_repr_reads_well(row: Row) -> None:
    text = repr(row.make())
    assert " object at 0x" not in text
    assert text.isprintable()
    assert len(text) < 600


def test_state_saves_and_resumes(row: Row) -> None:
    tx = row.make()
    _, middle = run(tx, steps=2)
    file = io.BytesIO()
    torch.save(tensors(middle), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    fresh = tx.init(params_())
    assert structure(fresh) == structure(middle)
    values = iter(loaded)
    state = gx.tree.map(lambda _: next(values), fresh)
    assert same_bits(state, middle)
    resumed, last = run(tx, state=state, start=2)
    whole, want = run(tx)
    assert same_bits(resumed, whole[2:STEPS])
    assert same_bits(last, want)


def test_state_pickles(row: Row) -> None:
    _, state = run(row.make())
    for twin in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert same_bits(twin, state)


def test_map_params_finds_every_leaf(row: Row) -> None:
    """``tree.map_params`` with the identity leaves any state as it is."""
    _, state = run(row.make())
    assert same_bits(gx.tree.map_params(lambda s, p: s, state, params_()), state)
