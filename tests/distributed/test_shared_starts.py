"""What leaves share begins alike in all processes, of which each has some of the leaves."""

from __future__ import annotations

import torch

from gradtx.core import tree
from gradtx.core.execution import holds
from gradtx.core.protocol import members
from gradtx.core.transform import TreeTransform
from tests.table import ROWS


def test_nothing_is_summed_over_leaves_before_there_is_a_reduce() -> None:
    seen = set()
    for row in ROWS:
        for _, member in members(row.make()):
            if not isinstance(member, TreeTransform) or not member.is_stateful:
                continue
            if not holds(member, "reduces") or member in seen:
                continue
            seen.add(member)
            some, more = torch.full((3, 2), 2.0), torch.full((4,), 3.0)
            starts = [member.init({"a": some}), member.init({"a": 2 * some, "b": more})]
            leaves = [tree.leaves(state.shared) for state in starts]
            for one, other in zip(*leaves, strict=True):
                assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)), member
    assert len(seen) > 5
