"""States as plain dicts, through the files that torch writes and reads by default."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import checkpoint as dcp

import gradtx as gx
from gradtx.testing.resume import through_a_file
from tests.table import ROWS, Row

from .helpers import params_, run, same_bits


@pytest.mark.parametrize("some", ROWS[::25], ids=lambda row: row.id)
def test_state_in_a_distributed_checkpoint(some: Row, tmp_path: Path) -> None:
    tx, params = some.make(), params_()
    _, state = run(tx, params, steps=2)
    like = tx.init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no process group": that is meant here
        dcp.save({"state": gx.tree.to_dict(state)}, checkpoint_id=tmp_path, no_dist=True)
        loaded = {"state": gx.tree.to_dict(gx.tree.map(torch.clone, like))}
        dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    assert same_bits(gx.tree.from_dict(like, loaded["state"]), state)


def test_all_that_does_not_fit_is_named() -> None:
    like = gx.adam().init({"w": torch.zeros(2), "b": [torch.zeros(1), None]})
    plain = gx.tree.to_dict(like)
    leaf = plain["scale_by_adam"]["w"]
    leaf["mu"], leaf["step"], leaf["old"] = torch.zeros(3), leaf["step"].float(), torch.zeros(1)
    del plain["scale_by_adam"]["b"]["0"]["nu"]
    with pytest.raises(gx.TreeMismatchError) as error:
        gx.tree.from_dict(like, plain)
    for part in (
        "scale_by_adam.w.mu is torch.float32 of shape (3,), needed is torch.float32 of shape (2,)",
        "scale_by_adam.w.step is torch.float32 of shape (), needed is torch.int32 of shape ()",
        "scale_by_adam.w.old is unknown",
        "scale_by_adam.b.0.nu is missing",
    ):
        assert part in str(error.value)
    with pytest.raises(gx.TreeMismatchError, match=r"scale_by_adam\.w is .*, needed is a dict"):
        gx.tree.from_dict(like, {"scale_by_adam": {"w": torch.zeros(2), "b": plain}})


def test_what_is_neither_tensor_nor_number_is_named() -> None:
    with pytest.raises(TypeError, match=r"a\.1 is a function \(.*<lambda>\)"):
        gx.tree.to_dict({"a": [1, lambda x: x]})
    with pytest.raises(ValueError, match="read alike"):
        gx.tree.to_dict({1: torch.zeros(1), "1": torch.zeros(1)})
    with pytest.raises(TypeError, match="lone Tensor"):
        gx.tree.to_dict(torch.zeros(1))


def test_numbers_and_memory() -> None:
    state = {"n": np.float32(0.5), "x": torch.ones(2, requires_grad=True) * 2, "n2": None, "e": ()}
    plain = gx.tree.to_dict(state)
    assert type(plain["n"]) is float
    assert set(plain) == {"n", "x"}
    assert not plain["x"].requires_grad
    loaded = gx.tree.from_dict(state, through_a_file(plain))
    assert (loaded["n2"], loaded["e"], loaded["n"]) == (None, (), 0.5)
    loaded = gx.tree.from_dict(state, plain)
    loaded["x"].zero_()
    assert plain["x"].tolist() == [2, 2]
