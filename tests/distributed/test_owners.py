"""Records, owners and moves, without processes."""

from __future__ import annotations

import math

import torch

from gradtx.distributed.buckets import buckets_of
from gradtx.distributed.owners import assign_owners, cost_of, imbalance
from gradtx.distributed.records import Box, Record
from gradtx.optim.declared_layouts import Declared


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
    shapes = {}
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
    matrices = {name: cost_of(shape, matrix=True) for name, shape in shapes.items()}
    assert imbalance(matrices, assign_owners(matrices, 8), 8) <= 1.1
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    buckets = buckets_of(sizes, 8 * Declared().bucket_bytes)
    assert len(buckets) > 4
    assert imbalance(matrices, assign_owners(matrices, 8, buckets), 8) <= 1.1
    # Vectors, and embeddings that are updated whole, too.
    shapes |= {f"layers.{i}.norm": (2048,) for i in range(16)}
    costs = matrices | {n: cost_of(s, matrix=False) for n, s in shapes.items() if len(s) == 1}
    costs |= {"embed": cost_of((128256, 2048), matrix=False)}
    assert imbalance(costs, assign_owners(costs, 8), 8) <= 1.1


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
