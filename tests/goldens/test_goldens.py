"""Every golden whose system is known: pure, fused, inside backward, and leaves in reverse order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from .golden import find
from .replay import replay, stepper_for, trajectory
from .steppers import MODES
from .systems import is_known

FOLDER = Path(os.environ.get("GRADTX_GOLDENS", Path(__file__).parents[3] / "shared" / "goldens"))
GOLDENS = [golden for golden in find([FOLDER]) if is_known(golden)] if FOLDER.is_dir() else []
TRAJECTORIES = [golden for golden in GOLDENS if golden.is_trajectory]
UNITS = [golden for golden in GOLDENS if not golden.is_trajectory]

pytestmark = pytest.mark.skipif(
    not GOLDENS, reason=f"no goldens in {FOLDER}; GRADTX_GOLDENS may name another folder"
)


def name(value):
    return getattr(value, "name", None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("golden", TRAJECTORIES, ids=name)
def test_trajectory(golden, mode):
    result = replay(golden, mode)
    if result is None:
        pytest.skip(f"{golden.name} cannot run {mode}: it is no constant chain alone")
    assert result.passed, result


@pytest.mark.parametrize("golden", UNITS, ids=name)
def test_units(golden):
    result = replay(golden)
    assert result.passed, result


# Blocks of leaves are batches of products, which round by their place in the batch; and a norm of
# all leaves is a sum over them, whose rounding a choice of singular vectors turns into more of it.
SUMS = {"distributed_shampoo": 1, "lordo": 10}
BY_ORDER = {"sparse_mfac/block_topk": "blocks of the flat vector reach from one leaf into the next"}


@pytest.mark.parametrize("golden", TRAJECTORIES, ids=name)
def test_the_order_of_leaves_changes_nothing(golden):
    """Bit for bit; only what is summed over leaves may round in another way."""
    runs = [trajectory(golden, stepper_for(golden), reverse) for reverse in (False, True)]
    if name(golden) in BY_ORDER:
        pytest.skip(BY_ORDER[name(golden)])
    sums = SUMS.get(golden.system, any(key.endswith("/_global") for key in golden.arrays))
    for (_, there, *_), (_, back, *_) in zip(*runs, strict=True):
        for leaf, p in there.items():
            torch.testing.assert_close(
                back[leaf], p, rtol=1e-6 * sums, atol=1e-7 * sums, equal_nan=True
            )
