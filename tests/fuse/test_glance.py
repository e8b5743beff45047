"""Seeing how tensors lie: any change of form is noticed, in C and in Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gradtx.fuse import CannotFuseError
from gradtx.fuse.runtime import glance
from gradtx.fuse.runtime.glance import Glance


@pytest.fixture(params=["C", "Python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "_FEW", 0)
    if request.param == "Python":
        monkeypatch.setattr(glance, "_seer", lambda: None)
    else:
        assert glance._seer() is not None


def test_few_tensors_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert Glance(some())._see is None


def some() -> list[Tensor]:
    kinds = (torch.float32, torch.bfloat16, torch.int32, torch.uint8, torch.bool)
    return [torch.zeros(2, 3, 3), torch.zeros(()), *(torch.zeros(4, 4, dtype=d) for d in kinds)]


def swap(x: Tensor, data: Tensor) -> None:
    x.data = data


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "turned": lambda x: x.t_(),
    "turned data": lambda x: swap(x, x.t()),
    "shorter": lambda x: x.resize_(3, 4),
    "flat": lambda x: swap(x, x.view(-1)),
    "more dimensions": lambda x: swap(x, x.view(2, 2, 4)),
    "other dtype": lambda x: swap(x, x.view(torch.int32)),
    "other kind of float": lambda x: swap(x, x.view(torch.float16)[:, ::2]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_form_at_the_same_address_is_seen(change: Callable[[Tensor], object]) -> None:
    tensors = some()
    seen = Glance(tensors)
    at = seen.at(tensors)
    assert at is not None
    assert at.tolist() == [x.data_ptr() for x in tensors] == seen.addresses.tolist()
    change(tensors[2])
    assert np.array_equal(Glance(tensors).addresses, seen.addresses)
    assert seen.at(tensors) is None


def test_another_place_is_the_same_form() -> None:
    tensors = some()
    seen = Glance(tensors)
    tensors[2] = torch.ones(8, 4)[4:]
    at = seen.at(tensors)
    assert at is not None
    assert at.tolist() == [x.data_ptr() for x in tensors] != seen.addresses.tolist()


def test_tensors_without_memory_are_refused() -> None:
    tensors = some()
    seen = Glance(tensors)

    def look(x: Tensor) -> Tensor:
        for read in (seen.at, Glance):
            with pytest.raises(CannotFuseError, match="has no memory"):
                read([*tensors[:2], x, *tensors[3:]])
        return x

    look(torch.zeros(4, 4).to_sparse())
    torch.func.vmap(look)(torch.zeros(2, 4, 4))
    assert seen.at(tensors) is not None
