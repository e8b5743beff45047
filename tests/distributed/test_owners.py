"""Records, owners and moves, without processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

import gradtx as gx
from gradtx.distributed.buckets import buckets_of
from gradtx.distributed.owners import assign_owners, imbalance
from gradtx.distributed.records import Box, Record
from gradtx.optim.costs import cost_of
from gradtx.optim.declared_layouts import Declared
from gradtx.optim.layouts import whole_leaves


def test_of_equal_boxes_the_first_rank_sends() -> None:
    boxes = (Box((0, 0), (2, 3)), Box((2, 0), (1, 3)), Box((0, 0), (2, 3)), Box((3, 0), (0, 3)))
    record = Record("w", (3, 3), torch.float32, boxes)
    assert record.senders == (0, 1)
    assert record.is_covered
    assert not record._replace(shape=(4, 3)).is_covered


def test_a_leaf_may_lie_with_one_rank() -> None:
    whole, nothing = Box((0, 0), (1, 3)), Box((1, 0), (0, 3))
    record = Record("w", (1, 3), torch.float32, (nothing, whole, nothing))
    assert record.holder == 1
    assert record._replace(boxes=(whole, whole)).holder is None


def test_a_box_is_a_view() -> None:
    x = torch.zeros(4, 3, dtype=torch.float32, device="cpu")
    Box((1, 1), (2, 2)).of(x).fill_(1.0)
    assert x.sum() == 4
    assert x[1:3, 1:].sum() == 4
    assert Box((4, 0), (0, 3)).of(x).shape == (0, 3)


def test_owners_do_not_depend_on_order() -> None:
    costs = {"a": 5, "b": 5, "c": 3, "d": 8}
    turned = dict(reversed(costs.items()))
    assert assign_owners(costs, 2) == assign_owners(turned, 2)
    assert list(assign_owners(costs, 2)) == list(costs)


def test_a_llama_of_1b_is_balanced_over_8_ranks() -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(16):
        for name, shape in {
            "q": (2048, 2048),
            "k": (512, 2048),
            "v": (512, 2048),
            "o": (2048, 2048),
            "gate": (8192, 2048),
            "up": (8192, 2048),
            "down": (2048, 8192),
        }.items():
            shapes[f"layers.{i}.{name}"] = shape
    shapes |= {f"layers.{i}.norm": (2048,) for i in range(16)} | {"embed": (128256, 2048)}
    named = {n: nn.Parameter(torch.empty(s, device="meta")) for n, s in shapes.items()}
    matrices = [(n, p) for n, p in named.items() if p.ndim > 1 and n != "embed"]
    others = [(n, p) for n, p in named.items() if p.ndim < 2 or n == "embed"]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "matrix": False}]
    opt: Any = gx.optim.Muon(groups)
    names: dict[torch.Tensor, str] = {p: n for n, p in named.items()}
    layout = whole_leaves("Muon", list(opt._buckets()), names)
    for n, p in matrices:
        short, long = sorted(p.shape)
        assert layout.owned[p] == 20 * short * long + 5 * short**2 * (2 * long + short), n
    costs = {names[p]: cost for p, cost in layout.owned.items()}
    owners = layout.owners(names, 8)
    assert imbalance(costs, {names[p]: r for p, r in owners.items() if r is not None}, 8) <= 1.1
    # In buckets, of which the next one waits for the last rank to be done with one.
    alone = {n: costs[n] for n, _ in matrices}
    buckets = buckets_of({n: 4 * p.numel() for n, p in matrices}, 8 * Declared().bucket_bytes)
    assert len(buckets) > 4
    found = assign_owners(alone, 8, buckets)
    assert imbalance(alone, found, 8) <= 1.1
    slowest = [max(_loads({n: alone[n] for n in some}, found)) for some in buckets]
    assert sum(slowest) * 8 / sum(alone.values()) <= 1.1


def _loads(costs: dict[str, int], owners: dict[str, int]) -> list[int]:
    return [sum(c for n, c in costs.items() if owners[n] == rank) for rank in range(8)]


def test_costs_follow_the_shapes_of_matrices() -> None:
    def cost(tx: gx.GradientTransformation, *shape: int) -> int:
        return cost_of(tx, "w", shape, torch.float32) - 20 * math.prod(shape)

    muon = gx.muon(0.1, ns_steps=3)
    assert cost(muon, 8, 4) == cost(muon, 4, 8) == 3 * 4**2 * (2 * 8 + 4)
    assert cost(gx.muon(0.1, convolutions="batch"), 6, 8, 4) == 6 * 5 * 4**2 * (2 * 8 + 4)
    assert cost(gx.muon(0.1), 4, 2, 4) == 5 * 4**2 * (2 * 8 + 4)  # as a matrix of 4 x 8
    assert cost(gx.muon(0.1, num_heads=2), 8, 4) == 2 * 5 * 4**2 * (2 * 4 + 4)
    assert cost(muon, 8) == cost(gx.adam(0.1), 8, 4) == 0
    assert cost(gx.soap(0.1), 64, 64) > 64**3
    assert cost(gx.momo(0.1), 8, 4) == 0
    assert cost(gx.adahessian(0.1), 8, 4) == 0


def test_owners_are_chosen_bucket_by_bucket_and_loads_are_carried_on() -> None:
    costs = {"a": 4, "b": 3, "c": 3, "d": 2}
    assert assign_owners(costs, 2, [["a", "d"], ["b", "c"]]) == {"a": 0, "d": 1, "b": 1, "c": 0}
    assert assign_owners(costs, 2, [list(costs)]) == assign_owners(costs, 2)


def test_leaves_that_belong_together_share_a_bucket_whatever_they_take() -> None:
    sizes = dict.fromkeys("abcdef", 2)
    assert buckets_of(sizes, 4) == [["f", "e"], ["d", "c"], ["b", "a"]]
    assert buckets_of(sizes, 1) == [[one] for one in "fedcba"]
    assert buckets_of(sizes, 12) == [list("fedcba")]
    found = buckets_of(sizes, 4, [["a", "c", "e"]])
    assert found == [["f"], ["a", "c", "e"], ["d", "b"]]
