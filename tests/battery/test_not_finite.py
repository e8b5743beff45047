"""NaN in, NaN out: what is not a number is never taken for one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.testing.gradients import leaf_of, with_bad

from .helpers import grads_, run


@pytest.mark.parametrize("make", [gx.adagrad, gx.lion, gx.signum, gx.sm3, gx.rprop, gx.adamw])
def test_nan_stays(make: Any) -> None:
    """No later step moves the entry by a number, where the moments have seen a NaN."""

    def once(step: int) -> Any:
        return with_bad(step, "w", math.nan) if step == 1 else grads_(step)

    outs, _ = run(make(0.1), grads=once)
    later = leaf_of(outs[3], "w").reshape(-1)[1]
    assert later.isnan() or make is gx.rprop  # its state is as long as one step


def test_nan_of_one_leaf_is_in_the_distance_of_prodigy() -> None:
    """What all leaves share is NaN for all."""
    for make in (gx.prodigy, gx.prodigy_adv, gx.prodigy_lion_adv):
        outs, _ = run(make(slice_p=1), grads=lambda step: with_bad(step, "b", math.nan))
        assert leaf_of(outs[3], "w").isnan().all()


@pytest.mark.parametrize("tx", [gx.orthogonalize("svd"), gx.orthogonalize()], ids=repr)
def test_decompositions_give_nan(tx: gx.GradientTransformation) -> None:
    bad, good = torch.randn(4, 3), torch.randn(4, 3)
    want = tx.update([good], tx.init([good]))[0][0]
    for value in (torch.nan, torch.inf):
        bad[1, 2] = value
        out = tx.update([bad, good], tx.init([bad, good]))[0]
        assert out[0].isnan().all()
        torch.testing.assert_close(out[1], want)


@pytest.mark.parametrize("make", [gx.scale_by_yogi, gx.scale_by_adam, gx.scale_by_rms])
def test_squares_that_overflow_give_no_steps(make: Any) -> None:
    def huge(step: int) -> Any:
        return gx.tree.map(lambda g: 1e20 * g, grads_(step))

    outs, _ = run(make(), grads=huge)
    assert all(x.eq(0).all() for x in gx.tree.leaves(outs))
