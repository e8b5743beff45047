"""Chains in two parts, and what the first of them reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.core.pointwise import begins_with_parameters, elementwise, reads_parameters
from gradtx.optim.cutting import apart, cuts, together
from gradtx.optim.leaves import Leaves, to_nested


def test_a_partition_is_cut_within() -> None:
    tx = gx.muon(0.1, weight_decay=0.1)
    *_, (head, rest) = list(cuts(tx))[:2]
    assert list(rest["partition"].inner["matrix"].inner) == [  # type: ignore[index]
        "add_decayed_weights",
        "scale_by_learning_rate",
    ]
    params = Leaves({"w": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))})
    grads = Leaves({"w": torch.ones(5, 3)})
    want, new = tx.update(grads, tx.init(params), params)
    between, first = head.update(grads, head.init(params), params)
    got, _ = rest.update(between, rest.init(params), params)
    assert torch.equal(got["w"], want["w"])
    assert reads_parameters(head, "w", (5, 3), torch.float32) is None
    assert reads_parameters(head, "w", (5, 3), torch.bfloat16) is None
    assert elementwise(rest, "w", (5, 3), (3, 3), torch.float32, rest=True) is None
    whole = to_nested(new, "w")
    assert set(whole["partition"]["matrix"]) == {"ema"}
    assert apart(whole, rest) == (whole, {})
    assert to_nested(first, "w")["partition"]["matrix"].keys() == {"ema"}


def test_states_come_apart_and_together() -> None:
    tx = gx.chain(gx.trace(0.9), gx.normalize_by_block_rms(), gx.ema(0.5), gx.scale(-1.0))
    _, (_, rest), *_ = cuts(tx)
    params = Leaves({"w": torch.ones(3)})
    nested = {"off": {"x": torch.ones(1)}, **to_nested(tx.init(params), "w")}
    first, last = apart(nested, rest)
    assert set(first) == {"off", "trace"}
    assert set(last) == {"ema"}
    assert together(first, last) == nested
    assert apart({"trace": {}}, rest) == ({"trace": {}}, {})


@dataclasses.dataclass(frozen=True)
class keeps_start(gx.LeafTransform):
    def init_leaf(self, p: torch.Tensor, info: Any) -> Any:
        return (p,)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> tuple[Any, Any]:
        return u, s


@pytest.mark.parametrize(
    ("tx", "reads"),
    [
        (gx.chain(gx.scale_by_adam(), gx.normalize_by_block_rms()), False),
        (gx.chain(gx.add_decayed_weights(0.1), gx.normalize_by_block_rms()), True),
        (gx.chain(gx.scale_by_adam(), gx.scale_by_trust_ratio()), True),
        (gx.chain(keeps_start()), True),
    ],
)
def test_reading_parameters_is_seen(tx: gx.GradientTransformation, reads: bool) -> None:
    assert (reads_parameters(tx, "w", (6, 4), torch.float32) is not None) == reads


def test_what_states_begin_with_is_seen() -> None:
    for tx, reads in ((gx.lamb(0.1), False), (gx.prodigy(), True), (keeps_start(), True)):
        assert (begins_with_parameters(tx, "w", (6, 4), torch.float32) is not None) == reads


def test_a_rest_that_needs_the_gradients_is_none() -> None:
    masked, plain = gx.grams(), gx.scale(-1.0)
    for tx, wanted in ((masked, False), (plain, True)):
        why = elementwise(gx.chain(tx), "w", (6, 4), (3, 4), torch.float32, rest=True)
        assert (why is None) == wanted, why


def test_chains_of_one_operator_stay_whole() -> None:
    assert not list(cuts(gx.microadam(0.1)))
    assert list(cuts(gx.soap(0.1)))
